"""The identity of a process, beyond its number.

A process number alone does not identify a process: the system reuses it after the process has ended, other containers
and machines give it to other processes, and host names are neither unique nor fixed. So a process that may be signalled
later records more about itself, and is signalled only if all of it matches.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Identity:
    """What distinguishes a process from all others. What the system does not provide is empty.

    Args:
        pid: its number.
        host: the host name of its machine when it began.
        boot: the identifier of the machine's boot (Linux).
        namespace: the PID namespace in which the number is valid, which is that of its container (Linux).
        started: when the process began, in the format of the system.
    """

    pid: int
    host: str
    boot: str = ""
    namespace: str = ""
    started: str = ""


def own_identity() -> Identity:
    """Return the identity of this process."""
    pid = os.getpid()
    return Identity(pid, platform.node(), _boot(), _namespace(), _started(pid))


def elsewhere(process: Identity, word: str) -> str | None:
    """Return a description of where a process runs, or None if it is the process with its number on this machine.

    Args:
        process: a process that is known to live.
        word: a word of its command line that no other process has. It identifies processes of earlier versions, which
            recorded only their number and host name.
    """
    here = own_identity()
    boots_known = bool(process.boot and here.boot)
    if boots_known and process.boot != here.boot:
        return f"on another machine ({process.host})"
    if process.namespace and process.namespace != here.namespace:
        return f"in another PID namespace of this machine (a container; its host name: {process.host})"
    if process.started and process.started == _started(process.pid):
        return None
    if not process.started and word in _command_line(process.pid):
        return None
    if not boots_known and process.host != here.host:
        return f"on another machine ({process.host})"
    if not process.started:
        return f"in another container or on another machine ({process.host})"
    return f"where it cannot be seen from here (process {process.pid} is another one here)"


def send(process: Identity, word: str, number: signal.Signals) -> bool:
    """Signal a process if it is the one that has its number here; return whether it is.

    Raises:
        ProcessLookupError: no process has the number.
        PermissionError: the process belongs to another user.
    """
    handle = _handle(process.pid)
    try:
        # The check follows the taking of the handle: if the number means this process now, so does the handle.
        if elsewhere(process, word) is not None:
            return False
        if handle is None:
            os.kill(process.pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
        return True
    finally:
        if handle is not None:
            os.close(handle)


def variable_of(pid: int, name: str) -> str | None:
    """Return an environment variable of a process; None if it is not set or cannot be read."""
    prefix = f"{name}="
    variables = _proc_file(pid, "environ").split("\0")
    return next((variable.removeprefix(prefix) for variable in variables if variable.startswith(prefix)), None)


def _handle(pid: int) -> int | None:
    """Return a descriptor that means this process even after its number is reused; None if the system has none.

    Raises:
        ProcessLookupError: no process has the number.
    """
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None  # an old kernel, or a sandbox that forbids the call


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process began, from /proc or else from ps; an empty string if there is no such process."""
    if not PROC.is_dir():
        return _ps(pid, "lstart=")
    # The second field is the program's name in brackets, which may contain anything; the 22nd is the start time.
    after_name = _proc_file(pid, "stat").rpartition(")")[2].split()
    return after_name[19] if after_name else ""


def _command_line(pid: int) -> list[str]:
    return _proc_file(pid, "cmdline").split("\0") if PROC.is_dir() else _ps(pid, "args=").split()


def _proc_file(pid: int, file: str) -> str:
    """Return a file of /proc about a process; an empty string if it cannot be read.

    It counts as unreadable if /proc shows the processes of another PID namespace.
    """
    try:
        if os.readlink(PROC / "self") != str(os.getpid()):
            return ""
        return os.fsdecode((PROC / str(pid) / file).read_bytes())
    except OSError:
        return ""


def _ps(pid: int, column: str) -> str:
    """Return one column that ps prints about a process; an empty string if it prints nothing."""
    command = ["ps", "-ww", "-o", column, "-p", str(pid)]
    try:
        listing = subprocess.run(
            command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return listing.stdout.strip()
