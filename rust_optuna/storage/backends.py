"""What differs between SQLite, PostgreSQL and MariaDB/MySQL: one class for each, chosen once.

Everything else about a database (`rust_optuna.storage.database`) is the same on all of them.
"""

from __future__ import annotations

import hashlib
import inspect
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError

from rust_optuna import locks
from rust_optuna.errors import StorageError, StorageValueError
from rust_optuna.permissions import lack
from rust_optuna.storage import sqlite_files, tables
from rust_optuna.storage.encodings import holds_unicode
from rust_optuna.storage.outages import denies, first_line, passes
from rust_optuna.storage.refusal import check_file_system
from rust_optuna.storage.sqlite_files import BUSY_SECONDS
from rust_optuna.storage.url import hide_passwords

LONGEST_LOCK_SECONDS = 365 * 24 * 3600
"""How long MariaDB waits for a lock: it knows no "for ever"."""
ANSWER_SECONDS = 60
"""Without an answer for so long, a connection to a server is taken for dead."""

Patiently = Callable[[Callable[[], Connection]], Connection]
"""Calls a function that connects, again while the database does not answer."""


class Backend(ABC):
    """What one kind of database needs.

    Args:
        url: of the database, from `rust_optuna.storage.url.parse_url`.
        read_only: it is only to be read.
    """

    extra: ClassVar[str | None] = None
    """The extra of this package that brings the driver; None where Python has it."""
    if_away: ClassVar[str] = ""
    """What to do where the database does not answer, to be added to a sentence."""

    def __init__(self, url: URL, *, read_only: bool = False) -> None:
        self.url = url
        self.read_only = read_only

    def __str__(self) -> str:
        """Return the URL with its passwords hidden, those among its query parameters too."""
        return hide_passwords(self.url.render_as_string(hide_password=False))

    @abstractmethod
    def engine_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``sqlalchemy.create_engine`` besides the URL."""

    @abstractmethod
    def optunas_engine_arguments(self) -> dict[str, Any]:
        """Return the same for Optuna's own engine."""

    @abstractmethod
    def prepare(self, engine: Engine) -> None:
        """Set up what an engine does with each new connection and transaction."""

    @abstractmethod
    def exclusive(self, name: str, patiently: Patiently) -> AbstractContextManager[None]:
        """Hold a lock that ends with its holder's process; see `Database.exclusive`."""

    @abstractmethod
    def lacks(self, error: BaseException) -> str | None:
        """Say which permission this process or its user lacks, where that is why the database failed."""

    def missing(self) -> str:
        """Say that the server has no such database, and what makes it."""
        raise NotImplementedError  # an SQLite file is looked for before it is opened

    def check_options(self) -> None:
        """Refuse options in the URL that the driver does not know, where it would not say so itself.

        Raises:
            StorageValueError: there are such options.
        """

    @property
    def file(self) -> Path | None:
        """The file that holds the database; None where a server does."""
        return None

    @property
    def may_write(self) -> bool:
        """Whether this process may write the database's files; what a server's user may do, only the server knows."""
        return True

    def make(self) -> None:
        """Make what must be there before the first connection."""

    def check_place(self) -> None:
        """Refuse a database that would seem to work where it lies, and then lose something.

        Raises:
            StorageError: it lies there.
        """

    def check_permission(self, *, write: bool) -> None:
        """Look whether the database's files can be read, or also be written or made.

        Raises:
            StorageError: they cannot.
        """


