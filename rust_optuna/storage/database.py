"""The one database, on SQLite, PostgreSQL or MariaDB/MySQL, with the ledger's tables and Optuna's.

Commands that only read use the ledger's engine alone, so that they start without importing Optuna.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import (
    NoSuchModuleError,
    SQLAlchemyError,
)

from rust_optuna.errors import MissingExtraError, NoDatabaseError, StorageError, StorageValueError
from rust_optuna.processes import sleep_unless
from rust_optuna.storage import migrations, tables
from rust_optuna.storage.backends import backend_of
from rust_optuna.storage.outages import first_line, is_missing, may_pass, refuses_user
from rust_optuna.storage.refusal import check_optuna
from rust_optuna.storage.url import ESCAPE_HINT

if TYPE_CHECKING:
    import optuna


T = TypeVar("T")

PATIENCE_SECONDS = 3.0
"""How long a transaction is retried after the database broke it off (a dropped connection, a deadlock)."""
WORKER_PATIENCE_SECONDS = 600.0
"""How long workers and their supervisors retry, which must outlast a restart of the database."""
LONGEST_WAIT = 5.0
"""The longest wait between two tries, in seconds; waits double from 0.1 up to this."""
_REFUSED = f"If this is not the password you meant: {ESCAPE_HINT}"


class Database:
    """One database, with the ledger's engine and, at first use, Optuna's storage.

    A database may be shared between threads, but not across a fork. ``open_database`` makes one and checks it.

    Args:
        url: the database's URL, from ``parse_url``.
        read_only: whether to refuse to write. On SQLite a reader then never takes the writer's lock, and a user who may
            not write there reads copies in memory (`sqlite_files`).
        patience: the seconds for which a transaction that the database broke off is retried.
    """

    def __init__(self, url: URL, *, read_only: bool = False, patience: float = PATIENCE_SECONDS) -> None:
        self.url = url
        self.read_only = read_only
        self.patience = patience
        self.backend = backend_of(url, read_only=read_only)
        self.give_up: Callable[[], bool] = lambda: False
        """A function that is called while the database is away; a true result ends the retries at once."""
        self.engine = self._engine()

    def __str__(self) -> str:
        return str(self.backend)

    def _engine(self) -> Engine:
        try:
            engine = sa.create_engine(self.url, **self.backend.engine_arguments())
            self.backend.check_options()
        except NoSuchModuleError:
            raise StorageValueError(
                f"The storage's URL names {self.url.drivername}, which SQLAlchemy does not know: use sqlite, "
                "postgresql or mysql"
            ) from None
        except ValueError as error:
            raise StorageValueError(
                f"The storage's URL has an option that cannot be used; correct or remove it: {error}"
            ) from None
        except ImportError as error:
            if self.backend.extra is None:
                raise
            raise MissingExtraError(str(error.name), self.backend.extra) from None
        self.backend.prepare(engine)
        return engine

    @cached_property
    def storage(self) -> optuna.storages.RDBStorage:
        """Optuna's storage in the same database, whose connections are set up in the same way."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        text = self.url.render_as_string(hide_password=False)
        try:
            # ``create`` has made Optuna's tables, under a lock.
            storage = self.patiently(
                lambda: optuna.storages.RDBStorage(
                    text, engine_kwargs=self.backend.optunas_engine_arguments(), skip_table_creation=True
                )
            )
        except RuntimeError as error:
            raise StorageError(
                f"{self} was written by another version of Optuna; install that version, or name another database with "
                f"--storage: {error}"
            ) from error
        storage.engine.dispose()
        self.backend.prepare(storage.engine)
        return storage

    def create(self, artifacts: str) -> None:
        """Make the tables if they are missing.

        Many processes may call this at once, and it may be called again after it was killed.

        Raises:
            StorageError: the database cannot store the artifacts' location.
        """
        import optuna

        self.backend.make()
        with self.exclusive("schema"):
            if self.version() is None:
                self._check_location(artifacts)
                text = self.url.render_as_string(hide_password=False)
                optuna.storages.RDBStorage(text, engine_kwargs=self.backend.optunas_engine_arguments()).engine.dispose()
                with self.engine.begin() as connection:
                    migrations.clear(connection)
                    migrations.upgrade(connection, None)
                    row = {"version": tables.SCHEMA_VERSION, "artifacts": artifacts, "token": secrets.token_hex(16)}
                    connection.execute(tables.schema.insert().values(row))

    def _check_location(self, artifacts: str) -> None:
        """Refuse a database that could not store its artifacts' location; a connection has been made before."""
        if artifacts.isascii():
            return
        if any("\ud800" <= character <= "\udfff" for character in artifacts):
            raise StorageError(f"The artifacts' location {artifacts!r} is not valid UTF-8: name another folder")
        if not getattr(self.engine.dialect, tables.HOLDS_UNICODE, True):
            raise StorageError(
                f"{self} was made with an encoding that may not hold the artifacts' location {artifacts}: name a "
                "folder in ASCII, or make a new database in UTF-8 (createdb --encoding=UTF8 --template=template0 "
                "NAME, or, in MariaDB, CREATE DATABASE NAME CHARACTER SET utf8mb4)"
            )

    def upgrade(self) -> int | None:
        """Bring tables of an earlier version up to date; return that version, or None if there are no tables.

        Raises:
            StorageError: the tables are of a later version than this program knows, or the database does not answer.
        """
        if self.backend.file is not None and not self.backend.file.is_file():
            return None
        self.backend.check_permission(write=True)
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
        """Return the version of the ledger's tables in this database, or None if there are none."""
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table(tables.schema.name):
                return None
            return connection.execute(sa.select(tables.schema.c.version)).scalar()

    def artifacts(self) -> str:
        """Return the location of this storage's artifacts, as recorded when its tables were made."""
        query = sa.select(tables.schema.c.artifacts)
        return self.transact(lambda connection: str(connection.execute(query).scalar_one()))

    def transact(self, function: Callable[[Connection], T]) -> T:
        """Run ``function`` in one transaction, and again each time the database breaks the transaction off.

        ``function`` must be safe to repeat after a commit whose answer was lost.

        Raises:
            StorageError: the database cannot be reached, or refuses its user.
        """

        def once() -> T:
            with self.engine.begin() as connection:
                return function(connection)

        return self.patiently(once)

    def patiently(self, function: Callable[[], T]) -> T:
        """Call ``function``, and retry while it fails for a reason that may pass, until the patience is used up.

        ``function`` may use Optuna's storage as well. Errors that are not the database's are raised unchanged.

        Raises:
            StorageError: the database still fails after the last retry, or it refuses its user.
        """
        began, wait = time.monotonic(), 0.1
        while True:
            try:
                return function()
            except Exception as error:
                if is_missing(error):
                    raise StorageError(self.backend.missing_database()) from error
                if refuses_user(error):
                    raise StorageError(f"{self} refuses its user: {first_line(error)}. {_REFUSED}") from error
                if message := self.backend.missing_permission(error):
                    raise StorageError(message) from error
                if not may_pass(error):
                    raise
                late = time.monotonic() - began + wait > self.patience
                if not late:
                    sleep_unless(self.give_up, wait * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)
                if late or self.give_up():
                    message = f"{self} does not answer: {first_line(error)}{self.backend.outage_hint}"
                    raise StorageError(message) from error
            wait = min(2 * wait, LONGEST_WAIT)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold a lock that every process on this database respects, and that is released if its holder dies.

        The lock opens no transaction, so Optuna's storage can write meanwhile.

        Raises:
            StorageError: the database cannot be reached, or refuses its user.
        """
        with self.backend.exclusive(name, self.patiently):
            yield

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if "storage" in self.__dict__:
            self.storage.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_database(url: URL, *, read_only: bool = False, patience: float = PATIENCE_SECONDS) -> Database:
    """Open an existing database.

    Args:
        url: the database's URL, from ``parse_url``.
        read_only: see `Database`.
        patience: see `Database`; it applies once the database is open.

    Raises:
        StorageError: the database does not exist or cannot be reached, it lies where it must not be used, or another
            version of this program or of Optuna made it.
    """
    backend = backend_of(url, read_only=read_only)
    backend.check_permission(write=False)
    if backend.file is not None and not backend.file.is_file():
        raise NoDatabaseError(
            f"No database at {url.database}. If it lies elsewhere, name its folder with --home or its URL with "
            "--storage; to make a new one, run rust-optuna study create STUDY.toml or rust-optuna search STUDY.toml"
        )
    backend.check_place()
    if not read_only:
        backend.check_permission(write=True)
    database = Database(url, read_only=read_only)
    _check_version(database)
    database.transact(lambda connection: check_optuna(connection, str(database)))
    database.patience = patience  # set last, so that a wrong URL is reported without long retries
    return database


def create_database(url: URL, artifacts: str) -> Database:
    """Open a database, and make its tables if they are missing.

    Raises:
        StorageError: the database cannot be reached, it must not lie there, or another version of this program or of
            Optuna made it.
    """
    database = Database(url)
    backend = database.backend
    backend.check_place()
    backend.check_permission(write=True)
    try:
        if backend.file is None or backend.file.is_file():
            database.transact(lambda connection: check_optuna(connection, str(database)))
        database.create(artifacts)
    except SQLAlchemyError as error:
        raise StorageError(f"{database} cannot be used: {first_line(error)}") from error
    _check_version(database)
    return database


def _check_version(database: Database) -> None:
    """Raise StorageError unless the ledger's tables exist in this program's version."""
    try:
        version = database.patiently(database.version)
    except SQLAlchemyError as error:
        raise StorageError(f"{database} cannot be read: {first_line(error)}") from error
    if version is None:
        raise NoDatabaseError(
            f"{database} holds no studies yet: rust-optuna study create STUDY.toml makes one. If your studies are in "
            "another database, name it with --storage"
        )
    if version != tables.SCHEMA_VERSION:
        raise StorageError(_other_version(database, version))


def _other_version(database: Database, version: int) -> str:
    advice = "stop its workers, then run rust-optuna storage upgrade"
    if version > tables.SCHEMA_VERSION:
        advice = "use the version of rust_optuna that made them, or a later one"
    return f"{database} has tables of version {version}, and this program needs {tables.SCHEMA_VERSION}: {advice}"
