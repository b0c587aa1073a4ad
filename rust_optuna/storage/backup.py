"""Backup of a storage to one file, and restoration: studies, points, attempts and Optuna's trials, not the artifacts.

A backup holds the database as it was at one moment, however many workers write to it meanwhile. Points that were
running at that moment are running in the backup too. After a restoration their leases have ended, and the points go
back to the queue.
"""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from rust_optuna.errors import NoDatabaseError, StorageError, StorageValueError
from rust_optuna.paths import atomic_write
from rust_optuna.storage import sqlite_files, tables
from rust_optuna.storage.backends import backend_of
from rust_optuna.storage.database import Database
from rust_optuna.storage.outages import first_line
from rust_optuna.storage.refusal import check_file_system
from rust_optuna.storage.roster import count_at_work
from rust_optuna.storage.sqlite_files import BUSY_SECONDS

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
MAGIC = {b"SQLite format 3\0": SQLITE, b"PGDMP": POSTGRESQL}
"""The first bytes of a backup, and the database that it is a backup of."""
STUDIES = (tables.study.name, "studies")
"""The tables, ours and Optuna's, in which a study has a row."""
LONGEST_MESSAGE = 1000
"""The number of characters of a program's error message that are passed on."""
HEARD_SECONDS = 90.0
"""How recent a worker's last sign of life must be for it to count as running; an idle worker gives one each minute."""
LOCK_SECONDS = 60
"""How long a restoration waits for a table that a worker has locked."""


def backup(url: URL, file: Path) -> int:
    """Write the whole database, with tables of any version, to a new file; return the file's size in bytes.

    SQLite is copied with its online backup, PostgreSQL with ``pg_dump``. A backup that fails leaves no file.

    Raises:
        StorageError: there is no such storage, the file exists, or the database is neither SQLite nor PostgreSQL.
    """
    kind = _kind(url)
    if file.exists():
        raise StorageError(f"{file} already exists, and a backup never overwrites a file: name a new one")
    if kind == SQLITE and not Path(str(url.database)).is_file():
        raise NoDatabaseError(f"No database at {url.database}: there is nothing to back up")
    backend_of(url).check_permission(write=False)
    with _reading(url) as database:
        if database.version() is None:
            raise NoDatabaseError(f"{database} holds no studies yet: there is nothing to back up")
    with atomic_write(file) as temporary:
        if kind == SQLITE:
            _copy_sqlite(Path(str(url.database)), temporary)
        else:
            _run("pg_dump", url, ["--format=custom", f"--file={temporary}"])
        return temporary.stat().st_size


