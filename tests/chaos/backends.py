"""Where a round's study lives: SQLite on a small disk, or a private server behind a proxy."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from rust_optuna.paths import Home
from rust_optuna.storage.database import create_database
from rust_optuna.storage.url import parse_url
from tests.chaos.disk import SmallDisk
from tests.chaos.proxy import Proxy
from tests.chaos.servers import SERVERS, Server


class Backend(ABC):
    """One database for the rounds of a run.

    ``url`` is the harness's own way to the database, ``workers_url`` the workers', ``artifacts`` the folder of the
    artifacts. ``begin`` sets them.
    """

    server, disk = False, False
    """Whether there is a server to kill, and whether the disk can be filled."""
    url: str
    workers_url: str
    artifacts: Path

    @abstractmethod
    def begin(self, seed: int) -> None:
        """Make ready for a round."""

    @abstractmethod
    def disturb(self, kind: str) -> Callable[[], None]:
        """Begin a disturbance of the database; return what ends it."""

    @abstractmethod
    def calm(self) -> None:
        """End every disturbance, and wait until the database answers."""

    @abstractmethod
    def end(self) -> None:
        """Clear up after a round."""

    @abstractmethod
    def close(self) -> None:
        """Clear up after the run."""


class OnSQLite(Backend):
    """A new file for each round, on a small disk with its artifacts.

    Args:
        folder: a new one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._template = folder / "template.db"
        create_database(parse_url(f"sqlite:///{self._template}", Home(folder)), "artifacts").close()
        self._disk: SmallDisk | None = None
        self._open_disk(0)
        self.end()

    def begin(self, seed: int) -> None:
        self._open_disk(seed)

    def disturb(self, kind: str) -> Callable[[], None]:
        assert self._disk is not None
        assert kind == "fill"
        self._disk.fill()
        return self._disk.free

    def calm(self) -> None:
        assert self._disk is not None
        self._disk.free()

    def end(self) -> None:
        if self._disk is not None:
            self._disk.close()
            shutil.rmtree(self._disk.folder, ignore_errors=True)
            self._disk = None

    def close(self) -> None:
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open_disk(self, seed: int) -> None:
        self._disk = SmallDisk(self.folder / f"disk-{seed}")
        self.disk = self._disk.small
        self.artifacts = self._disk.folder / "artifacts"
        self.artifacts.mkdir()
        database = self._disk.folder / "chaos.db"
        shutil.copy(self._template, database)
        self.url = self.workers_url = f"sqlite:///{database}"


class OnServer(Backend):
    """One database for all rounds, on a private server; its workers reach it through a proxy.

    Args:
        server: the class of the server.
        folder: a new one.
    """

    server = True

    def __init__(self, server: type[Server], folder: Path) -> None:
        self.folder = folder
        self.artifacts = folder / "artifacts"
        self.artifacts.mkdir(parents=True)
        self._server = server(folder / "server")
        self._proxy = Proxy(self._server.port)
        self.url, self.workers_url = self._server.url(), self._server.url(self._proxy.port)
        try:
            self._server.create()
            create_database(parse_url(self.url, Home(folder)), str(self.artifacts)).close()
        except BaseException:
            self.close()
            raise

    def begin(self, seed: int) -> None:
        self.calm()

    def disturb(self, kind: str) -> Callable[[], None]:
        if kind == "database kill":
            if self._server.process is not None:
                self._server.kill()
            return self._launch
        if kind == "mute":
            self._proxy.mute()
            return self._cut
        if kind in ("refuse", "cut"):
            self._proxy.cut()
        if kind == "stall":
            self._proxy.stall()
        elif kind == "refuse":
            self._proxy.refuse()
        return self._proxy.restore

    def calm(self) -> None:
        self._launch()
        self._server.wait_until_ready()
        self._proxy.restore()

    def end(self) -> None:
        pass

    def close(self) -> None:
        self._proxy.close()
        self._server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _launch(self) -> None:
        if self._server.process is None:
            self._server.launch()

    def _cut(self) -> None:
        self._proxy.cut()
        self._proxy.restore()


def open_backend(name: str, folder: Path) -> Backend:
    """Open ``sqlite``, ``postgresql`` or ``mariadb`` below a folder."""
    return OnSQLite(folder / name) if name == "sqlite" else OnServer(SERVERS[name], folder / name)


def missing(name: str) -> str | None:
    """Return why a backend cannot run here, None where it can."""
    lacks = SERVERS[name].missing() if name in SERVERS else None
    return f"{lacks} is not installed: no private {name} server to kill" if lacks else None


def environment(home: Home, backend: Backend, variable: str) -> Mapping[str, str]:
    """Return the variables that lead a worker to its study; ``variable`` tells the stand-in where artifacts go."""
    return {
        "RUST_OPTUNA_HOME": str(home.root),
        "RUST_OPTUNA_STORAGE": backend.workers_url,
        "RUST_OPTUNA_ARTIFACTS": str(backend.artifacts),
        variable: str(backend.artifacts),
    }
