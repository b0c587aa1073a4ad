"""Opens the one database: SQLite, PostgreSQL or MariaDB/MySQL, for the ledger's tables and for Optuna's.

Commands that only read go through the ledger's engine alone, so that they start without importing Optuna.
"""

from __future__ import annotations

import hashlib
import inspect
import random
import re
import secrets
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from rust_optuna import locks
from rust_optuna.errors import MissingExtraError, NoDatabaseError, StorageError, StorageValueError
from rust_optuna.permissions import lack
from rust_optuna.processes import sleep_unless
from rust_optuna.search import migrations, sqlite_files, tables
from rust_optuna.search.encodings import holds_unicode
from rust_optuna.search.refusal import check_file_system, check_optuna
from rust_optuna.search.sqlite_files import BUSY_SECONDS

if TYPE_CHECKING:
    import optuna

    from rust_optuna.paths import Home

T = TypeVar("T")

PATIENCE_SECONDS = 3.0
"""How long a transaction that the database broke off (a dropped connection, a deadlock) is tried again."""
WORKER_PATIENCE_SECONDS = 600.0
"""The same for workers and their supervisors, which must outlive a database that is restarted."""
LOCK_SECONDS = 365 * 24 * 3600
"""How long a lock is waited for where that must be said."""
LONGEST_WAIT = 5.0
"""Seconds between two tries; they double from 0.1 up to this."""
ANSWER_SECONDS = 60
"""Without an answer for so long, a connection to a server is taken for dead."""
SHORT_NAMES = {"postgres": "postgresql"}
"""What other programs call a back end in a URL."""
ESCAPE_HINT = (
    "a special character of the password must be escaped in a URL (@ is %40, : is %3A, / is %2F, # is %23, ? is %3F, "
    "% is %25), or the password left out and its file named: --password-file FILE"
)
NO_DATABASE_ON_POSTGRESQL, NO_DATABASE_ON_MARIADB = re.compile(r'database ".*" does not exist'), (1049,)
"""What each says of a database that is not there."""
REFUSALS = ("password authentication failed", "no password supplied")
"""What PostgreSQL says of a wrong password, and its driver of a missing one."""
DENIED_BY_MARIADB = ((1142,), (1143,))
"""The numbers of its errors for a statement that its user may not use on a table, or on a column."""
REFUSED_BY_MARIADB = ((1044,), (1045,), (1698,))
"""The numbers of its errors for a wrong password, and for a database that is not for this user."""


def parse_url(text: str, home: Home, password_file: str | None = None, *, given_by: str = "The storage") -> URL:
    """Return the SQLAlchemy URL of a storage; a relative SQLite file lies below the home.

    Args:
        text: the URL.
        home: root of relative paths.
        password_file: holds the password of a server where the URL names none.
        given_by: what to call the URL in messages: the option or the variable that it comes from.

    Raises:
        StorageError: for a malformed URL, an unsupported database or an in-memory one, which workers cannot share; for
            a password file that is needed and cannot be used.
    """
    if lost := re.fullmatch(r"sqlite:/{0,2}([^/].*)", text):
        raise StorageValueError(
            f"{given_by} {text!r} lacks a slash: three stand before a path below the home (sqlite:///{lost[1]}), four "
            "before a whole path (sqlite:////FOLDER/NAME.db)"
        )
    scheme, separator, rest = text.partition("://")
    backend, plus, driver = scheme.partition("+")
    try:
        url = sa.make_url(SHORT_NAMES.get(backend, backend) + plus + driver + separator + rest)
    except (ArgumentError, ValueError):
        hint = f"; {ESCAPE_HINT}" if "@" in rest else ""
        # Where a password may hide, nobody can say which part it is.
        shown = "" if "@" in text or "pass" in text.lower() else f" {text!r}"
        raise StorageValueError(
            f"{given_by}{shown} is not an SQLAlchemy URL such as sqlite:///storage/rust_optuna.db or "
            f"postgresql://user@host/name{hint}"
        ) from None
    if backend != "sqlite" and "@" in f"{url.host}{url.database}":
        raise StorageValueError(f"{given_by} has more than one @ in its URL: {ESCAPE_HINT}")
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise StorageValueError(
                f"{given_by} names an in-memory SQLite database, which cannot be shared with workers: name a file"
            )
        return sqlite_url(home.resolve(url.database)).set(query=url.query)
    if password_file and url.password is None and not {"password", "passfile"} & set(url.query):
        url = url.set(password=_read_password(home.resolve(password_file)))
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend in ("mysql", "mariadb"):
        # Under the dialect name "mariadb" Optuna skips its MySQL upsert.
        return url.set(drivername="mysql+pymysql")
    raise StorageValueError(f"{given_by} names {backend}, which is not supported: use sqlite, postgresql or mysql")