def restore(url: URL, file: Path, *, force: bool = False, workers_are_dead: bool = False) -> None:
    """Restore the database to what it was when the file was written. If anything fails, nothing is changed.

    Args:
        url: the database. An SQLite file is made where it is missing; a PostgreSQL database must exist.
        file: a file that ``backup`` wrote.
        force: whether to restore even if the database holds studies, which are then lost.
        workers_are_dead: whether to restore even if workers seem to be at work on the database.

    Raises:
        StorageError: the file is not a backup of this kind of database, or comes from a later version of this program;
            or the database holds studies, or workers seem to be at work on it.
    """
    kind = _kind(url)
    _check_backup(file, kind)
    if kind == SQLITE:
        path = Path(str(url.database))
        check_file_system(path)
        backend_of(url).check_permission(write=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    with Database(url).exclusive("schema"):
        if not workers_are_dead:
            _refuse_workers(url)
        if not force:
            _refuse_studies(url)
        if kind == SQLITE:
            _copy_sqlite(file, Path(str(url.database)), standalone=False)
        else:
            options = ["--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction"]
            _run("pg_restore", url, [*options, str(file)])


def _kind(url: URL) -> str:
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StorageError(
            "Only SQLite and PostgreSQL can be backed up. For MariaDB and MySQL use their own programs: "
            "mariadb-dump --single-transaction NAME > FILE to back up, and mariadb NAME < FILE to restore"
        )
    return SQLITE if backend == "sqlite" else POSTGRESQL


@contextmanager
def _reading(url: URL) -> Iterator[Database]:
    with Database(url, read_only=True) as database:
        try:
            yield database
        except SQLAlchemyError as error:
            raise StorageError(f"{database} cannot be read: {first_line(error)}") from error


def _refuse_studies(url: URL) -> None:
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        return
    with _reading(url) as database, database.engine.connect() as connection:
        names = [name for name in STUDIES if sa.inspect(connection).has_table(name)]
        counts = [connection.execute(sa.select(sa.func.count()).select_from(sa.table(name))).scalar() for name in names]
        if largest := max((count or 0 for count in counts), default=0):
            studies = "1 study" if largest == 1 else f"{largest} studies"
            raise StorageError(
                f"{database} holds {studies}, which would be lost: restore into another database, or use --force"
            )


def _refuse_workers(url: URL) -> None:
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        return
    try:
        with _reading(url) as database:
            if database.version() is None:
                return
            count, seconds = count_at_work(database, HEARD_SECONDS)
    except StorageError:
        return  # no worker can use a database that cannot be read, and being unreadable is why it is restored
    if count:
        raise StorageError(
            f"{count} {'worker seems' if count == 1 else 'workers seem'} to be at work (a sign of life in the last "
            f"{HEARD_SECONDS:.0f} seconds, or a point held): rust-optuna worker list shows which; stop them first. If "
            f"they are dead, wait {math.ceil(seconds)} seconds and try again, or use --workers-are-dead"
        )


def _copy_sqlite(source: Path, target: Path, *, standalone: bool = True) -> None:
    """Copy a database in one transaction on each side, so that readers of the target see it before or after.

    Args:
        source: the database to copy; it is only read.
        target: the database to replace; it is made where it is missing.
        standalone: whether to leave no write-ahead log beside the target.
    """
    sqlite_files.make(target)
    try:
        with (
            closing(sqlite_files.read(source)) as reader,
            closing(sqlite3.connect(target, timeout=BUSY_SECONDS)) as writer,
        ):
            reader.backup(writer)
            if standalone:
                writer.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise StorageError(f"{source} could not be copied to {target}: {error}") from error


def _check_backup(file: Path, kind: str) -> None:
    with file.open("rb") as opened:
        start = opened.read(16)
    file_kind = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
    if file_kind is None:
        raise StorageValueError(f"{file} is not a backup: name a file that rust-optuna storage backup wrote")
    if file_kind != kind:
        raise StorageValueError(
            f"{file} is a backup of {file_kind}, and the storage is {kind}: name a {file_kind} database with --storage"
        )
    version = _version_in_sqlite(file) if kind == SQLITE else _version_in_dump(file)
    if version is None:
        raise StorageValueError(
            f"{file} is a {kind} database that this program did not write: name a file that rust-optuna storage backup "
            "wrote"
        )
    if version > tables.SCHEMA_VERSION:
        raise StorageError(
            f"{file} has tables of version {version}, and this program knows versions up to {tables.SCHEMA_VERSION}: "
            "use the version of rust_optuna that wrote it, or a later one"
        )


def _version_in_sqlite(file: Path) -> int | None:
    # With immutable=1 SQLite writes nothing beside the file and takes no locks.
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as connection:
        try:
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise StorageError(f"{file} is damaged; use another backup: {damage}")
            return _first_number(connection.execute(f"SELECT version FROM {tables.schema.name}").fetchone())  # noqa: S608
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError as error:
            raise StorageError(f"{file} is damaged; use another backup: {error}") from error


def _version_in_dump(file: Path) -> int | None:
    # pg_restore prints the rows as text: COPY table (columns) FROM stdin, then one line for each row.
    text = _run("pg_restore", None, ["--data-only", f"--table={tables.schema.name}", "--file=-", str(file)])
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("COPY "):
            return _first_number(next(lines, "").split("\t"))
    return None


def _first_number(row: Any) -> int | None:
    return int(row[0]) if row and str(row[0]).isdigit() else None


def _run(name: str, url: URL | None, arguments: list[str]) -> str:
    """Run one of PostgreSQL's programs to its end; return what it printed.

    Raises:
        StorageError: the program is not installed, or it failed. The message quotes the program, which explains, for
            example, that versions do not match.
    """
    program = shutil.which(name)
    if program is None:
        raise StorageError(
            f"{name} is not on the PATH: install PostgreSQL's client programs, of the server's version or a later one"
        )
    target, password = ([], {}) if url is None else _connection(url)
    process = subprocess.run(
        [program, *target, *arguments],
        env={**os.environ, **password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if process.returncode:
        message = " ".join(process.stderr.split())[:LONGEST_MESSAGE]
        raise StorageError(f"{name} failed, and nothing was changed: {message}")
    return process.stdout


def _connection(url: URL) -> tuple[list[str], Mapping[str, str]]:
    """Return the arguments by which PostgreSQL's programs connect, and the environment variable with the password."""
    from psycopg.conninfo import make_conninfo

    _, settings = url.get_dialect()().create_connect_args(url)
    password = settings.pop("password", None)
    if "sslpassword" in settings:
        raise StorageError(
            "The sslpassword in the storage's URL would show in a command line: use a key that needs none"
        )
    # The timeout goes here and not into PGOPTIONS, which options in the URL would replace.
    settings["options"] = f"{settings.get('options', '')} -c lock_timeout={LOCK_SECONDS}s".strip()
    environment = {} if password is None else {"PGPASSWORD": str(password)}
    return ["--no-password", f"--dbname={make_conninfo(**settings)}"], environment
