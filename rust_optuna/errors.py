"""Errors that a user can do something about; anything else is a bug and keeps its traceback."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rust_optuna.processes import ExitCode


class RustOptunaError(Exception):
    """Base of this project's errors: its text is one message that says what is wrong and what to do."""

    exit_code = ExitCode.ERROR

    @property
    def public(self) -> str:
        """The message as it may stand in a database or a log: without the path or name of a film."""
        return str(self)


class InvalidValueError(RustOptunaError):
    """A value given on the command line, in the environment or in a study file that cannot be used."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Problem:
    """One violation in an input file.

    Args:
        where: it is, as in ``row 3, view``.
        what: is wrong, with the value.
        kind: what is wrong without the value, where that differs: many problems of one kind are reported together.
    """

    where: str
    what: str
    kind: str = field(default="", compare=False)


class InvalidInputError(RustOptunaError):
    """Every problem found in one input, reported together.

    The message groups the problems that many rows share, and shows no more than `SHOWN` lines.

    Args:
        source: the file or object the problems are in.
        problems: all of them, in the order in which a reader meets them.
    """

    exit_code = ExitCode.USAGE
    SHOWN = 30

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        grouped = _grouped(self.problems)
        shown = grouped[: self.SHOWN]
        width = max((len(p.where) for p in shown), default=0)
        lines = [f"{count:,} problem{'' if count == 1 else 's'} in {source}:"]
        lines += [f"  {p.where.ljust(width)}  {p.what}" for p in shown]
        if len(grouped) > len(shown):
            lines.append(f"  … and {len(grouped) - len(shown):,} more like these or of other kinds")
        super().__init__("\n".join(lines))


def _grouped(problems: Sequence[Problem], most: int = 5) -> list[Problem]:
    """Return one problem for all rows that have it in the same column, where they are more than ``most``."""
    groups: dict[object, list[tuple[int, Problem]]] = {}
    for problem in problems:
        row = re.fullmatch(r"row (\d+)(.*)", problem.where)
        key = (row[2], problem.kind or problem.what) if row else problem
        groups.setdefault(key, []).append((int(row[1]) if row else 0, problem))
    found = []
    for group in groups.values():
        (row_number, first), *others = group
        if len(group) <= most:
            found += [problem for _, problem in group]
            continue
        column = first.where.removeprefix(f"row {row_number}")
        alike = "" if all(problem.what == first.what for _, problem in others) else ", others likewise"
        found.append(Problem(f"{len(group):,} rows{column}", f"{first.what}{alike}; first row {row_number}"))
    return found


class ManifestError(InvalidInputError):
    """A manifest that breaks its rules."""


class UnreadableManifestError(ManifestError):
    """A table that is not there, or no CSV file at all: nothing can be said of its rows.

    Args:
        source: the file.
        what: keeps it from being read, as what is said of the file.
    """

    def __init__(self, source: str, what: str) -> None:
        super().__init__(source, [Problem("file", what)])
        self.args = (f"{source} {what}",)


class PatientNamesError(RustOptunaError):
    """Names of patients about which somebody must decide whether they are one patient's, or a decision about none."""

    exit_code = ExitCode.USAGE


class ConfigurationError(InvalidInputError):
    """A study file that breaks its rules."""


class PathError(RustOptunaError):
    """A path that leads nowhere, whatever files there are."""

    exit_code = ExitCode.USAGE


class DataError(RustOptunaError):
    """Films that cannot be read, are not where they should be, or are not what they were."""


class DataValueError(InvalidValueError, DataError):
    """A value that these films, or any, cannot be used with: more folds than patients, say."""


class FilmError(DataError):
    """One film that cannot be used. Its path is for the terminal of whoever holds the file, and for nothing else.

    Args:
        content: the film's content hash.
        what: what is wrong with it, without a path.
        path: its file, where it is known.
    """

    def __init__(self, content: str, what: str, path: object = None) -> None:
        self.content = content
        self.what = what
        super().__init__(self.public if path is None else f"{path} ({self.public})")

    @property
    def public(self) -> str:
        """The message, the film named by its content."""
        return f"film {self.content[:12]} {self.what}"


class MissingFilmsError(DataError):
    """Films that a folder does not hold, or no longer as they were.

    Args:
        missing: the films' content hashes.
        wanted: how many films were looked for.
        folder: in which; for the terminal alone, as are the paths of the changed.
        changed: those of the missing whose files are there with other contents.
        unreadable: what else of the folder could not be read, with paths.
        compared: how many image files there were compared.
        others: files there that are none of the formats that are read.
    """

    SHOWN = 5

    def __init__(
        self,
        missing: Sequence[str],
        wanted: int,
        folder: object,
        changed: Sequence[FilmError] = (),
        unreadable: Sequence[str] = (),
        compared: int = 0,
        others: Sequence[str] = (),
    ) -> None:
        self._missing, self._wanted, self._changed = missing, wanted, changed
        self._what_helps = f"{compared:,} image files there were compared; --data-root names the folder of the films"
        lines = [self._first_line(f"below {folder}"), *(str(film) for film in changed[: self.SHOWN])]
        lines.append(self._what_helps)
        if others:
            lines.append(f"{len(others):,} files there are no PNG, JPEG or TIFF, the first: {others[0]}")
        if unreadable:
            lines.append(f"{len(unreadable):,} files or folders there cannot be read, the first: {unreadable[0]}")
        super().__init__("\n  ".join(lines))

    @property
    def public(self) -> str:
        """The message, films named by their contents and the folder not at all."""
        return "; ".join(
            [
                self._first_line("below the data root"),
                *(f.public for f in self._changed[: self.SHOWN]),
                self._what_helps,
            ]
        )

    def _first_line(self, where: str) -> str:
        names = ", ".join(content[:12] for content in self._missing[: self.SHOWN])
        more = ", …" if len(self._missing) > self.SHOWN else ""
        return (
            f"{len(self._missing):,} of {self._wanted:,} films are not {where}, byte for byte as the study was created "
            f"with: {names}{more}"
        )


