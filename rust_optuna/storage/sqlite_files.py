"""The files of an SQLite database that several people share: how to make them, and how to read them without a trace.

SQLite keeps a write-ahead log beside the database (``-wal``) and an index of the log (``-shm``) for as long as any
process has the database open; the last process to close it removes both. They get the database file's mode. That mode
follows the umask because this program makes the file: SQLite itself would let nobody but the owner write.

A reader needs these files as well, so there are two ways to read:

- A reader with permission to write all of the files opens the database like a writer, with writing switched off, and
  tidies up like one.
- A reader without that permission cannot tidy up. With ``mode=ro`` and no log, it fails in a folder that it may not
  write to; in any other folder it leaves a log behind that the owner may not write. Such a reader works on a copy in
  memory, taken at one moment, and keeps nothing open:

  - While there is a log, the copy is made through a connection with ``mode=ro``, which finds all that it needs.
  - While there is none, no process has the database open, and ``immutable=1`` reads the file alone, without a lock. A
    writer that starts meanwhile changes the file only when it copies its log into it. By then either the log exists or
    the file has changed. Both are checked afterwards, and the copy is made again if necessary.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from rust_optuna.errors import StorageError
from rust_optuna.permissions import lack, user_name

BUSY_SECONDS = 60
"""How long an SQLite writer waits for another writer."""
TICK_SECONDS = 0.02
"""The longest time within which two changes of a file may leave it the same modification time."""
TRIES = 50
"""How often a copy is tried while writers come and go."""

State = tuple[tuple[int, ...] | None, ...]


class Copy(sqlite3.Connection):
    """An in-memory copy of a database; `state` is the state of the files that it was taken from."""

    state: State = ()


def make(path: Path) -> None:
    """Make an empty database file if there is none, with the permissions that the umask leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o666)


def may_write(path: Path) -> bool:
    """Return whether this process may write a database and the files that SQLite keeps beside it."""
    return missing_write_permission(path) is None


def missing_write_permission(path: Path) -> str | None:
    """Return a message about what keeps this process from writing or making a database; None if nothing does."""
    companions = [Path(name) for name in _companions(path) if os.path.exists(name)]
    messages = (lack(file, write=True) for file in (path, *companions, path.parent))
    return next((message for message in messages if message), None)


def state(path: Path) -> State:
    """Return a value that changes whenever the content of a database does."""
    return tuple(_file_version(file) for file in (path, *_companions(path)[:2]))


def read(path: Path) -> sqlite3.Connection:
    """Open a database only to read it; no file is changed or left behind.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    if not may_write(path):
        return copy(path)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
    connection.execute("PRAGMA query_only = ON")
    return connection


def copy(path: Path, *, meanwhile: Callable[[], None] = lambda: None) -> Copy:
    """Copy into memory what a database holds at one moment. This needs no permission to write, and writes nothing.

    Args:
        path: the database's path.
        meanwhile: called after the copy is taken and before it is checked.

    Raises:
        sqlite3.Error: the database cannot be read, or writers come and go all the time.
        StorageError: a killed writer left a log that somebody else must tidy up first.
    """
    for _ in range(TRIES):
        before = state(path)
        in_use = before[1:] != (None, None)
        if not in_use and _just_changed(before):
            time.sleep(TICK_SECONDS)
            continue
        try:
            connection = _copy(path, "mode=ro" if in_use else "immutable=1")
        except sqlite3.Error:
            # A writer may have changed the file halfway through, or removed the log at the wrong moment.
            if state(path) == before:
                _refuse_lone_log(path)
                raise
            continue
        meanwhile()
        if in_use or state(path) == before:
            connection.state = before
            return connection
        connection.close()
    raise sqlite3.OperationalError("database is locked: writers come and go all the time")


def _copy(path: Path, option: str) -> Copy:
    target = sqlite3.connect(":memory:", factory=Copy, check_same_thread=False)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{option}", uri=True, timeout=BUSY_SECONDS)) as source:
            # A lock that is not available is reported here, while ``backup`` would ask for it for ever.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            source.backup(target)
    except BaseException:
        target.close()
        raise
    finally:
        _remove_own_log(path)
    return target


def _remove_own_log(path: Path) -> None:
    """Remove an empty log that this process made in another user's database.

    The last writer may leave after its log was seen and before the database is opened. Then SQLite makes a new log,
    which the owner of the database may not write.
    """
    if may_write(path):
        return
    with suppress(OSError):
        log = os.stat(f"{path}-wal")
        if log.st_size == 0 and log.st_uid == os.geteuid() != os.stat(path).st_uid:
            os.unlink(f"{path}-shm")
            os.unlink(f"{path}-wal")


def _refuse_lone_log(path: Path) -> None:
    if os.path.exists(f"{path}-wal") and not os.path.exists(f"{path}-shm"):
        raise StorageError(
            f"A process that was killed left a log beside {path}, and only a user who may write there can read it: let "
            f"{user_name(path.stat().st_uid)} run rust-optuna status once"
        )


def _companions(path: Path) -> tuple[str, str, str]:
    """Return the files that SQLite keeps beside a database: write-ahead log, rollback journal, and the log's index."""
    return f"{path}-wal", f"{path}-journal", f"{path}-shm"


def _file_version(path: str | Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _just_changed(files: State) -> bool:
    database = files[0]
    return database is not None and 0 <= time.time_ns() - database[-1] < TICK_SECONDS * 1e9