class SQLite(Backend):
    """A file, shared by the processes of one machine."""

    def __init__(self, url: URL, *, read_only: bool = False) -> None:
        super().__init__(url, read_only=read_only)
        self.path = Path(str(url.database))
        self._copied = read_only and not self.may_write

    @property
    def file(self) -> Path:
        """The file that holds the database."""
        return self.path

    @property
    def may_write(self) -> bool:
        """Whether this process may write the file and those beside it."""
        return sqlite_files.may_write(self.path)

    def make(self) -> None:
        """Make the empty file."""
        sqlite_files.make(self.path)

    def check_place(self) -> None:
        """Refuse file systems on which SQLite loses data."""
        check_file_system(self.path)

    def check_permission(self, *, write: bool) -> None:
        """Look whether the file can be read, or also be written or made."""
        if words := lack(self.path, write=False) or (sqlite_files.lack_to_write(self.path) if write else None):
            raise StorageError(words)

    def engine_arguments(self) -> dict[str, Any]:
        """Return how long to wait for the writer's lock; a reader who may not write gets a copy in memory."""
        if self._copied:
            return {"creator": lambda: sqlite_files.copy(self.path)}
        return {"connect_args": {"timeout": BUSY_SECONDS}}

    def optunas_engine_arguments(self) -> dict[str, Any]:
        """Return the same."""
        return self.engine_arguments()

    def prepare(self, engine: Engine) -> None:
        """Make transactions what the ledger needs: write-ahead log, and the writer's lock taken at BEGIN.

        Python's driver begins transactions late and deferred, where a read followed by a write fails at once with
        "database is locked" instead of waiting. Readers never take the writer's lock.
        """
        begin = "BEGIN" if self.read_only else "BEGIN IMMEDIATE"

        @sa.event.listens_for(engine, "connect")
        def connect(connection: Any, record: Any) -> None:
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.execute("PRAGMA query_only = ON" if self.read_only else "PRAGMA journal_mode = WAL")
            cursor.close()

        if self._copied:

            @sa.event.listens_for(engine, "checkout")
            def renew(connection: sqlite_files.Copy, record: Any, proxy: Any) -> None:
                if connection.state != sqlite_files.state(self.path):
                    raise DisconnectionError("it has changed since it was copied")

        @sa.event.listens_for(engine, "begin")
        def immediate(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

    @contextmanager
    def exclusive(self, name: str, patiently: Patiently) -> Iterator[None]:
        """Hold a lock on a file beside the database, the same for all names, for they are held briefly."""
        with locks.locked(Path(f"{self.path}.lock")):
            yield

    def lacks(self, error: BaseException) -> str | None:
        """Say which of the files this process may not write, where that is why SQLite failed."""
        if not self.read_only and (denies(error) or passes(error)):
            return sqlite_files.lack_to_write(self.path)
        return None


class Server(Backend):
    """A database that a server holds, which processes of many machines reach over the network."""

    if_away = ". Look whether the server runs and can be reached from here, or name another one: --storage URL"
    take_lock: ClassVar[str]
    free_lock: ClassVar[str]
    """Statements with a place for the lock's ``key``."""
    make_command: ClassVar[str]
    """The shell's command that makes a database, without its name."""

    @abstractmethod
    def own_arguments(self) -> dict[str, Any]:
        """Return what every connection is told, where the URL does not say it already."""

    def connect_arguments(self) -> dict[str, Any]:
        """Return what every connection is told: not to wait for ever on a dead network.

        What the URL says of these stands: SQLAlchemy would let them replace it.
        """
        ours = {"connect_timeout": 10, **self.own_arguments()}
        return {name: value for name, value in ours.items() if name not in self.url.query}

    def engine_arguments(self) -> dict[str, Any]:
        """Return the same for an engine of one connection: a worker's threads take turns, and servers have few."""
        pool = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 0}
        return {"connect_args": self.connect_arguments(), "isolation_level": "READ COMMITTED", **pool}

    def optunas_engine_arguments(self) -> dict[str, Any]:
        """Return the same with a second connection, which Optuna's storage opens for moments."""
        return self.engine_arguments() | {"max_overflow": 1}

    def prepare(self, engine: Engine) -> None:
        """Look once whether the database can hold all of Unicode."""

        @sa.event.listens_for(engine, "connect", once=True)
        def look(connection: Any, record: Any) -> None:
            setattr(engine.dialect, tables.HOLDS_UNICODE, holds_unicode(connection))

    def missing(self) -> str:
        """Say that the server has no such database, and what makes it."""
        make = f"{self.make_command} {shlex.quote(str(self.url.database))}"
        return f"{self}: the server has no database of that name. Make it ({make}), or name another one: --storage URL"

    def lacks(self, error: BaseException) -> str | None:
        """Say which permission the user lacks."""
        if not denies(error):
            return None
        return (
            f"{self} denies its user what this command does: {first_line(error)}. Reading takes SELECT on all "
            "tables of the database, and working INSERT, UPDATE and DELETE besides"
        )

    @contextmanager
    def exclusive(self, name: str, patiently: Patiently) -> Iterator[None]:
        """Hold an advisory lock, on a connection of its own: the block's transactions use the engine's only one."""
        key = lock_key(f"{self.url.database}:{name}")
        take = self.take_lock.format(key=key)
        engine = self._lock_engine()

        def locked() -> Connection:
            connection = engine.connect()
            try:
                taken = connection.exec_driver_sql(take).scalar()
                connection.commit()
                if taken in (0, None):  # MariaDB's way of saying no; PostgreSQL returns an empty value
                    raise StorageError(f"{self} gave no lock {name}: {take.split('(')[0]} returned {taken}")
            except BaseException:
                connection.close()
                raise
            return connection

        with patiently(locked) as connection:
            try:
                yield
            finally:
                # A server that has gone has freed it.
                with suppress(SQLAlchemyError):
                    connection.exec_driver_sql(self.free_lock.format(key=key))
                    connection.commit()

    def _lock_engine(self) -> Engine:
        return sa.create_engine(self.url, connect_args=self.lock_arguments(), poolclass=sa.NullPool)

    def lock_arguments(self) -> dict[str, Any]:
        """Return what the connection that waits for a lock is told."""
        return self.connect_arguments()


