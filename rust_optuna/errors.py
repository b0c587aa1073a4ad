"""Errors that a user can do something about; anything else is a bug and keeps its traceback."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
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
    """One violation in an input file: where it is, and what is wrong with which value."""

    where: str
    what: str


class InvalidInputError(RustOptunaError):
    """Every problem found in one input, reported together.

    Args:
        source: the file or object the problems are in.
        problems: all of them, in the order in which a reader meets them.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        width = max((len(p.where) for p in self.problems), default=0)
        lines = [f"{count} problem{'' if count == 1 else 's'} in {source}:"]
        lines += [f"  {p.where.ljust(width)}  {p.what}" for p in self.problems]
        super().__init__("\n".join(lines))


class ManifestError(InvalidInputError):
    """A manifest that breaks its rules."""


class ConfigurationError(InvalidInputError):
    """A study file that breaks its rules."""


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
    """

    SHOWN = 5

    def __init__(
        self,
        missing: Sequence[str],
        wanted: int,
        folder: object,
        changed: Sequence[FilmError] = (),
        unreadable: Sequence[str] = (),
    ) -> None:
        self._missing, self._wanted, self._changed = missing, wanted, changed
        lines = [self._first_line(f"below {folder}"), *(str(film) for film in changed[: self.SHOWN])]
        if unreadable:
            lines.append(f"{len(unreadable):,} files or folders there cannot be read, the first: {unreadable[0]}")
        super().__init__("\n  ".join(lines))

    @property
    def public(self) -> str:
        """The message, films named by their contents and the folder not at all."""
        return "; ".join([self._first_line("below the data root"), *(f.public for f in self._changed[: self.SHOWN])])

    def _first_line(self, where: str) -> str:
        names = ", ".join(content[:12] for content in self._missing[: self.SHOWN])
        more = ", …" if len(self._missing) > self.SHOWN else ""
        return (
            f"{len(self._missing):,} of {self._wanted:,} films are not {where}, byte for byte as the study was created "
            f"with: {names}{more}"
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


class StorageValueError(InvalidValueError, StorageError):
    """A storage's URL, password file or backup that is none."""


class NoDatabaseError(StorageError):
    """There is no database yet, or none with our tables: nothing was ever made there."""


class StudyError(RustOptunaError):
    """A study that does not exist, exists with other contents, or is not in the state an operation needs."""


class OpenHolesError(StudyError):
    """A study has holes that nobody accepted, and another one was to build on it."""

    exit_code = ExitCode.HOLES


class FingerprintError(StudyError):
    """This worker would not compute the same numbers as the study's others."""


class RetiredError(RustOptunaError):
    """A supervisor gave up every slot: its workers died again and again."""

    exit_code = ExitCode.RETIRED


class CircuitBreakerError(RustOptunaError):
    """A worker met the same error on several points in a row, and stops before it burns the whole design."""

    exit_code = ExitCode.CIRCUIT_BREAKER


class LeaseLostError(RustOptunaError):
    """The point this worker was running belongs to somebody else now; its result is refused."""
