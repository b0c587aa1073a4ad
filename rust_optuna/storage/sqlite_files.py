"""The files of an SQLite database that several people share: how they are made, and how they are only read.

SQLite keeps a write-ahead log beside the database (``-wal``) and an index of it (``-shm``) for as long as anybody has
the database open; the last to close it removes both. They have the mode of the database, and that one follows the umask
because this program makes the file: SQLite alone gives nobody but the owner the right to write.

A reader takes part in this. So:

- Who may write all of these files reads like a writer that is kept from writing, and tidies up like one.
- Who may not cannot tidy up, and in a folder that is not writable cannot even begin: where the log is missing,
  ``mode=ro`` fails there, and elsewhere it leaves a log behind that the owner may not write. Such a reader works on a
  copy in memory, of one moment, and keeps nothing open:

  - While there is a log, the copy is made through a connection with ``mode=ro``, which finds all that it needs.
  - While there is none, nobody has the database open, and ``immutable=1`` reads the file alone, without a lock. A
    writer that starts meanwhile changes the file only when it copies its log into it; then the log is there, or the
    file is no longer what it was. Both are looked at afterwards, and if need be the copy is made again.
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
"""How long an SQLite writer waits for another."""
TICK_SECONDS = 0.02
"""Two changes of a file within so short a time may leave it the same time of change."""
TRIES = 50
"""How often a copy is taken again because a writer came or went meanwhile."""

State = tuple[tuple[int, ...] | None, ...]


class Copy(sqlite3.Connection):
    """A copy in memory of what a database held.

    `state` is that of the files it was taken from.
    """

    state: State = ()


def make(path: Path) -> None:
    """Make an empty database file where there is none, with the permissions that the umask leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o666)


def may_write(path: Path) -> bool:
    """Say whether this process may write a database and all that SQLite keeps beside it."""
    return lack_to_write(path) is None


def lack_to_write(path: Path) -> str | None:
    """Say what keeps this process from writing a database, or from making it; None where nothing does."""
    beside = [Path(name) for name in _beside(path) if os.path.exists(name)]
    words = (lack(each, write=True) for each in (path, *beside, path.parent))
    return next((each for each in words if each), None)


def state(path: Path) -> State:
    """Return what changes whenever the content of a database does."""
    return tuple(_version(each) for each in (path, *_beside(path)[:2]))


def read(path: Path) -> sqlite3.Connection:
    """Open a database for reading alone: it is left as it was found, with nothing beside it.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    if not may_write(path):
        return copy(path)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
    connection.execute("PRAGMA query_only = ON")
    return connection


def copy(path: Path, *, meanwhile: Callable[[], None] = lambda: None) -> Copy:
    """Copy what a database holds at one moment into memory. No permission to write is needed, and nothing is written.

    Args:
        path: of the database.
        meanwhile: called when the copy is taken, and before it is looked at whether it is sound.

    Raises:
        sqlite3.Error: it cannot be read, or writers come and go all the time.
        StorageError: what a killed writer left must be tidied up by somebody else first.
    """
    for _ in range(TRIES):
        before = state(path)
        in_use = before[1:] != (None, None)
        if not in_use and _just_changed(before):
            time.sleep(TICK_SECONDS)
            continue
        try:
            copied = _copy(path, "mode=ro" if in_use else "immutable=1")
        except sqlite3.Error:
            # Half of what was read may be older than the other, or the log has gone at the wrong moment.
            if state(path) == before:
                _refuse_lone_log(path)
                raise
            continue
        meanwhile()
        if in_use or state(path) == before:
            copied.state = before
            return copied
        copied.close()
    raise sqlite3.OperationalError("database is locked: writers come and go all the time")


def _copy(path: Path, how: str) -> Copy:
    copied = sqlite3.connect(":memory:", factory=Copy, check_same_thread=False)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_SECONDS)) as source:
            # A lock that cannot be had is reported here; the copying would ask for it for ever.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            source.backup(copied)
    except BaseException:
        copied.close()
        raise
    finally:
        _tidy(path)
    return copied


def _tidy(path: Path) -> None:
    """Remove a log of our own.

    The last writer may leave between the look for its log and the opening; then SQLite makes one, and the owner of the
    database may not write it.
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
            f"{path} was left with a log by a process that was killed, and only who may write there can read it: let "
            f"{user_name(path.stat().st_uid)} call rust-optuna status once"
        )


def _beside(path: Path) -> tuple[str, str, str]:
    """Return what SQLite keeps beside a database: the write-ahead log, the rollback journal, the log's index."""
    return f"{path}-wal", f"{path}-journal", f"{path}-shm"


def _version(name: str | Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _just_changed(now: State) -> bool:
    file = now[0]
    return file is not None and 0 <= time.time_ns() - file[-1] < TICK_SECONDS * 1e9
