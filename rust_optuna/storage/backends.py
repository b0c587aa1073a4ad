"""The differences between SQLite, PostgreSQL and MariaDB/MySQL, in one class each.

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
from rust_optuna.storage.outages import denies_statement, first_line, may_pass
from rust_optuna.storage.refusal import check_file_system
from rust_optuna.storage.sqlite_files import BUSY_SECONDS
from rust_optuna.storage.url import hide_passwords

LONGEST_LOCK_SECONDS = 365 * 24 * 3600
"""How long MariaDB waits for a lock; it cannot wait without a limit."""
ANSWER_SECONDS = 60
"""How long a connection may go without an answer from the server before it counts as dead."""

Patiently = Callable[[Callable[[], Connection]], Connection]
"""A function that calls the given function, which connects, and retries while the database does not answer."""


class Backend(ABC):
    """The needs of one kind of database.

    Args:
        url: the database's URL, from `rust_optuna.storage.url.parse_url`.
        read_only: whether the database is only read.
    """

    extra: ClassVar[str | None] = None
    """The extra of this package that installs the driver; None where Python includes it."""
    outage_hint: ClassVar[str] = ""
    """The advice for a database that does not answer, to be appended to a message."""

    def __init__(self, url: URL, *, read_only: bool = False) -> None:
        self.url = url
        self.read_only = read_only

    def __str__(self) -> str:
        """Return the URL with its passwords hidden, including those in its query parameters."""
        return hide_passwords(self.url.render_as_string(hide_password=False))

    @abstractmethod
    def engine_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``sqlalchemy.create_engine`` for the ledger's engine, without the URL."""

    @abstractmethod
    def optunas_engine_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``sqlalchemy.create_engine`` for Optuna's engine, without the URL."""

    @abstractmethod
    def prepare(self, engine: Engine) -> None:
        """Register what an engine does with each new connection and transaction."""

    @abstractmethod
    def exclusive(self, name: str, patiently: Patiently) -> AbstractContextManager[None]:
        """Hold a lock that ends with its holder's process; see `Database.exclusive`."""

    @abstractmethod
    def missing_permission(self, error: BaseException) -> str | None:
        """Return a message about the permission whose lack caused a database's error; None for other causes."""

    def missing_database(self) -> str:
        """Return the message that the server has no such database, with the command that makes it."""
        raise NotImplementedError  # on SQLite the file is checked before it is opened

    def check_options(self) -> None:
        """Refuse options in the URL that the driver does not know and would not report clearly itself.

        Raises:
            StorageValueError: there are such options.
        """

    @property
    def file(self) -> Path | None:
        """The file that holds the database; None for a database on a server."""
        return None

    @property
    def may_write(self) -> bool:
        """Whether this process may write the database's files; always true for a server, which decides by itself."""
        return True

    def make(self) -> None:
        """Make what must exist before the first connection."""

    def check_place(self) -> None:
        """Refuse a location in which the database would seem to work and then lose data.

        Raises:
            StorageError: the database lies in such a location.
        """

    def check_permission(self, *, write: bool) -> None:
        """Check that the database's files can be read and, with ``write``, written or made.

        Raises:
            StorageError: this process lacks the permission.
        """


