"""File locks between processes of any user, on one machine or on all machines that share a folder.

A lock is the system's (``flock``), which releases it when the process that holds it dies. Some file systems, of
clusters and in user space, have no such locks. There a second file (``.held``) stands for the lock and exists while it
is held. If its holder died on this machine, the lock is taken over; a lock left behind by another machine looks just
like one that is held. So every wait reports whom it waits for, and ends when the holder makes no progress.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import SoftFileLock, Timeout

from rust_optuna.errors import LockedError
from rust_optuna.permissions import user_name

log = logging.getLogger(__name__)

MISSING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""The error numbers of a file system that has no locks."""
PATIENCE_SECONDS = 600.0
"""How long a process waits for a lock whose holder makes no progress."""
TELL_SECONDS = 10.0
"""How long a process waits for a lock before it logs who holds it."""
POLL_SECONDS = 0.05


@contextmanager
def locked(
    path: Path, *, progress: Callable[[], object] = lambda: None, patience: float = PATIENCE_SECONDS
) -> Iterator[None]:
    """Hold a lock while the block runs. The lock also excludes other threads, and is not reentrant.

    Args:
        path: the lock's file, which is created and stays; its folder must exist.
        progress: called while another process holds the lock; each time its result changes, the patience starts anew.
        patience: how long to wait for a holder that makes no progress, in seconds.

    Raises:
        LockedError: the holder made no progress for that long.
        OSError: the file cannot be created or opened.
    """
    lock = _Lock(path)
    began = since = time.monotonic()
    last, logged = progress(), False
    while not lock.take():
        now = time.monotonic()
        if (latest := progress()) != last:
            last, since = latest, now
        if now - since > patience:
            raise LockedError(path, lock.holder, now - since, lock.missing and lock.marker)
        if not logged and now - began > TELL_SECONDS:
            logged = True
            log.warning("Waiting for %s, which is held by %s", path, lock.holder)
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.free()


def hold(descriptor: int) -> bool:
    """Lock a file for as long as it is open; return False if its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return False
    return True


def is_held(descriptor: int) -> bool | None:
    """Return whether any process holds a file by `hold`; None if its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return None
    return False


class _Lock:
    """One lock, held or not.

    Args:
        path: the lock's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marker = path.with_name(path.name + ".held")
        self.missing: str | None = None
        """The system's error message if the file system has no locks, else None."""
        self._descriptor: int | None = None
        self._soft: SoftFileLock | None = None

    def take(self) -> bool:
        """Take the lock if nobody holds it; return whether it was taken."""
        if self.missing is None:
            descriptor = _open(self.path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return False
                if error.errno not in MISSING:
                    raise OSError(error.errno, error.strerror, str(self.path)) from None
                self.missing = error.strerror
            except BaseException:
                os.close(descriptor)
                raise
            else:
                self._descriptor = descriptor
                with suppress(OSError):  # a full disk
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, _me().encode())
                return True
        soft = SoftFileLock(self.marker, timeout=0)
        try:
            soft.acquire()
        except Timeout:
            return False
        except PermissionError:
            # Another user's marker is not writable, but it is a lock all the same.
            if self.marker.exists():
                return False
            raise
        self._soft = soft
        return True

    def free(self) -> None:
        """Release the lock."""
        if self._soft is not None:
            self._soft.release()
        if self._descriptor is not None:
            os.close(self._descriptor)

    @property
    def holder(self) -> str:
        """A description of the process that holds the lock."""
        try:
            if self.missing is None:
                return self.path.read_text(encoding="utf-8") or "another process"
            process, host = self.marker.read_text(encoding="utf-8").split()[:2]
            since = datetime.fromtimestamp(self.marker.stat().st_mtime, UTC)
            return _words(process, user_name(self.marker.stat().st_uid), host.partition("?")[0], since)
        except (OSError, ValueError):
            return "another process"


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        # Without O_CREAT first: some systems refuse it for another user's file in a world-writable folder.
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o666)


def _me() -> str:
    return _words(os.getpid(), user_name(os.geteuid()), platform.node(), datetime.now(UTC))


def _words(process: object, user: str, host: str, since: datetime) -> str:
    return f"process {process} of {user} on {host} (since {since:%Y-%m-%d %H:%M} UTC)"
