"""Private database servers that may be killed: PostgreSQL and MariaDB, each in a folder and on a port of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from tests.chaos.records import connect
from tests.studies import wait_until

PLACES = (*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin", "/usr/local/sbin")
NAME = "chaos"
"""Of the database in each server."""


class Server(ABC):
    """A server that runs as an unprivileged user and accepts anybody from this machine.

    Args:
        folder: a new one, made here; its parents must be open to the unprivileged user.
    """

    binaries: ClassVar[tuple[str, ...]]
    driver: ClassVar[str]
    user: ClassVar[str]
    scheme: ClassVar[str]
    maintenance: ClassVar[str]
    role: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self._as_user = unprivileged(self.user)
        if self._as_user:
            os.chown(folder, self._as_user["user"], self._as_user["group"])

    @classmethod
    def missing(cls) -> str | None:
        """Return the name of a binary or driver that is not here, None where all are."""
        if find_spec(cls.driver) is None:
            return cls.driver
        return next((name for name in cls.binaries if binary(name) is None), None)

    def url(self, port: int | None = None, database: str = NAME) -> str:
        """Return the SQLAlchemy URL of a database of this server, through another port if one is given."""
        return f"{self.scheme}://{self.role}@127.0.0.1:{port or self.port}/{database}"

    def create(self) -> None:
        """Make the server's files, start it, and make the database."""
        subprocess.run(
            self._initialize(), check=True, capture_output=True, cwd=self.folder, env=self._environment, **self._as_user
        )
        self.launch()
        self.wait_until_ready(self.maintenance)
        self.execute(f"CREATE DATABASE {NAME}")

    def execute(self, statement: str) -> None:
        """Execute a statement about databases, on a connection to none of this package's."""
        with closing(connect(self.url(database=self.maintenance))) as connection:
            if hasattr(type(connection), "autocommit") and not callable(connection.autocommit):
                connection.autocommit = True
            connection.cursor().execute(statement)

    def launch(self) -> None:
        """Start the server, and do not wait for it."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._run(), stdout=log, stderr=log, cwd=self.folder, env=self._environment, **self._as_user
            )

    def wait_until_ready(self, database: str = NAME) -> None:
        """Wait until the server answers."""
        wait_until(lambda: self._answers(database), 60)

    def kill(self) -> None:
        """End the server with all its processes as a power cut would."""
        assert self.process is not None
        # Halted first, so that it starts no child between the look and the killing.
        os.kill(self.process.pid, signal.SIGSTOP)
        family = [self.process.pid, *children(self.process.pid)]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        # Its children pass to another parent; the next server waits for memory that they still hold.
        wait_until(lambda: not any(runs(pid) for pid in family), 20)
        self.process = None

    def remove(self) -> None:
        """End the server and remove its files."""
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self, database: str) -> bool:
        try:
            connect(self.url(database=database)).close()
        except Exception:
            return False
        return True

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.pathsep.join(PLACES), "LC_ALL": "C", "HOME": str(self.folder)}

    @abstractmethod
    def _initialize(self) -> list[str]:
        """Return the command that makes the server's files."""

    @abstractmethod
    def _run(self) -> list[str]:
        """Return the command that is the server."""


class PostgreSQL(Server):
    """Without fsync, which only a machine's own crash needs: a killed server keeps every commit."""

    binaries, driver = ("initdb", "postgres"), "psycopg"
    user, scheme, maintenance = "postgres", "postgresql+psycopg", "postgres"
    role = "postgres"

    def _initialize(self) -> list[str]:
        return [_found("initdb"), "-D", str(self.data), "-U", self.role, "-A", "trust", "-E", "UTF8", "--no-sync"]

    def _run(self) -> list[str]:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        return [_found("postgres"), "-D", str(self.data), *(f"--{name}={value}" for name, value in settings.items())]


class MariaDB(Server):
    """Writes its log at every commit without fsync, which only a machine's own crash needs."""

    binaries, driver = ("mariadb-install-db", "mariadbd"), "pymysql"
    user, scheme, maintenance = "mysql", "mysql+pymysql", "mysql"
    role = "root"

    def _initialize(self) -> list[str]:
        return [_found("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", "--skip-test-db"]

    def _run(self) -> list[str]:
        settings = {"datadir": self.data, "port": self.port, "bind-address": "127.0.0.1"}
        settings |= {"socket": self.folder / "socket", "pid-file": self.folder / "pid"}
        settings |= {"innodb-flush-log-at-trx-commit": 2, "innodb-buffer-pool-size": "32M"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [_found("mariadbd"), "--no-defaults", "--skip-grant-tables", "--skip-name-resolve", *options]


SERVERS: dict[str, type[Server]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary(name: str) -> str | None:
    """Return where a server's program is, None where it is not installed."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join((*PLACES, *map(str, packaged))))


def _found(name: str) -> str:
    path = binary(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    # A packaged binary looks for its libraries beside itself, not beside a link to it.
    return os.path.realpath(path)


def unprivileged(name: str) -> dict[str, Any]:
    """Return the arguments by which root starts a process as that user, else as nobody; none for who is not root."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def children(pid: int) -> list[int]:
    """Return the processes that a process started, of any generation."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
