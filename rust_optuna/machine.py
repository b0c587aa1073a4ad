"""What this process may use of its machine: cores, memory, and the instruction set. Loads nothing to find out."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

from rust_optuna import cgroup
from rust_optuna.errors import InvalidValueError

CORES = "RUST_OPTUNA_CORES"
"""How many cores a process computes on, where it is not to use all that it may: a supervisor divides them among its
workers. It decides how fast a worker is, never what it computes."""
ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's own variable: the newest instruction set that it may use."""

INSTRUCTION_SETS = {
    "AVX-512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "AVX2": {"avx2", "fma"},
    "AVX": {"avx"},
    "SSE4.1": {"sse4_1"},
}
"""Those that oneDNN has different float32 kernels for, best first, with what the processor must say of itself."""


def cpu_cores() -> int:
    """Return the number of cores that this process may use: its affinity, and its container's quota rounded down."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cores() -> int:
    """Return the number of cores that this process computes on: those of `CORES`, else all that it may use.

    Raises:
        RustOptunaError: the variable is not a positive integer.
    """
    given = os.environ.get(CORES)
    if given is None:
        return cpu_cores()
    if not given.isdecimal() or int(given) < 1:
        raise InvalidValueError(f"{CORES} is {given!r}: it must be a number of cores, 1 or more")
    return int(given)


def memory_available() -> int:
    """Return the bytes of memory available to this process (Linux, and its container), or installed elsewhere."""
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = cgroup.memory_left()
    return available if left is None else min(available, left)


def instruction_set() -> str:
    """Return the instruction set that oneDNN computes with here, in words; where it is not told, the architecture."""
    flags = set(_cpuinfo("flags").split())
    limit = os.environ.get(ISA_LIMIT, "").upper()
    names = list(INSTRUCTION_SETS)
    from_avx2 = dict.fromkeys(("AVX2", "AVX2_VNNI", "AVX2_VNNI_2"), names[1:])
    allowed = {"SSE41": names[3:], "AVX": names[2:], **from_avx2}.get(limit, names)
    return next((name for name in allowed if INSTRUCTION_SETS[name] <= flags), platform.machine())


def bfloat16_units() -> list[str]:
    """Return what oneDNN may multiply bfloat16 with here, and its own limit where one is set: both decide rounding."""
    units = {"avx512_bf16", "amx_bf16", "avx_ne_convert"} & set(_cpuinfo("flags").split())
    limit = os.environ.get(ISA_LIMIT)
    return sorted(units) + ([f"{ISA_LIMIT}={limit.upper()}"] if limit else [])


def processor() -> str:
    """Return the processor's name where the system tells it, else its architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@functools.cache
def _cpuinfo(field: str) -> str:
    """Return what Linux says of the first processor; nothing on another system."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return ""