class SQLite(Backend):
    """SQLite: a file that the processes of one machine share."""

    def __init__(self, url: URL, *, read_only: bool = False) -> None:
        super().__init__(url, read_only=read_only)
        self.path = Path(str(url.database))
        self._reads_copy = read_only and not self.may_write

    @property
    def file(self) -> Path:
        """The file that holds the database."""
        return self.path

    @property
    def may_write(self) -> bool:
        """Whether this process may write the file and those that SQLite keeps beside it."""
        return sqlite_files.may_write(self.path)

    def make(self) -> None:
        """Make an empty file if there is none."""
        sqlite_files.make(self.path)

    def check_place(self) -> None:
        """Refuse a file system on which SQLite loses data."""
        check_file_system(self.path)

    def check_permission(self, *, write: bool) -> None:
        """Check that the file can be read and, with ``write``, written or made."""
        if message := lack(self.path, write=False) or (
            sqlite_files.missing_write_permission(self.path) if write else None
        ):
            raise StorageError(message)

    def engine_arguments(self) -> dict[str, Any]:
        """Return how long to wait for the writer's lock, or, for a reader who may not write, the copying function."""
        if self._reads_copy:
            return {"creator": lambda: sqlite_files.copy(self.path)}
        return {"connect_args": {"timeout": BUSY_SECONDS}}

    def optunas_engine_arguments(self) -> dict[str, Any]:
        """Return the ledger's arguments."""
        return self.engine_arguments()

    def prepare(self, engine: Engine) -> None:
        """Set up transactions as the ledger needs them, with a write-ahead log and the writer's lock taken at BEGIN.

        Python's driver begins transactions late and deferred: a read followed by a write then fails at once with
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

        if self._reads_copy:

            @sa.event.listens_for(engine, "checkout")
            def renew(connection: sqlite_files.Copy, record: Any, proxy: Any) -> None:
                if connection.state != sqlite_files.state(self.path):
                    raise DisconnectionError("the database has changed since it was copied")

        @sa.event.listens_for(engine, "begin")
        def immediate(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

    @contextmanager
    def exclusive(self, name: str, patiently: Patiently) -> Iterator[None]:
        """Hold a lock on a file beside the database. All names share one lock, because locks are held briefly."""
        with locks.locked(Path(f"{self.path}.lock")):
            yield

    def missing_permission(self, error: BaseException) -> str | None:
        """Return a message about a file that this process may not write, if that may have caused SQLite's error."""
        if not self.read_only and (denies_statement(error) or may_pass(error)):
            return sqlite_files.missing_write_permission(self.path)
        return None


class Server(Backend):
    """A database on a server, which processes on many machines reach over the network."""

    outage_hint = ". Check that the server runs and can be reached from here, or name another with --storage"
    take_lock: ClassVar[str]
    """The statement that takes a lock, with a placeholder for its ``key``."""
    free_lock: ClassVar[str]
    """The statement that releases a lock, with a placeholder for its ``key``."""
    make_command: ClassVar[str]
    """The shell command that makes a database, without the database's name."""

    @abstractmethod
    def own_arguments(self) -> dict[str, Any]:
        """Return this server's arguments for every connection, unless the URL sets them."""

    def connect_arguments(self) -> dict[str, Any]:
        """Return the arguments for every connection, which keep it from waiting for ever on a dead network.

        Arguments that the URL sets are left out, because SQLAlchemy would let these replace them.
        """
        defaults = {"connect_timeout": 10, **self.own_arguments()}
        return {name: value for name, value in defaults.items() if name not in self.url.query}

    def engine_arguments(self) -> dict[str, Any]:
        """Return the arguments of an engine with one connection, for which a worker's threads take turns."""
        pool = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 0}
        return {"connect_args": self.connect_arguments(), "isolation_level": "READ COMMITTED", **pool}

    def optunas_engine_arguments(self) -> dict[str, Any]:
        """Return the ledger's arguments, but with a second connection, which Optuna's storage opens for moments."""
        return self.engine_arguments() | {"max_overflow": 1}

    def prepare(self, engine: Engine) -> None:
        """Find out at the first connection whether the database can hold all of Unicode."""

        @sa.event.listens_for(engine, "connect", once=True)
        def check_encoding(connection: Any, record: Any) -> None:
            setattr(engine.dialect, tables.HOLDS_UNICODE, holds_unicode(connection))

    def missing_database(self) -> str:
        """Return the message that the server has no such database, with the command that makes it."""
        make = f"{self.make_command} {shlex.quote(str(self.url.database))}"
        return f"{self}: the server has no database of that name. Make it ({make}), or name another with --storage"

    def missing_permission(self, error: BaseException) -> str | None:
        """Return a message about the statement that the user may not use; None for another error."""
        if not denies_statement(error):
            return None
        return (
            f"{self} denies its user what this command does: {first_line(error)}. Reading needs SELECT on all tables "
            "of the database; workers need INSERT, UPDATE and DELETE as well"
        )

    @contextmanager
    def exclusive(self, name: str, patiently: Patiently) -> Iterator[None]:
        """Hold an advisory lock, on a separate connection because transactions use the engine's only one."""
        key = lock_key(f"{self.url.database}:{name}")
        take = self.take_lock.format(key=key)
        engine = self._lock_engine()

        def locked() -> Connection:
            connection = engine.connect()
            try:
                answer = connection.exec_driver_sql(take).scalar()
                connection.commit()
                if answer in (0, None):  # MariaDB's refusal; PostgreSQL returns an empty value for a lock
                    raise StorageError(f"{self} gave no lock {name}: {take.split('(')[0]} returned {answer}")
            except BaseException:
                connection.close()
                raise
            return connection

        with patiently(locked) as connection:
            try:
                yield
            finally:
                # A server that is gone has released the lock.
                with suppress(SQLAlchemyError):
                    connection.exec_driver_sql(self.free_lock.format(key=key))
                    connection.commit()

    def _lock_engine(self) -> Engine:
        return sa.create_engine(self.url, connect_args=self.lock_arguments(), poolclass=sa.NullPool)

    def lock_arguments(self) -> dict[str, Any]:
        """Return the arguments for the connection that waits for a lock."""
        return self.connect_arguments()


