"""Errors that a user can do something about; anything else is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class RustOptunaError(Exception):
    """Base of this project's errors: its text is one message that says what is wrong and what to do."""

    exit_code = 1

    @property
    def public(self) -> str:
        """The message as it may stand in a database or a log: without the path or name of a film."""
        return str(self)


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

    exit_code = 2

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


class WeightsError(RustOptunaError):
    """A weights file that is missing or does not fit the backbone."""


class MissingExtraError(RustOptunaError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"This needs {package}, which is not installed: pip install 'rust_optuna[{extra}]'")


class StorageError(RustOptunaError):
    """The database is missing, unreachable, or not one that this version can use."""


class NoDatabaseError(StorageError):
    """There is no database yet, or none with our tables: nothing was ever made there."""


class StudyError(RustOptunaError):
    """A study that does not exist, exists with other contents, or is not in the state an operation needs."""


class FingerprintError(StudyError):
    """This worker would not compute the same numbers as the study's others."""


class OutOfMemoryError(Exception):
    """A trial for which memory does not suffice even in the smallest micro-batches.

    Not a `RustOptunaError`, which stops a worker because its machine is at fault: the worker goes on with other points,
    and the trial counts as failed here. Its text holds no path.
    """


class LeaseLostError(RustOptunaError):
    """The point this worker was running belongs to somebody else now; its result is refused."""
