"""What a user lacks permission for in a folder that several people share: which file, whose it is, and what helps.

What this program makes follows the umask. Where several people write to one folder, that is a folder of their group
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
"""The numbers of the system's errors for a lack of permission."""


def lack(path: Path, *, write: bool) -> str | None:
    """Say what keeps this process from reading a file, or from writing or making it; None where nothing does.

    Args:
        path: of the file or folder; it need not exist.
        write: whether it is to be written; into a folder: whether files are to be made there.

    Returns:
        A sentence without its stop: the file, whose it is, and what helps.
    """
    above = [each for each in reversed(Path(os.path.abspath(path)).parents) if not os.access(each, os.X_OK)]
    if above and os.path.lexists(above[0]):
        return _words(above[0], "entered", "x")
    there = _nearest(path)
    if not write:
        return None if there != path or os.access(there, os.R_OK) else _words(there, "read", "r")
    needed = os.W_OK | os.X_OK if there.is_dir() else os.W_OK
    return None if os.access(there, needed) else _words(there, "written to", "w")


def denial(error: OSError) -> str | None:
    """Say in the same way what an error of the system was denied, None where it is no denial or has no such cause."""
    if error.errno not in DENIED or not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    path = Path(os.fsdecode(error.filename))
    return lack(path, write=False) or lack(path, write=True)


def _nearest(path: Path) -> Path:
    """Return the file, or where it does not exist the folder in which it or its folders would be made."""
    return next((each for each in (path, *path.parents) if os.path.lexists(each)), path)


def _words(path: Path, done: str, letter: str) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} cannot be {done}: its file system is mounted read-only. Use another folder: --home DIR"
    found = path.stat()
    owner, group = user_name(found.st_uid), _group_name(found.st_gid)
    what = f"{path} cannot be {done}: it belongs to {owner}, group {group}, with mode {stat.filemode(found.st_mode)}"
    if found.st_uid == os.geteuid():
        return f"{what}. It is yours: chmod u+{letter} {path}"
    mine = found.st_gid in {os.getegid(), *os.getgroups()}
    folder = path if path.is_dir() else path.parent
    share = f"chmod -R g+{'rwX' if letter == 'w' else 'rX'} {folder}"
    share = share if mine else f"chgrp -R to a group of yours, and {share}"
    lasting = ", and umask 002 from then on" if letter == "w" else ""
    me = user_name(os.geteuid())
    return (
        f"{what}, and you are {me}. Ask {owner} to share it ({share}{lasting}), or use a folder of your own: --home DIR"
    )


def user_name(number: int) -> str:
    """Return the name of a user, the number where it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