def sqlite_url(file: Path) -> URL:
    """Return the URL of an SQLite file, whatever characters its name holds.

    Raises:
        StorageError: the name is not UTF-8, which a URL cannot say.
    """
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise StorageError(
            f"The database's path {str(file)!r} is not valid UTF-8: rename that folder, or name another file with "
            "--storage sqlite:////FOLDER/rust_optuna.db"
        ) from None
    return URL.create("sqlite", database=str(file))


def _read_password(path: Path) -> str:
    """Return the first line of a file, which is all it holds."""
    try:
        password = path.read_text(encoding="utf-8-sig").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StorageValueError(f"The password file {path} cannot be read: {what}") from None
    if not password or "\n" in password:
        raise StorageValueError(f"The password file {path} must hold the password on one line, and nothing else")
    return password


class Database:
    """One database, with the ledger's engine and, when asked for, Optuna's storage.

    Safe to share between threads, never across a fork. Use ``open_database`` to make one.

    Args:
        url: from ``parse_url``.
        read_only: refuse to write; on SQLite, readers then never take the writer's lock, and who may not write there
            reads copies in memory (`sqlite_files`).
        patience: seconds for which a transaction that the database broke off is tried again.
    """

    def __init__(self, url: URL, *, read_only: bool = False, patience: float = PATIENCE_SECONDS) -> None:
        self.url = url
        self.read_only = read_only
        self.patience = patience
        self._copied = self.is_sqlite and read_only and not sqlite_files.may_write(self.path)
        self.give_up: Callable[[], bool] = lambda: False
        """Asked while the database is away: true ends the patience at once."""
        self.engine = self._engine()

    def __str__(self) -> str:
        """Return the URL with its passwords hidden, those among its query parameters too."""
        hidden = {name: "***" for name in self.url.query if "pass" in name.lower()}
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is an embedded SQLite file."""
        return self.url.get_backend_name() == "sqlite"

    def _missing(self) -> str:
        """Say that the server has no such database, and what makes it."""
        name = shlex.quote(str(self.url.database))
        make = f"createdb {name}" if self.url.get_backend_name() == "postgresql" else f"mariadb-admin create {name}"
        return f"{self}: the server has no database of that name. Make it ({make}), or name another one: --storage URL"

    def _away(self) -> str:
        """Say what to do about a server that does not answer."""
        if self.is_sqlite:
            return ""
        return ". Look whether the server runs and can be reached from here, or name another one: --storage URL"

    @property
    def path(self) -> Path:
        """The file, of SQLite alone."""
        return Path(str(self.url.database))

    @property
    def _engine_arguments(self) -> dict[str, Any]:
        if self._copied:
            return {"creator": lambda: sqlite_files.copy(self.path)}
        if self.is_sqlite:
            return {"connect_args": {"timeout": BUSY_SECONDS}}
        # One connection an engine: a worker's threads take turns, and a server has few connections to give.
        pool = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 0}
        return {"connect_args": self._connect_arguments, "isolation_level": "READ COMMITTED", **pool}

    @property
    def _optunas_engine_arguments(self) -> dict[str, Any]:
        """Its storage opens a second connection for moments."""
        return self._engine_arguments | ({} if self.is_sqlite else {"max_overflow": 1})

    @property
    def _connect_arguments(self) -> dict[str, Any]:
        """Return what every connection to a server is told: not to wait for ever on a dead network; PostgreSQL, UTC.

        Text travels as UTF-8: a PostgreSQL without an encoding would hand out bytes.

        What the URL says of these stands: SQLAlchemy would let them replace it.
        """
        ours: dict[str, Any] = {"connect_timeout": 10}
        if self.url.get_backend_name() == "postgresql":
            ours |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
            ours |= {"tcp_user_timeout": ANSWER_SECONDS * 1000, "client_encoding": "utf8"}
        else:
            ours |= {"read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
        ours = {name: value for name, value in ours.items() if name not in self.url.query}
        if self.url.get_backend_name() == "postgresql":
            ours["options"] = f"{self.url.query.get('options', '')} -c timezone=UTC".strip()
        return ours

    def _engine(self) -> Engine:
        try:
            engine = sa.create_engine(self.url, **self._engine_arguments)
            _refuse_unknown_options(self.url)
        except NoSuchModuleError:
            raise StorageValueError(f"{self.url.drivername} is not a database that SQLAlchemy knows") from None
        except ValueError as error:
            raise StorageValueError(f"The storage's URL has an option that cannot be used: {error}") from None
        except ImportError as error:
            extra = "postgresql" if self.url.get_backend_name() == "postgresql" else "mysql"
            raise MissingExtraError(str(error.name), extra) from None
        self._prepare(engine)
        return engine

    def _prepare(self, engine: Engine) -> None:
        """Make SQLite transactions what the ledger needs: write-ahead log, and the writer's lock taken at BEGIN.

        Python's driver begins transactions late and deferred, where a read followed by a write fails at once with
        "database is locked" instead of waiting.

        MariaDB is told UTC here: ``init_command`` is one statement, and may be the URL's.
        """
        if self.url.get_backend_name() == "mysql":

            @sa.event.listens_for(engine, "connect")
            def tell_time(connection: Any, record: Any) -> None:
                with connection.cursor() as cursor:
                    cursor.execute("SET time_zone = '+00:00'")

        if not self.is_sqlite:

            @sa.event.listens_for(engine, "connect", once=True)
            def look(connection: Any, record: Any) -> None:
                setattr(engine.dialect, tables.HOLDS_UNICODE, holds_unicode(connection))

            return
        begin = "BEGIN" if self.read_only else "BEGIN IMMEDIATE"

        @sa.event.listens_for(engine, "connect")
        def connect(connection: Any, record: Any) -> None:
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
            cursor.execute("PRAGMA foreign_keys = ON")
            if self.read_only:
                cursor.execute("PRAGMA query_only = ON")
            else:
                cursor.execute("PRAGMA journal_mode = WAL")
            cursor.close()

        if self._copied:

            @sa.event.listens_for(engine, "checkout")
            def renew(connection: sqlite_files.Copy, record: Any, proxy: Any) -> None:
                if connection.state != sqlite_files.state(self.path):
                    raise DisconnectionError("it has changed since it was copied")

        @sa.event.listens_for(engine, "begin")
        def immediate(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

    @cached_property
    def storage(self) -> optuna.storages.RDBStorage:
        """Optuna's storage in the same database, with the same rules for its connections."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        text = self.url.render_as_string(hide_password=False)
        try:
            # Its tables are there: ``create`` made them, under a lock.
            storage = self.patiently(
                lambda: optuna.storages.RDBStorage(
                    text, engine_kwargs=self._optunas_engine_arguments, skip_table_creation=True
                )
            )
        except RuntimeError as error:
            raise StorageError(f"{self} was written by another version of Optuna: {error}") from error
        storage.engine.dispose()
        self._prepare(storage.engine)
        return storage

    def create(self, artifacts: str) -> None:
        """Make the tables where they are missing; safe to call from many processes at once, and after it was killed.

        Raises:
            StorageError: the database cannot hold where the artifacts are.
        """
        import optuna

        if self.is_sqlite:
            sqlite_files.make(self.path)
        with self.exclusive("schema"):
            if self.version() is None:
                self._check_location(artifacts)
                text = self.url.render_as_string(hide_password=False)
                optuna.storages.RDBStorage(text, engine_kwargs=self._optunas_engine_arguments).engine.dispose()
                with self.engine.begin() as connection:
                    migrations.clear(connection)
                    migrations.upgrade(connection, None)
                    row = {"version": tables.SCHEMA_VERSION, "artifacts": artifacts, "token": secrets.token_hex(16)}
                    connection.execute(tables.schema.insert().values(row))

    def _check_location(self, artifacts: str) -> None:
        """Refuse to make a database that could not hold where its artifacts lie; it has been connected to."""
        if artifacts.isascii():
            return
        if any("\ud800" <= character <= "\udfff" for character in artifacts):
            raise StorageError(f"The artifacts' location {artifacts!r} is not valid UTF-8: name another folder")
        if not getattr(self.engine.dialect, tables.HOLDS_UNICODE, True):
            raise StorageError(
                f"{self} was made with an encoding that may not hold the artifacts' location {artifacts}: name a "
                "folder in ASCII, or make the database anew in UTF-8 (createdb --encoding=UTF8 --template=template0 "
                "NAME, or, in MariaDB, CREATE DATABASE NAME CHARACTER SET utf8mb4)"
            )

    def upgrade(self) -> int | None:
        """Bring tables of an earlier version up to date; return that version, None where there are none.

        Raises:
            StorageError: they are of a later version than this program knows, or the database does not answer.
        """
        if self.is_sqlite and not self.path.is_file():
            return None
        check_permission(self.url, write=True)
        try:
            return self._upgrade()
        except SQLAlchemyError as error:
            raise StorageError(f"{self} cannot be upgraded: {first_line(error)}") from error

    def _upgrade(self) -> int | None:
        with self.exclusive("schema"):
            version = self.version()
            if version is not None and version > tables.SCHEMA_VERSION:
                raise StorageError(_other_version(self, version))
            if version is not None and version < tables.SCHEMA_VERSION:
                with self.engine.begin() as connection:
                    migrations.upgrade(connection, version)
        return version

    def version(self) -> int | None:
        """Return the version of the ledger's tables here, None where there are none."""
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table(tables.schema.name):
                return None
            return connection.execute(sa.select(tables.schema.c.version)).scalar()

    def artifacts(self) -> str:
        """Return where this storage's artifacts lie, as recorded at its creation."""
        return self.transact(lambda c: str(c.execute(sa.select(tables.schema.c.artifacts)).scalar_one()))

    def transact(self, function: Callable[[Connection], T]) -> T:
        """Run ``function`` in one transaction, again where the database broke it off.

        ``function`` must be safe to repeat after a commit whose answer was lost.

        Raises:
            StorageError: the database cannot be reached, or refuses its user.
        """

        def once() -> T:
            with self.engine.begin() as connection:
                return function(connection)

        return self.patiently(once)

    def patiently(self, function: Callable[[], T]) -> T:
        """Call ``function``, again while it fails for a trouble that may pass, until the patience is used up.

        For what Optuna's storage does, too. Errors that are no trouble of the database are raised as they are.

        Raises:
            StorageError: the trouble lasts, or the database refuses its user.
        """
        began, wait = time.monotonic(), 0.1
        while True:
            try:
                return function()
            except Exception as error:
                if is_missing(error):
                    raise StorageError(self._missing()) from error
                if refuses(error):
                    raise StorageError(f"{self} refuses its user: {first_line(error)}") from error
                if words := self._lacks(error):
                    raise StorageError(words) from error
                if not passes(error):
                    raise
                late = time.monotonic() - began + wait > self.patience
                if not late:
                    sleep_unless(self.give_up, wait * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)
                if late or self.give_up():
                    raise StorageError(f"{self} does not answer: {first_line(error)}{self._away()}") from error
            wait = min(2 * wait, LONGEST_WAIT)

    def _lacks(self, error: BaseException) -> str | None:
        """Say which permission this process or its user lacks, where that is why the database failed."""
        if self.is_sqlite and not self.read_only and (denies(error) or passes(error)):
            return sqlite_files.lack_to_write(self.path)
        if not self.is_sqlite and denies(error):
            return (
                f"{self} denies its user what this command does: {first_line(error)}. Reading takes SELECT on all "
                "tables of the database, and working INSERT, UPDATE and DELETE besides"
            )
        return None

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold a lock that every process on this database respects and that its holder's death releases.

        It is no transaction: Optuna's storage can write meanwhile.

        Raises:
            StorageError: the database cannot be reached, or refuses its user.
        """
        if self.is_sqlite:
            # One lock for all names: they are held briefly, and one file beside the database is enough.
            with locks.locked(Path(f"{self.path}.lock")):
                yield
            return
        key = int(name_digest(f"{self.url.database}:{name}"), 16)
        if self.url.get_backend_name() == "postgresql":
            take, free = f"SELECT pg_advisory_lock({key})", f"SELECT pg_advisory_unlock({key})"
        else:
            # MariaDB takes no negative number for "for ever", and then gives no lock.
            take, free = f"SELECT GET_LOCK('{key}', {LOCK_SECONDS})", f"SELECT RELEASE_LOCK('{key}')"

        def locked() -> Connection:
            # A connection of its own: the block's transactions use the engine's only one.
            connection = self._lock_engine.connect()
            try:
                taken = connection.exec_driver_sql(take).scalar()
                connection.commit()
                if taken in (0, None):  # MariaDB's way of saying no; PostgreSQL returns an empty value
                    raise StorageError(f"{self} gave no lock {name}: {take.split('(')[0]} returned {taken}")
            except BaseException:
                connection.close()
                raise
            return connection

        with self.patiently(locked) as connection:
            try:
                yield
            finally:
                # A server that has gone has freed it.
                with suppress(SQLAlchemyError):
                    connection.exec_driver_sql(free)
                    connection.commit()

    @cached_property
    def _lock_engine(self) -> Engine:
        connect = self._connect_arguments
        if self.url.get_backend_name() == "mysql":
            connect["read_timeout"] = None  # a lock is waited for, whatever the URL says
        return sa.create_engine(self.url, connect_args=connect, poolclass=sa.NullPool)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if "storage" in self.__dict__:
            self.storage.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _refuse_unknown_options(url: URL) -> None:
    """Refuse options that PyMySQL does not know: it would say so, as of a bug, at each connection."""
    if url.get_backend_name() != "mysql":
        return
    dialect = url.get_dialect()
    _, options = dialect().create_connect_args(url)
    known = inspect.signature(dialect.import_dbapi().connections.Connection.__init__).parameters
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise StorageValueError(f"The storage's URL has an option that PyMySQL does not know: {', '.join(unknown)}")


def name_digest(name: str) -> str:
    """Return 12 hexadecimal digits (48 bits: within a signed 64-bit lock key) that stand for ``name``."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def passes(error: BaseException) -> bool:
    """Say whether an error of the database is a trouble that may pass: no connection, a deadlock, a full disk."""
    cause = _cause(error)
    if isinstance(cause, DBAPIError):
        # InternalError: a statement after the one that broke the transaction.
        known = isinstance(cause, OperationalError | InterfaceError | InternalError) or cause.connection_invalidated
        return known and not str(cause.orig).startswith("no such ") and not refuses(cause) and not denies(cause)
    return isinstance(cause, PoolTimeoutError | PendingRollbackError)


