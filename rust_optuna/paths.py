"""Every file name under ``storage/``, in one place."""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.errors import PathError
from rust_optuna.spelling import Spelling

ARTIFACTS = "storage/artifacts"
"""The default artifact store of a new database, relative to the home of the process that opens it."""


@dataclass(frozen=True)
class Home:
    """The root of all relative paths: ``--home``, else ``RUST_OPTUNA_HOME``, else the current directory."""

    root: Path

    @classmethod
    def find(cls, path: str | os.PathLike[str] | None = None) -> Home:
        """Return the home named by the option or the environment, else the current directory.

        Raises:
            PathError: the path cannot be resolved, as in `resolve`, or it is a file.
        """
        root = _absolute(Path(), path or os.environ.get("RUST_OPTUNA_HOME") or ".")
        if root.is_file():
            raise PathError(f"{root} is a file, not a folder: --home names the folder that relative paths start from")
        return cls(root)

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        """Return ``path`` as an absolute path; a relative path starts from this home.

        Raises:
            PathError: the path begins with ``~`` and the user has no home folder, or no file can have this path.
        """
        return _absolute(self.root, path)

    @property
    def storage(self) -> Path:
        """The folder that runs write to."""
        return self.root / "storage"

    @property
    def database(self) -> Path:
        """The default database: an embedded SQLite file."""
        return self.storage / "rust_optuna.db"

    @property
    def features(self) -> Path:
        """The cache of the backbone's features."""
        return self.storage / "features"

    @property
    def pixels(self) -> Path:
        """The decoded films of studies that train end to end."""
        return self.storage / "pixels"

    @property
    def models(self) -> Path:
        """The directories of fitted models."""
        return self.storage / "models"

    @property
    def fits(self) -> Path:
        """The heads that evaluations have fitted on a whole development set."""
        return self.storage / "fits"

    @property
    def holdout(self) -> Path:
        """The features of hold-out films and where these films lie, apart from all that a search reads."""
        return self.storage / "holdout"

    @property
    def external(self) -> Path:
        """The features of films of second data sets and where these films lie, apart from all that a search reads."""
        return self.storage / "external"

    @property
    def reports(self) -> Path:
        """The reports of evaluations other than that on the hold-out."""
        return self.storage / "reports"

    @property
    def manifests(self) -> Path:
        """Which manifest each study was created from on this machine."""
        return self.storage / "manifests.json"

    @property
    def film_index(self) -> Path:
        """The file that maps each film's content hash to its path: the only place that holds paths of films."""
        return self.storage / "films.json"

    @property
    def logs(self) -> Path:
        """The output of worker processes and daemons."""
        return self.storage / "logs"

    @property
    def workers(self) -> Path:
        """The folder with one file for each running supervisor, locked for as long as it lives."""
        return self.storage / "workers"

    def log(self, supervisor: str, slot: int | None = None) -> Path:
        """Return the log of a supervisor that runs as a daemon, or of the workers in one of its slots."""
        return self.logs / f"worker-{supervisor}{'' if slot is None else f'-{slot}'}.log"

    def record(self, supervisor: str) -> Path:
        """Return the file that a supervisor keeps locked."""
        return self.workers / f"{supervisor}.pid"

    @property
    def demo(self) -> Path:
        """The demo's synthetic films."""
        return self.storage / "demo"


def _absolute(root: Path, path: str | os.PathLike[str]) -> Path:
    """Return an absolute path: a relative path starts from ``root``, and ``~`` is the user's home folder.

    ``~name`` without such a user is a file of that name, as in a shell. A file whose name only looks the same is found.
    """
    expanded = os.path.expanduser(path)
    if Path(expanded).parts[:1] == ("~",):
        raise PathError(f"{path} begins with ~, and this user has no home folder: write the whole path")
    try:
        return Spelling().find((root / expanded).resolve())
    except (RuntimeError, ValueError) as error:  # a circle of links, a character that no path may hold
        raise PathError(f"{str(path)!r} cannot be used as a path: {error}") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and move the file there when the block succeeds.

    A reader sees either the old file or the complete new one, even after a crash. The temporary file is removed if the
    block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` that no other process has, for what is to be moved there."""
    # Not the process number: in containers that share the folder, two processes may have the same one.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left under temporary names of ``path``. No other process may be writing it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 12}.tmp"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