class PostgreSQL(Server):
    """PostgreSQL, through psycopg."""

    extra = "postgresql"
    make_command = "createdb"
    take_lock = "SELECT pg_advisory_lock({key})"
    free_lock = "SELECT pg_advisory_unlock({key})"

    def own_arguments(self) -> dict[str, Any]:
        """Return how to notice a dead network, and UTF-8 as the encoding: without one, psycopg would return bytes."""
        keepalives = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        return keepalives | {"tcp_user_timeout": ANSWER_SECONDS * 1000, "client_encoding": "utf8"}

    def connect_arguments(self) -> dict[str, Any]:
        """Return the arguments of every server's connection, and the URL's ``options`` with UTC as the time zone."""
        options = f"{self.url.query.get('options', '')} -c timezone=UTC".strip()
        return super().connect_arguments() | {"options": options}


class MariaDB(Server):
    """MariaDB or MySQL, through PyMySQL."""

    extra = "mysql"
    make_command = "mariadb-admin create"
    take_lock = f"SELECT GET_LOCK('{{key}}', {LONGEST_LOCK_SECONDS})"
    free_lock = "SELECT RELEASE_LOCK('{key}')"

    def own_arguments(self) -> dict[str, Any]:
        """Return how to notice a dead network."""
        return {"read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}

    def lock_arguments(self) -> dict[str, Any]:
        """Return the arguments of every connection, but without its limit on waiting for an answer."""
        return self.connect_arguments() | {"read_timeout": None}

    def prepare(self, engine: Engine) -> None:
        """Set the time zone to UTC as well.

        ``init_command`` would not do for that: it is a single statement, and the URL may set it.
        """

        @sa.event.listens_for(engine, "connect")
        def set_time_zone(connection: Any, record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET time_zone = '+00:00'")

        super().prepare(engine)

    def check_options(self) -> None:
        """Refuse options that PyMySQL does not know; it would raise a TypeError, as for a bug, at each connection."""
        dialect = self.url.get_dialect()
        _, options = dialect().create_connect_args(self.url)
        known = inspect.signature(dialect.import_dbapi().connections.Connection.__init__).parameters
        if unknown := sorted(options.keys() - known.keys()):
            raise StorageValueError(
                "The storage's URL has options that PyMySQL does not know; correct or remove them: "
                + ", ".join(unknown)
            )


BACKENDS: dict[str, type[Backend]] = {"sqlite": SQLite, "postgresql": PostgreSQL, "mysql": MariaDB}
"""The back ends by SQLAlchemy's name for them."""


def backend_of(url: URL, *, read_only: bool = False) -> Backend:
    """Return the back end of a URL from `parse_url`."""
    return BACKENDS[url.get_backend_name()](url, read_only=read_only)


def lock_key(name: str) -> int:
    """Return a name's hash as a number of 48 bits, which fits a signed 64-bit lock key."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)