def refuses(error: BaseException) -> bool:
    """Say whether the server turned the user away: waiting does not make a wrong password right."""
    orig = getattr(_cause(error), "orig", None)
    if orig is None:
        return False
    # psycopg gives no SQLSTATE where the connection itself failed.
    said = str(getattr(orig, "sqlstate", None) or "").startswith("28") or any(words in str(orig) for words in REFUSALS)
    return said or orig.args[:1] in REFUSED_BY_MARIADB


def denies(error: BaseException) -> bool:
    """Say whether the database let its user in, and then did not let them read or write what they wanted to."""
    orig = getattr(_cause(error), "orig", None)
    if isinstance(orig, sqlite3.Error):
        return getattr(orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY
    return orig is not None and (getattr(orig, "sqlstate", None) == "42501" or orig.args[:1] in DENIED_BY_MARIADB)


def is_missing(error: BaseException) -> bool:
    """Say whether a server answered that it has no database of that name: waiting does not make it."""
    orig = getattr(_cause(error), "orig", None)
    if orig is None:
        return False
    return bool(NO_DATABASE_ON_POSTGRESQL.search(str(orig))) or orig.args[:1] == NO_DATABASE_ON_MARIADB


def _cause(error: BaseException) -> BaseException:
    """Return what SQLAlchemy raised where Optuna's storage wrapped it, else the error itself."""
    wrapped = type(error).__name__ == "StorageInternalError"
    return error.__cause__ if wrapped and error.__cause__ is not None else error


def open_database(url: URL, *, read_only: bool = False, patience: float = PATIENCE_SECONDS) -> Database:
    """Open an existing database.

    Args:
        url: from ``parse_url``.
        read_only: see `Database`.
        patience: likewise, once it is open.

    Raises:
        StorageError: there is none, it cannot be reached, it must not be used from where it lies, or another version
            of this program or of Optuna made it.
    """
    if url.get_backend_name() == "sqlite":
        check_permission(url, write=False)
        if not Path(str(url.database)).is_file():
            raise NoDatabaseError(
                f"No database at {url.database}. If it lies elsewhere, name its folder with --home or its URL with "
                "--storage; a new one is made by rust-optuna study create STUDY.toml, or by search"
            )
    _check_place(url)
    if not read_only:
        check_permission(url, write=True)
    database = Database(url, read_only=read_only)
    _check_version(database)
    database.transact(lambda connection: check_optuna(connection, str(database)))
    database.patience = patience  # afterwards: a wrong URL is told at once
    return database


def create_database(url: URL, artifacts: str) -> Database:
    """Open a database, with its tables made where they are missing.

    Raises:
        StorageError: it cannot be reached, it must not be made there, or another version of this program or of Optuna
            made it.
    """
    _check_place(url)
    check_permission(url, write=True)
    database = Database(url)
    try:
        if not database.is_sqlite or Path(str(url.database)).is_file():
            database.transact(lambda connection: check_optuna(connection, str(database)))
        database.create(artifacts)
    except SQLAlchemyError as error:
        raise StorageError(f"{database} cannot be used: {first_line(error)}") from error
    _check_version(database)
    return database


def may_write(url: URL) -> bool:
    """Say whether this process may write a database's files; what a server's user may, only the server knows."""
    return url.get_backend_name() != "sqlite" or sqlite_files.may_write(Path(str(url.database)))


def _check_place(url: URL) -> None:
    if url.get_backend_name() == "sqlite":
        check_file_system(Path(str(url.database)))


def check_permission(url: URL, *, write: bool) -> None:
    """Raise StorageError where an SQLite file cannot be read, or not be written or made."""
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database))
        words = lack(path, write=False) or (sqlite_files.lack_to_write(path) if write else None)
        if words:
            raise StorageError(words)


def _check_version(database: Database) -> None:
    """Raise StorageError unless the ledger's tables are there, in this program's version."""
    try:
        version = database.patiently(database.version)
    except SQLAlchemyError as error:
        raise StorageError(f"{database} cannot be read: {first_line(error)}") from error
    if version is None:
        raise NoDatabaseError(
            f"{database} holds no studies yet: rust-optuna study create STUDY.toml makes one. If there are some "
            "elsewhere, name their database with --storage"
        )
    if version != tables.SCHEMA_VERSION:
        raise StorageError(_other_version(database, version))


def _other_version(database: Database, version: int) -> str:
    what = "stop its workers, then run rust-optuna storage upgrade"
    if version > tables.SCHEMA_VERSION:
        what = "use the version of rust_optuna that made it, or a later one"
    return f"{database} has tables of version {version}; this program knows version {tables.SCHEMA_VERSION}: {what}"


def first_line(error: BaseException) -> str:
    """Return the first line of what the database itself said."""
    cause = _cause(error)
    cause = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
