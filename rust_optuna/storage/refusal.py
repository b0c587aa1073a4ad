"""Checks that refuse a database which would seem to work and then lose or falsify data."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rust_optuna.errors import StorageError

MOUNTS = Path("/proc/mounts")
"""Linux's table of mounted file systems; other systems have none, and are not checked."""

NETWORK_FILE_SYSTEM = re.compile(
    r"9p|afs|afp|coda|gfs2|gpfs|lustre|ncpfs|ocfs2|orangefs|panfs|pvfs2|vboxsf|weka(fs)?|nfs4?|cifs|smb(2|3|fs)"
    r"|(fuse\.)?(beegfs|fhgfs|ceph(-fuse)?|glusterfs)"
    r"|fuse\.(gcsfuse|gvfsd-fuse|juicefs|lizardfs|moosefs|mfs|rclone|s3fs|seaweedfs|smbnetfs|sshfs|vmhgfs-fuse)"
)
"""The types of file systems that several machines may write to."""


def check_file_system(path: Path, mounts: str | None = None) -> None:
    """Refuse an SQLite file on a network file system.

    Args:
        path: the file; it need not exist yet.
        mounts: the table of mounts; None for the system's own.

    Raises:
        StorageError: the file is on a network file system, where neither locks nor shared memory can be trusted.
    """
    if mounts is None:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape") if MOUNTS.is_file() else ""
    kind = file_system(path.resolve(), mounts)
    if NETWORK_FILE_SYSTEM.fullmatch(kind):
        raise StorageError(
            f"{path} is on a network file system ({kind}): locks are unreliable there, and SQLite would lose data "
            "silently. Keep the database on a local disk, or use PostgreSQL: --storage postgresql://USER@HOST/NAME"
        )


def file_system(path: Path, mounts: str) -> str:
    """Return the type of the file system that an absolute path lies on, empty if the table does not list it."""
    deepest, kind = Path(), ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(_unescaped(fields[1]))
        # A later mount on the same folder hides the earlier one.
        if path.is_relative_to(point) and len(point.parts) >= len(deepest.parts):
            deepest, kind = point, fields[2]
    return kind


def _unescaped(field: str) -> str:
    for character in " \t\n\\":
        field = field.replace(f"\\{ord(character):03o}", character)
    return field


def check_optuna(connection: Connection, name: str) -> None:
    """Refuse a database whose Optuna tables another major version of Optuna wrote, without importing Optuna.

    Args:
        connection: a connection to the database.
        name: the name of the database in the message.

    Raises:
        StorageError: another major version wrote them; it stores times, for example, in another way.
    """
    if not sa.inspect(connection).has_table("version_info"):
        return
    writer = connection.execute(sa.select(sa.column("library_version")).select_from(sa.table("version_info"))).scalar()
    installed = version("optuna")
    if writer is not None and _major(writer) != _major(installed):
        raise StorageError(
            f"{name} was written by Optuna {writer}, and this is Optuna {installed}: they store times differently and "
            "must not share a database. Name another one with --storage"
        )


def _major(text: str) -> str:
    return text.partition(".")[0]
