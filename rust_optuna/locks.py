"""Locks between processes, by file: whoever's the processes are, on one machine or on all that share a folder.

A lock is the system's (``flock``), which takes it back with the process that holds it. The file systems of some
clusters, and some in user space, have none. There a second file (``.held``) stands for it, which exists while the lock
is held. One whose holder died on this machine is taken over; one that was left by another machine cannot be told from
one that is held. So each wait says whom it waits for, and ends where the other makes no progress.
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
"""The numbers of the system's errors where a file system has no locks."""
PATIENCE_SECONDS = 600.0
"""How long a lock is waited for while its holder makes no progress."""
TELL_SECONDS = 10.0
"""After so long it is said whom a lock is waited for."""
POLL_SECONDS = 0.05


@contextmanager
def locked(
    path: Path, *, progress: Callable[[], object] = lambda: None, patience: float = PATIENCE_SECONDS
) -> Iterator[None]:
    """Hold a lock while the block runs. It is one of threads too, and cannot be taken twice.

    Args:
        path: of the lock's file, which is made and stays; its folder exists.
        progress: called while another holds it; as long as what it returns changes, the patience begins anew.
        patience: in seconds.

    Raises:
        LockedError: another held it for longer, and made no progress.
        OSError: the file cannot be made or opened.
    """
    lock = _Lock(path)
    began = since = time.monotonic()
    seen, told = progress(), False
    while not lock.take():
        now = time.monotonic()
        if (latest := progress()) != seen:
            seen, since = latest, now
        if now - since > patience:
            raise LockedError(path, lock.holder, now - since, lock.missing and lock.marker)
        if not told and now - began > TELL_SECONDS:
            told = True
            log.warning("Waiting for %s, which %s holds", path, lock.holder)
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.free()


def hold(descriptor: int) -> bool:
    """Lock a file for as long as it is open; return False where its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return False
    return True


def is_held(descriptor: int) -> bool | None:
    """Say whether somebody holds a file by `hold`; None where its file system has no locks."""
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
        path: of its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marker = path.with_name(path.name + ".held")
        self.missing: str | None = None
        """What the file system says where it has no locks of its own."""
        self._descriptor: int | None = None
        self._soft: SoftFileLock | None = None

    def take(self) -> bool:
        """Take it if nobody holds it."""
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
            # Another user's is not writable, and is a lock all the same.
            if self.marker.exists():
                return False
            raise
        self._soft = soft
        return True

    def free(self) -> None:
        """Give it back."""
        if self._soft is not None:
            self._soft.release()
        if self._descriptor is not None:
            os.close(self._descriptor)

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
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
        # Without O_CREAT first: some systems refuse that on another user's file in a folder for all.
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o666)


def _me() -> str:
    return _words(os.getpid(), user_name(os.geteuid()), platform.node(), datetime.now(UTC))


def _words(process: object, user: str, host: str, since: datetime) -> str:
    return f"process {process} of {user} on {host} (since {since:%Y-%m-%d %H:%M} UTC)"
