"""The share of its machine that a container may use: the limits of Linux's control groups, version 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_quota() -> float | None:
    """Return the processor time that this process may use, in cores; None without a limit."""
    quotas = []
    for group in _groups():
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_left() -> int | None:
    """Return the bytes that this process may still allocate before its container's limit; None without a limit.

    Memory that the kernel would reclaim first (cached files that were not used lately) counts as free.
    """
    remaining = []
    for group in _groups():
        limit, used = _read(group / "memory.max"), _read(group / "memory.current")
        if limit.isdigit() and used.isdigit():
            lines = (line.split() for line in _read(group / "memory.stat").splitlines())
            idle = sum(int(line[1]) for line in lines if line[0] == "inactive_file")
            remaining.append(max(0, int(limit) - int(used) + idle))
    return min(remaining, default=None)


def _groups() -> Iterator[Path]:
    """Yield this process's group and its ancestors, of which the tightest limit applies."""
    lines = [line for line in _read(MEMBERSHIP).splitlines() if line.startswith("0::/")]
    # In a container the path may be the host's, of which only the root is visible.
    path = Path(lines[0].removeprefix("0::/")) if lines else Path()
    yield from (ROOT / group for group in (path, *path.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:  # another system, or another version of control groups
        return ""
