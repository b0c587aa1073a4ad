"""Explanations of missing permissions in a shared folder: which file, who owns it, and what helps.

Files that this program creates follow the umask. Several people who write to one folder need a folder of their group
with the set-group-ID bit (mode 2775), and ``umask 002``.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The error numbers of a missing permission."""


def lack(path: Path, *, write: bool) -> str | None:
    """Return what keeps this process from reading a file, or from writing or creating it; None if nothing does.

    Args:
        path: the file or folder; it need not exist.
        write: whether the file is to be written, or files are to be created in the folder.

    Returns:
        A sentence without its full stop: the file, who owns it, and what helps.
    """
    closed = [folder for folder in reversed(Path(os.path.abspath(path)).parents) if not os.access(folder, os.X_OK)]
    if closed and os.path.lexists(closed[0]):
        return _words(closed[0], "entered", "x")
    existing = _nearest(path)
    if not write:
        return None if existing != path or os.access(existing, os.R_OK) else _words(existing, "read", "r")
    needed = os.W_OK | os.X_OK if existing.is_dir() else os.W_OK
    return None if os.access(existing, needed) else _words(existing, "written to", "w")


def denial(error: OSError) -> str | None:
    """Return the missing permission behind a system error, as `lack` words it; None if there is no such cause."""
    if error.errno not in DENIED or not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    path = Path(os.fsdecode(error.filename))
    return lack(path, write=False) or lack(path, write=True)


def _nearest(path: Path) -> Path:
    """Return the file, or if it does not exist the nearest folder above it that does."""
    return next((existing for existing in (path, *path.parents) if os.path.lexists(existing)), path)


def _words(path: Path, done: str, letter: str) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} cannot be {done}: its file system is mounted read-only. Use another folder: --home DIR"
    status = path.stat()
    owner, group = user_name(status.st_uid), _group_name(status.st_gid)
    fault = f"{path} cannot be {done}: it belongs to {owner}, group {group}, with mode {stat.filemode(status.st_mode)}"
    if status.st_uid == os.geteuid():
        return f"{fault}. It is yours: chmod u+{letter} {path}"
    my_group = status.st_gid in {os.getegid(), *os.getgroups()}
    folder = path if path.is_dir() else path.parent
    share = f"chmod -R g+{'rwX' if letter == 'w' else 'rX'} {folder}"
    share = share if my_group else f"chgrp -R to a group of yours, and {share}"
    lasting = ", and umask 002 from then on" if letter == "w" else ""
    me = user_name(os.geteuid())
    return (
        f"{fault}, and you are {me}. Ask {owner} to share it ({share}{lasting}), or use a folder of your own: "
        "--home DIR"
    )


def user_name(number: int) -> str:
    """Return the name of a user, or the number if it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
