"""A storage in one file, and back: studies, points, attempts and Optuna's trials, without the artifacts.

A backup is one moment of the database, however many workers write to it meanwhile. What ran at that moment runs in the
backup too: restored, its leases have ended, and its points go back to the queue.
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
from rust_optuna.storage.roster import at_work
from rust_optuna.storage.sqlite_files import BUSY_SECONDS

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
MAGIC = {b"SQLite format 3\0": SQLITE, b"PGDMP": POSTGRESQL}
"""How a backup begins, and what it is a backup of."""
STUDIES = (tables.study.name, "studies")
"""The tables, ours and Optuna's, in which a study has a row."""
LONGEST_WORDS = 1000
"""Characters of a program's complaint that are passed on."""
HEARD_SECONDS = 90.0
"""A worker that was heard of within so many seconds is taken to run: one that idles says each minute that it does."""
LOCK_SECONDS = 60
"""How long a restoration waits for a table that a worker holds."""


def backup(url: URL, file: Path) -> int:
    """Write the whole database to a new file; return the file's size in bytes. Of any version of the tables.

    SQLite is copied with its online backup, PostgreSQL with ``pg_dump``. The file is there as a whole or not at all.

    Raises:
        StorageError: there is no such storage, the file exists, or the database is neither SQLite nor PostgreSQL.
    """
    kind = _kind(url)
    if file.exists():
        raise StorageError(f"{file} already exists: a backup is never overwritten, name a new file")
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
    """Make the database what it was when the file was written: all of it, or, if anything fails, nothing.

    Args:
        url: the database; an SQLite file is made where it is missing, a PostgreSQL database must exist.
        file: from ``backup``.
        force: even if the database holds studies: they are lost.
        workers_are_dead: even if workers seem to be at work on it.

    Raises:
        StorageError: the file is no backup of this kind of database or of a later version of this program, or the
            database holds studies, or workers seem to be at work on it.
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
            "Backups are made of SQLite and PostgreSQL. For MariaDB and MySQL use their own program: "
            "mariadb-dump --single-transaction NAME > FILE, and to restore: mariadb NAME < FILE"
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
        there = [name for name in STUDIES if sa.inspect(connection).has_table(name)]
        counts = [connection.execute(sa.select(sa.func.count()).select_from(sa.table(name))).scalar() for name in there]
        if held := max((count or 0 for count in counts), default=0):
            studies = "1 study" if held == 1 else f"{held} studies"
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
            count, seconds = at_work(database, HEARD_SECONDS)
    except StorageError:
        return  # what cannot be read is why it is restored, and no worker can be at work on it
    if count:
        raise StorageError(
            f"{count} {'worker was' if count == 1 else 'workers were'} heard of in the last {HEARD_SECONDS:.0f} "
            "seconds, or hold a point: stop them first (rust-optuna worker list shows them). If they are dead, wait "
            f"{math.ceil(seconds)} seconds, until that shows, or use --workers-are-dead"
        )


def _copy_sqlite(source: Path, target: Path, *, standalone: bool = True) -> None:
    """Copy a database in one transaction of each side; whoever has the target open sees the one or the other.

    Args:
        source: is only read.
        target: made where it is missing.
        standalone: leave no write-ahead log beside the target.
    """
    sqlite_files.make(target)
    try:
        with (
            closing(sqlite_files.read(source)) as old,
            closing(sqlite3.connect(target, timeout=BUSY_SECONDS)) as new,
        ):
            old.backup(new)
            if standalone:
                new.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise StorageError(f"{source} could not be copied to {target}: {error}") from error


def _check_backup(file: Path, kind: str) -> None:
    with file.open("rb") as opened:
        start = opened.read(16)
    found = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
    if found is None:
        raise StorageValueError(f"{file} is no backup of a storage: rust-optuna storage backup writes them")
    if found != kind:
        raise StorageValueError(f"{file} is a backup of {found}, and the storage is {kind}: give --storage another URL")
    version = _version_in_sqlite(file) if kind == SQLITE else _version_in_dump(file)
    if version is None:
        raise StorageValueError(f"{file} is a {kind} database, but none of this program's")
    if version > tables.SCHEMA_VERSION:
        raise StorageError(
            f"{file} has tables of version {version}; this program knows version {tables.SCHEMA_VERSION}: use the "
            "version of rust_optuna that wrote it, or a later one"
        )


def _version_in_sqlite(file: Path) -> int | None:
    # Immutable: nothing is written beside it, not even locks.
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as connection:
        try:
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise StorageError(f"{file} is damaged: {damage}")
            return _first_number(connection.execute(f"SELECT version FROM {tables.schema.name}").fetchone())  # noqa: S608
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError as error:
            raise StorageError(f"{file} is damaged: {error}") from error


def _version_in_dump(file: Path) -> int | None:
    # The rows as text: COPY table (columns) FROM stdin, a line for each row.
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
        StorageError: it is not installed, or failed; with its own words, which tell of versions that do not match.
    """
    program = shutil.which(name)
    if program is None:
        raise StorageError(
            f"{name} is not on the PATH: install PostgreSQL's client programs, of the server's version or a later one"
        )
    target, secret = ([], {}) if url is None else _connection(url)
    ended = subprocess.run(
        [program, *target, *arguments],
        env={**os.environ, **secret},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode:
        raise StorageError(f"{name} failed, and nothing was changed: {' '.join(ended.stderr.split())[:LONGEST_WORDS]}")
    return ended.stdout


def _connection(url: URL) -> tuple[list[str], Mapping[str, str]]:
    """Return the arguments that lead PostgreSQL's programs to a database, and the environment with the password."""
    from psycopg.conninfo import make_conninfo

    _, settings = url.get_dialect()().create_connect_args(url)
    password = settings.pop("password", None)
    if "sslpassword" in settings:
        raise StorageError("sslpassword would stand in a command line: make the backup with a key that needs none")
    # Here, not in PGOPTIONS: what the URL says would replace that.
    settings["options"] = f"{settings.get('options', '')} -c lock_timeout={LOCK_SECONDS}s".strip()
    secret = {} if password is None else {"PGPASSWORD": str(password)}
    return ["--no-password", f"--dbname={make_conninfo(**settings)}"], secret
