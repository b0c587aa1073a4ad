"""What became of the mutants: a JSON line for each, read again by the next run, and the summary."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from tests.mutants.planting import Mutant
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
        key: names the mutant: a hash of the mutated module.
        state: a hash of the module and of its tests; a row of another state is not reused.
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

    def __init__(self, path: Path | None, states: Mapping[str, str]) -> None:
        self.path = path
        self.states = states
        self.rows: dict[str, Row] = {}
        if path is None or not path.is_file():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A run that was killed may have left half a line.
        rows = [_from_line(line) for line in lines if line.endswith("\n")]
        self.rows = {row.key: row for row in rows if states.get(row.module) == row.state}
        if len(self.rows) < len(lines):
            new = path.with_name(f".{path.name}.new")
            new.write_text("".join(map(_as_line, self.rows.values())), encoding="utf-8")
            os.replace(new, path)

    def of(self, mutant: Mutant) -> Row | None:
        """Return what is known of a mutant."""
        return self.rows.get(key_of(mutant))

    def add(self, mutant: Mutant, outcome: Outcome, by: str | None, seconds: float) -> Row:
        """Keep what became of a mutant."""
        state = self.states[mutant.module]
        fields = (mutant.module, mutant.line, mutant.operator, mutant.old, mutant.new)
        row = Row(key_of(mutant), state, *fields, outcome, by, round(seconds, 1))
        self.rows[row.key] = row
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_as_line(row))
        return row


def states_of(subject: Subject) -> dict[str, str]:
    """Return a hash of each module, of its tests, and of which databases they run on."""
    databases = [name for name in DATABASES if os.environ.get(name)]
    states = {}
    for module, tests in subject.tests.items():
        files = dict.fromkeys([module, *(test.partition("::")[0] for test in tests)])
        digest = hashlib.sha256(json.dumps([list(tests), databases]).encode())
        for file in files:
            digest.update(hashlib.sha256((subject.root / file).read_bytes()).digest())
        states[module] = digest.hexdigest()[:16]
    return states


def key_of(mutant: Mutant) -> str:
    """Return what names a mutant: a hash of the mutated module."""
    return hashlib.sha256(f"{mutant.module}\0{mutant.source}".encode()).hexdigest()[:16]


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