class AbsentFilmsError(DataError):
    """Films whose files are gone from this machine, or were never there.

    Args:
        absent: the films' content hashes.
        wanted: how many films were looked for.
        path: where the first of them once was, for the terminal alone; None if it never was.
    """

    def __init__(self, absent: Sequence[str], wanted: int, path: object = None) -> None:
        self._absent, self._wanted = absent, wanted
        super().__init__(self._say("" if path is None else f", once {path}"))

    @property
    def public(self) -> str:
        """The message, the film named by its content."""
        return self._say("")

    def _say(self, where: str) -> str:
        return (
            f"{len(self._absent):,} of {self._wanted:,} films are not on this machine any more, or never were (the "
            f"first: film {self._absent[0][:12]}{where}). --data-root names the folder where they are now. A machine "
            "without films needs the features: rust-optuna features build on one that has them and shares "
            "storage/features"
        )


class WeightsError(RustOptunaError):
    """A weights file that is missing or does not fit the backbone."""


class MissingWeightsError(InvalidValueError, WeightsError):
    """A weights file that is named and not there."""


class MissingExtraError(RustOptunaError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"This needs {package}, which is not installed: {_install(extra)}")


def _install(extra: str) -> str:
    """Return the command that installs an extra as this program was installed: from a checkout, or by its name."""
    # Every command loads this module, and few fail for an extra.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution("rust_optuna").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", ""))
    if "dir_info" not in origin or not url.startswith("file://"):
        return f"pip install 'rust_optuna[{extra}]'"
    folder = Path(unquote(urlsplit(url).path))
    editable = "-e " if origin["dir_info"].get("editable") else ""
    place = "." if folder == Path.cwd() else str(folder)
    return f"pip install {editable}" + shlex.quote(f"{place}[{extra}]")


class OutOfMemoryError(Exception):
    """A trial does not fit into memory, however small its micro-batches. An error of the point, not of the machine."""


class StorageError(RustOptunaError):
    """The database is missing, unreachable, or not one that this version can use."""


class WrongStoreError(StorageError):
    """An artifact store that is not this storage's, or takes nothing from this process."""


class LockedError(RustOptunaError):
    """Another process holds a lock, and does not get on.

    Args:
        path: the lock's file.
        holder: who holds it, in words.
        seconds: for how long it made no progress.
        marker: the file that stands for the lock where the file system has none, else None.
    """

    def __init__(self, path: object, holder: str, seconds: float, marker: object = None) -> None:
        remedy = "end that process, or wait for it and call this again"
        if marker:
            remedy = (
                "that file system has no locks of its own (flock), so that a process which was killed leaves its lock "
                f"behind: if it no longer runs there, remove {marker}"
            )
        super().__init__(f"{path} is held by {holder}, without any progress for {seconds:.0f} seconds: {remedy}")


class StorageValueError(InvalidValueError, StorageError):
    """A storage's URL, password file or backup that is none."""


class NoDatabaseError(StorageError):
    """There is no database yet, or none with our tables: nothing was ever made there."""


class StudyError(RustOptunaError):
    """A study that does not exist, exists with other contents, or is not in the state an operation needs."""


class OpenedBeforeError(RustOptunaError):
    """Other models have met the hold-out before, and nobody said that it is to be opened again."""


class OpenHolesError(StudyError):
    """A study has holes that nobody accepted, and another one was to build on it."""

    exit_code = ExitCode.HOLES


class FingerprintError(StudyError):
    """This worker would not compute the same numbers as the study's others.

    Args:
        message: for the terminal; may name files.
        public: the same without a path, where ``message`` names one.
    """

    def __init__(self, message: str, public: str = "") -> None:
        self._public = public
        super().__init__(message)

    @property
    def public(self) -> str:
        """The message without the path of a film."""
        return self._public or str(self)


class RetiredError(RustOptunaError):
    """A supervisor gave up every slot: its workers died again and again."""

    exit_code = ExitCode.RETIRED


class CannotServeError(RustOptunaError):
    """No worker can serve the studies here; others started in their place could not, either."""


class CircuitBreakerError(RustOptunaError):
    """A worker met the same error on several points in a row, and stops before it burns the whole design."""

    exit_code = ExitCode.CIRCUIT_BREAKER


class LeaseLostError(RustOptunaError):
    """The point this worker was running belongs to somebody else now; its result is refused."""
