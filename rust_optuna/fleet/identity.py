"""Which process a number means.

A process number alone does not say: it is given again after a process has ended, other containers and other machines
give it to other processes, and host names are neither unique nor fixed. So whoever may be signalled later says more of
itself, and is signalled only where all of that fits.
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
    """A process, told from all others; what a system does not tell is empty.

    Args:
        pid: its number.
        host: the name of its machine when it began.
        boot: the machine's identifier of this boot (Linux).
        namespace: the PID namespace in which the number holds (Linux): that of its container.
        started: when it began, in the system's own words.
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
    """Say where a process runs, if it is not the one that has its number here; None if it is.

    Args:
        process: one that is known to live.
        word: stands in its command line and in no other's. It tells processes that earlier versions recorded, who gave
            their number and host name only.
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
    return f"where it cannot be seen from here: process {process.pid} is another one"


def send(process: Identity, word: str, number: signal.Signals) -> bool:
    """Signal a process; return whether it is the one that has its number here. Another is never signalled.

    Raises:
        ProcessLookupError: no process has the number.
        PermissionError: it is another user's.
    """
    handle = _handle(process.pid)
    try:
        # Looked at after the handle was taken: what the number means now it has meant since, so that is what is held.
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
    """Return an environment variable of a process, None where there is none or it may not be read."""
    prefix = f"{name}="
    variables = _told(pid, "environ").split("\0")
    return next((each.removeprefix(prefix) for each in variables if each.startswith(prefix)), None)


def _handle(pid: int) -> int | None:
    """Return a descriptor that means this process even after its number is given again; None where there are none."""
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
    """Return when a process began, by /proc or else by ps; empty where there is no such process."""
    if not PROC.is_dir():
        return _ps(pid, "lstart=")
    # The second field is the program's name in brackets, which may hold anything; the time is the 22nd.
    after_name = _told(pid, "stat").rpartition(")")[2].split()
    return after_name[19] if after_name else ""


def _command_line(pid: int) -> list[str]:
    return _told(pid, "cmdline").split("\0") if PROC.is_dir() else _ps(pid, "args=").split()


def _told(pid: int, file: str) -> str:
    """Return what /proc tells of a process; nothing where it tells of another PID namespace's processes."""
    try:
        if os.readlink(PROC / "self") != str(os.getpid()):
            return ""
        return os.fsdecode((PROC / str(pid) / file).read_bytes())
    except OSError:
        return ""


def _ps(pid: int, what: str) -> str:
    line = ["ps", "-ww", "-o", what, "-p", str(pid)]
    try:
        done = subprocess.run(line, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
