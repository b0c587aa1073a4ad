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
    """The base of this project's errors. Its text is one message that says what is wrong and what to do."""

    exit_code = ExitCode.ERROR

    @property
    def public(self) -> str:
        """The message for databases and logs, without the path or name of a film."""
        return str(self)


class InvalidValueError(RustOptunaError):
    """A value from the command line, the environment or a study file that cannot be used."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Problem:
    """One violation in an input file.

    Args:
        where: the place in the file, as in ``row 3, view``.
        what: a description of the violation, with the value.
        kind: the description without the value, where that differs. Many problems of one kind are reported together.
    """

    where: str
    what: str
    kind: str = field(default="", compare=False)


class InvalidInputError(RustOptunaError):
    """Every problem found in one input, reported together.

    The message groups the problems that many rows share, and shows at most `SHOWN` lines.

    Args:
        source: the file or object the problems are in.
        problems: all problems, in the order in which a reader meets them.
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
    """Merge problems that more than ``most`` rows have in the same column into one."""
    groups: dict[object, list[tuple[int, Problem]]] = {}
    for problem in problems:
        row = re.fullmatch(r"row (\d+)(.*)", problem.where)
        key = (row[2], problem.kind or problem.what) if row else problem
        groups.setdefault(key, []).append((int(row[1]) if row else 0, problem))
    merged = []
    for group in groups.values():
        (row_number, first), *others = group
        if len(group) <= most:
            merged += [problem for _, problem in group]
            continue
        column = first.where.removeprefix(f"row {row_number}")
        alike = "" if all(problem.what == first.what for _, problem in others) else ", others likewise"
        merged.append(Problem(f"{len(group):,} rows{column}", f"{first.what}{alike}; first row {row_number}"))
    return merged


class ManifestError(InvalidInputError):
    """A manifest that breaks its rules."""


class UnreadableManifestError(ManifestError):
    """A manifest that does not exist or is not a CSV file, so that its rows cannot be checked.

    Args:
        source: the file.
        what: the reason, as a predicate of the file: ``is not UTF-8``.
    """

    def __init__(self, source: str, what: str) -> None:
        super().__init__(source, [Problem("file", what)])
        self.args = (f"{source} {what}",)


class PatientNamesError(RustOptunaError):
    """Patients' names that nobody has declared the same or different, or a declaration that fits no names."""

    exit_code = ExitCode.USAGE


class ConfigurationError(InvalidInputError):
    """A study file that breaks its rules."""


class PathError(RustOptunaError):
    """A path that cannot be used, whatever files exist."""

    exit_code = ExitCode.USAGE


class DataError(RustOptunaError):
    """Films that cannot be read, are not where they should be, or have changed."""


class DataValueError(InvalidValueError, DataError):
    """A value that does not work with these films, or with any films: more folds than patients, for example."""


class FilmError(DataError):
    """One film that cannot be used. Its path is shown only on the terminal of the person who has the file.

    Args:
        content: the film's content hash.
        what: a description of the problem, without a path.
        path: the film's file, if it is known.
    """

    def __init__(self, content: str, what: str, path: object = None) -> None:
        self.content = content
        self.what = what
        super().__init__(self.public if path is None else f"{path} ({self.public})")

    @property
    def public(self) -> str:
        """The message, which names the film by its content."""
        return f"film {self.content[:12]} {self.what}"


