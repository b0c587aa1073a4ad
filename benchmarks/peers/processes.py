"""Processes as ``/proc`` shows them: which a peer has started, and which it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

SAMPLE_SECONDS = 0.2


class Process(NamedTuple):
    """A process; the time it started tells it from a later one with the same number."""

    pid: int
    started: int


class Watched(NamedTuple):
    """How a watched run ended.

    Args:
        seconds: from start to exit.
        peak: most processes seen at once, sampled a few times a second: one that lives shorter may be missed.
        left: processes of the run that were still there after it, and were killed.
        code: its exit code; None if it ran into the limit.
    """

    seconds: float
    peak: int
    left: int
    code: int | None


def watch(run: subprocess.Popen[bytes], started: float, limit: float) -> Watched:
    """Wait for a run, count its processes meanwhile, and leave none of them behind.

    Args:
        run: the peer.
        started: `time.monotonic` when it was started.
        limit: seconds after which all of it is killed.
    """
    seen: set[Process] = set()
    peak, code = 0, None
    try:
        while time.monotonic() - started < limit:
            now = tree(run.pid)
            seen |= now
            peak = max(peak, len(now))
            try:
                code = run.wait(SAMPLE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
        seconds = time.monotonic() - started
    finally:
        left = _kill(seen - {first for first in seen if first.pid == run.pid})
        if run.poll() is None:
            run.kill()
            run.wait()
    return Watched(seconds, peak, left, code)


def tree(root: int) -> set[Process]:
    """Return a process and its descendants, zombies excepted."""
    table = {pid: found for pid in _pids() if (found := _stat(pid))}
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    members: set[Process] = set()
    queue = [root]
    while queue:
        pid = queue.pop()
        if pid in table:
            members.add(Process(pid, table[pid][1]))
        queue += children.get(pid, [])
    return members


def _kill(processes: set[Process]) -> int:
    """Kill those that still live, and return how many there were."""
    alive = [process for process in processes if (now := _stat(process.pid)) and now[1] == process.started]
    for process in alive:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(alive)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> tuple[int, int] | None:
    """Return a process's parent and the time it started; None if it is gone or a zombie."""
    try:
        # The name, in parentheses, may hold anything; what follows its last one is regular.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    state, parent, started = fields[0], int(fields[1]), int(fields[19])
    return None if state in "ZX" else (parent, started)