class PostgreSQL(Server):
    """PostgreSQL, by psycopg."""

    extra = "postgresql"
    make_command = "createdb"
    take_lock = "SELECT pg_advisory_lock({key})"
    free_lock = "SELECT pg_advisory_unlock({key})"

    def own_arguments(self) -> dict[str, Any]:
        """Return how a dead network is noticed. Text travels as UTF-8: no encoding at all would hand out bytes."""
        alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        return alive | {"tcp_user_timeout": ANSWER_SECONDS * 1000, "client_encoding": "utf8"}

    def connect_arguments(self) -> dict[str, Any]:
        """Return the same, and what the URL says of ``options`` with the time zone, UTC, added."""
        options = f"{self.url.query.get('options', '')} -c timezone=UTC".strip()
        return super().connect_arguments() | {"options": options}


class MariaDB(Server):
    """MariaDB or MySQL, by PyMySQL."""

    extra = "mysql"
    make_command = "mariadb-admin create"
    take_lock = f"SELECT GET_LOCK('{{key}}', {LONGEST_LOCK_SECONDS})"
    free_lock = "SELECT RELEASE_LOCK('{key}')"

    def own_arguments(self) -> dict[str, Any]:
        """Return how a dead network is noticed."""
        return {"read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}

    def lock_arguments(self) -> dict[str, Any]:
        """Return the same without an end to waiting: a lock is waited for, whatever the URL says."""
        return self.connect_arguments() | {"read_timeout": None}

    def prepare(self, engine: Engine) -> None:
        """Set the time zone as well, UTC, here: ``init_command`` is one statement, and may be the URL's."""

        @sa.event.listens_for(engine, "connect")
        def set_time_zone(connection: Any, record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET time_zone = '+00:00'")

        super().prepare(engine)

    def check_options(self) -> None:
        """Refuse options that PyMySQL does not know: it would say so, as of a bug, at each connection."""
        dialect = self.url.get_dialect()
        _, options = dialect().create_connect_args(self.url)
        known = inspect.signature(dialect.import_dbapi().connections.Connection.__init__).parameters
        if unknown := sorted(options.keys() - known.keys()):
            raise StorageValueError(f"The storage's URL has an option that PyMySQL does not know: {', '.join(unknown)}")


BACKENDS: dict[str, type[Backend]] = {"sqlite": SQLite, "postgresql": PostgreSQL, "mysql": MariaDB}
"""By SQLAlchemy's name of the back end."""


def backend_of(url: URL, *, read_only: bool = False) -> Backend:
    """Return the back end of a URL from `parse_url`."""
    return BACKENDS[url.get_backend_name()](url, read_only=read_only)


def lock_key(name: str) -> int:
    """Return a number of 48 bits, within a signed 64-bit lock key, that stands for a name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)
