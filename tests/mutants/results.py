"""What became of the mutants: a JSON line for each, read again by the next run, and the summary."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from tests.mutants.planting import Mutant, meaning
from tests.mutants.table import DATABASES, Subject

HARMLESS = Path(__file__).with_name("harmless.toml")


class Outcome(StrEnum):
    """What a mutant's tests said."""

    CAUGHT = "caught"
    TIMED_OUT = "timed out"
    """Caught too: a loop without end, say."""
    SURVIVED = "survived"


@dataclass(frozen=True)
class Row:
    """One mutant's outcome.

    Args:
        key: names the mutant: a hash of what the mutated module says (`meaning`).
        state: a hash of what the outcome depends on (`States`); a row of another state is not used again.
        module: the path of the module.
        line: where the mutant differs, from 1.
        operator: Cosmic Ray's name of it.
        old: the lines that differ, as they were.
        new: as they are in the mutant.
        outcome: what its tests said.
        by: the first test that failed.
        seconds: how long they took.
    """

    key: str
    state: str
    module: str
    line: int
    operator: str
    old: str
    new: str
    outcome: Outcome
    by: str | None
    seconds: float


@dataclass(frozen=True)
class Harmless:
    """A survivor that no test has to catch.

    Args:
        module: the path of the module.
        old: the lines that differ, as they were, stripped.
        new: as they are in the mutant.
        reason: why it does no harm.
    """

    module: str
    old: str
    new: str
    reason: str


class Results:
    """The rows of a file, each written as soon as it is known; in memory only where there is no file.

    Making one removes the rows of other states from the file: their code or tests have changed since.
    """

    def __init__(self, path: Path | None, states: States) -> None:
        self.path = path
        self.states = states
        self.rows: dict[str, Row] = {}
        if path is None or not path.is_file():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A run that was killed may have left half a line.
        rows = [_from_line(line) for line in lines if line.endswith("\n")]
        self.rows = {row.key: row for row in rows if states.of(row.module, row.outcome, row.by) == row.state}
        if len(self.rows) < len(lines):
            new = path.with_name(f".{path.name}.new")
            new.write_text("".join(map(_as_line, self.rows.values())), encoding="utf-8")
            os.replace(new, path)

    def of(self, mutant: Mutant) -> Row | None:
        """Return what is known of a mutant."""
        return self.rows.get(key_of(mutant))

    def add(self, mutant: Mutant, outcome: Outcome, by: str | None, seconds: float) -> Row:
        """Keep what became of a mutant."""
        state = self.states.of(mutant.module, outcome, by)
        assert state is not None
        fields = (mutant.module, mutant.line, mutant.operator, mutant.old, mutant.new)
        row = Row(key_of(mutant), state, *fields, outcome, by, round(seconds, 1))
        self.rows[row.key] = row
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_as_line(row))
        return row


class States:
    """What the outcomes of mutants depend on, as hashes: an outcome of another state is not used again.

    Args:
        subject: what is mutated.
    """

    def __init__(self, subject: Subject) -> None:
        self._root = subject.root
        self._tests = subject.tests
        self._databases = [name for name in DATABASES if os.environ.get(name)]

    def of(self, module: str, outcome: Outcome, by: str | None) -> str | None:
        """Return the state of an outcome: None for one of a module or a test that is no longer there.

        What a test caught stays caught while the module and that test are as they were: tests that are added meanwhile
        take nothing away. Every other outcome depends on all tests of the module, and on which databases they run on.

        Args:
            module: the path of the module.
            outcome: of one of its mutants.
            by: the test that caught it.
        """
        if module not in self._tests:
            return None
        if outcome is Outcome.CAUGHT and by is not None and "::" in by:
            test = self._source_of(by)
            return None if test is None else _digest(self._meaning_of(module), by.encode(), test.encode())
        tests = self._tests[module]
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        contents = [(self._root / file).read_bytes() for file in files]
        return _digest(json.dumps([list(tests), self._databases]).encode(), self._meaning_of(module), *contents)

    def _meaning_of(self, module: str) -> bytes:
        """Return a module without what cannot matter when it runs: no docstring makes an outcome another one."""
        return str(meaning((self._root / module).read_text(encoding="utf-8"))).encode()

    def _source_of(self, test: str) -> str | None:
        """Return the source of a test function, its decorators included."""
        file, _, names = test.partition("[")[0].partition("::")
        path, name = self._root / file, names.rpartition("::")[2]
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
        return None


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def key_of(mutant: Mutant) -> str:
    """Return what names a mutant: a hash of what the mutated module says."""
    return hashlib.sha256(f"{mutant.module}\0{meaning(mutant.source)}".encode()).hexdigest()[:16]


def read_harmless(path: Path = HARMLESS) -> list[Harmless]:
    """Return the survivors that are accepted, with their reasons."""
    return [Harmless(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["harmless"]]


def summarise(rows: Sequence[Row], harmless: Iterable[Harmless]) -> list[str]:
    """Return the lines of the summary: a table by module, then every survivor that is not named harmless."""
    left = survivors(rows, harmless)
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        outcome = "harmless" if row.outcome is Outcome.SURVIVED and row not in left else row.outcome
        counts.setdefault(row.module, Counter()).update(["planted", outcome])
    total: Counter[str] = sum(counts.values(), Counter())
    columns = ("planted", Outcome.CAUGHT, Outcome.TIMED_OUT, "harmless", Outcome.SURVIVED)
    width = max(map(len, (*counts, "module")))
    lines = ["  ".join([f"{'module':{width}}", *(f"{column:>9}" for column in columns)])]
    for name, of_module in [*sorted(counts.items()), ("all", total)]:
        lines.append("  ".join([f"{name:{width}}", *(f"{of_module[column]:9}" for column in columns)]))
    harmful = total["planted"] - total["harmless"]
    lines.append(f"caught: {harmful - len(left)} of {harmful} ({(harmful - len(left)) / max(harmful, 1):.1%})")
    return lines + [line for row in left for line in ("", *describe(row))]


def survivors(rows: Sequence[Row], harmless: Iterable[Harmless]) -> list[Row]:
    """Return the survivors that are not named harmless."""
    accepted = {(entry.module, entry.old, entry.new) for entry in harmless}
    survived = [row for row in rows if row.outcome is Outcome.SURVIVED]
    return [row for row in survived if (row.module, row.old, row.new) not in accepted]


def describe(row: Row) -> list[str]:
    """Return a mutant as the lines of a difference."""
    old, new = ([f"{sign} {line}" for line in text.splitlines()] for sign, text in (("-", row.old), ("+", row.new)))
    return [f"{row.module}:{row.line} ({row.operator})", *old, *new]


def _from_line(line: str) -> Row:
    fields = json.loads(line)
    return Row(**fields | {"outcome": Outcome(fields["outcome"])})


def _as_line(row: Row) -> str:
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"