class MissingFilmsError(DataError):
    """Films that a folder does not hold, or holds only in a changed form.

    The folder and all paths are shown only on the terminal.

    Args:
        missing: the missing films' content hashes.
        wanted: the number of films that were looked for.
        folder: the folder that was searched.
        changed: the missing films whose files exist with other contents.
        unreadable: the other files and folders that could not be read, with their paths.
        compared: the number of image files in the folder that were compared.
        others: the paths of files that are not in a supported format.
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
        self._remedy = f"{compared:,} image files were compared there; name the folder of the films with --data-root"
        lines = [self._first_line(f"below {folder}"), *(str(film) for film in changed[: self.SHOWN])]
        lines.append(self._remedy)
        if others:
            lines.append(f"{len(others):,} files there are not PNG, JPEG or TIFF, the first: {others[0]}")
        if unreadable:
            lines.append(f"{len(unreadable):,} files or folders there cannot be read, the first: {unreadable[0]}")
        super().__init__("\n  ".join(lines))

    @property
    def public(self) -> str:
        """The message, which names films by their contents and leaves out the folder."""
        return "; ".join(
            [
                self._first_line("below the data root"),
                *(film.public for film in self._changed[: self.SHOWN]),
                self._remedy,
            ]
        )

    def _first_line(self, place: str) -> str:
        names = ", ".join(content[:12] for content in self._missing[: self.SHOWN])
        more = ", …" if len(self._missing) > self.SHOWN else ""
        return (
            f"{len(self._missing):,} of {self._wanted:,} films cannot be found {place} with the same bytes as when "
            f"the study was created: {names}{more}"
        )


class AbsentFilmsError(DataError):
    """Films whose files have been removed from this machine or were never on it.

    Args:
        absent: the absent films' content hashes.
        wanted: the number of films that were looked for.
        path: the last known path of the first absent film, shown only on the terminal; None if it was never here.
    """

    def __init__(self, absent: Sequence[str], wanted: int, path: object = None) -> None:
        self._absent, self._wanted = absent, wanted
        super().__init__(self._message("" if path is None else f", once {path}"))

    @property
    def public(self) -> str:
        """The message, which names the film by its content."""
        return self._message("")

    def _message(self, former_path: str) -> str:
        return (
            f"{len(self._absent):,} of {self._wanted:,} films cannot be found on this machine (the first: "
            f"film {self._absent[0][:12]}{former_path}). Name the folder where they are now with --data-root. A "
            "machine without films needs their features: run rust-optuna features build on a machine that has the "
            "films and shares storage/features"
        )


class WeightsError(RustOptunaError):
    """A weights file that is missing or does not fit the backbone."""


class MissingWeightsError(InvalidValueError, WeightsError):
    """A weights file that was named and does not exist."""


class MissingExtraError(RustOptunaError):
    """An optional package that is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"This needs {package}, which is not installed: {_install(extra)}")


def _install(extra: str) -> str:
    """Return the command that installs an extra the way this program was installed: from a checkout or by name."""
    # Imported here because every command loads this module and few need it.
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
    """A trial that does not fit into memory even in the smallest micro-batches: an error of the point."""


class StorageError(RustOptunaError):
    """A database that is missing, unreachable or not usable by this version."""


class WrongStoreError(StorageError):
    """An artifact store that belongs to another storage, or that this process may not write to."""


class LockedError(RustOptunaError):
    """A lock whose holder makes no progress.

    Args:
        path: the lock's file.
        holder: a description of the process that holds it.
        seconds: how long the holder has made no progress.
        marker: the file that stands for the lock on a file system without locks, else None.
    """

    def __init__(self, path: object, holder: str, seconds: float, marker: object = None) -> None:
        remedy = "end that process, or wait for it to finish, then try again"
        if marker:
            remedy = (
                "this file system has no locks (flock), so a process that is killed leaves its lock behind. If that "
                f"process no longer runs, remove {marker}"
            )
        super().__init__(f"{path} is held by {holder}, which has made no progress for {seconds:.0f} seconds: {remedy}")


class StorageValueError(InvalidValueError, StorageError):
    """A storage URL, password file or backup that is not valid."""


class NoDatabaseError(StorageError):
    """A database that does not exist yet or has none of our tables."""


class StudyError(RustOptunaError):
    """A study that does not exist, has other contents, or is not in the state that an operation needs."""


class OpenedBeforeError(RustOptunaError):
    """Other models have met the hold-out before, and nobody said that it is to be opened again."""


class OpenHolesError(StudyError):
    """A study with holes that nobody has accepted, on which another study was to build."""

    exit_code = ExitCode.HOLES


class FingerprintError(StudyError):
    """A worker that would not compute the same numbers as the study's other workers.

    Args:
        message: the message for the terminal, which may name files.
        public: the same message without paths, if ``message`` names any.
    """

    def __init__(self, message: str, public: str = "") -> None:
        self._public = public
        super().__init__(message)

    @property
    def public(self) -> str:
        """The message without the path of a film."""
        return self._public or str(self)


class RetiredError(RustOptunaError):
    """A supervisor that gave up every slot because its workers kept dying."""

    exit_code = ExitCode.RETIRED


class CannotServeError(RustOptunaError):
    """Studies that no worker can serve on this machine, not even one started as a replacement."""


class CircuitBreakerError(RustOptunaError):
    """The same error on several points in a row, at which a worker stops before it uses up the whole design."""

    exit_code = ExitCode.CIRCUIT_BREAKER


class LeaseLostError(RustOptunaError):
    """The loss of a lease: another worker owns the point now, and this worker's result is refused."""
