"""The cores, memory and instruction set that this process may use. No heavy library is loaded to find out."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

from rust_optuna import cgroup
from rust_optuna.errors import InvalidValueError

CORES = "RUST_OPTUNA_CORES"
"""The variable with the number of cores that a process computes on, if not all that it may use. A supervisor divides
its cores among its workers. The number decides how fast a worker is, never what it computes."""
ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's own environment variable: the newest instruction set that it may use."""

INSTRUCTION_SETS = {
    "AVX-512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "AVX2": {"avx2", "fma"},
    "AVX": {"avx"},
    "SSE4.1": {"sse4_1"},
}
"""The instruction sets with float32 kernels of their own in oneDNN, best first, with the processor flags they need."""


def cpu_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its container's quota, rounded down."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cores() -> int:
    """Return the number of cores that this process computes on: that of `CORES`, else all that it may use.

    Raises:
        InvalidValueError: the variable is not a positive integer.
    """
    count = os.environ.get(CORES)
    if count is None:
        return cpu_cores()
    if not count.isdecimal() or int(count) < 1:
        raise InvalidValueError(f"{CORES} is {count!r}: it must be a number of cores, 1 or more")
    return int(count)


def memory_available() -> int:
    """Return the bytes of memory available to this process and its container on Linux, elsewhere those installed."""
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    remaining = cgroup.memory_left()
    return available if remaining is None else min(available, remaining)


def instruction_set() -> str:
    """Return the name of the instruction set that oneDNN uses here, or of the architecture if it is unknown."""
    flags = set(_cpuinfo("flags").split())
    limit = os.environ.get(ISA_LIMIT, "").upper()
    names = list(INSTRUCTION_SETS)
    from_avx2 = dict.fromkeys(("AVX2", "AVX2_VNNI", "AVX2_VNNI_2"), names[1:])
    allowed = {"SSE41": names[3:], "AVX": names[2:], **from_avx2}.get(limit, names)
    return next((name for name in allowed if INSTRUCTION_SETS[name] <= flags), platform.machine())


def bfloat16_units() -> list[str]:
    """Return the bfloat16 units that oneDNN may use here, and its limit if one is set: both decide how it rounds."""
    units = {"avx512_bf16", "amx_bf16", "avx_ne_convert"} & set(_cpuinfo("flags").split())
    limit = os.environ.get(ISA_LIMIT)
    return sorted(units) + ([f"{ISA_LIMIT}={limit.upper()}"] if limit else [])


def processor() -> str:
    """Return the processor's name if the system reports it, else its architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@functools.cache
def _cpuinfo(field: str) -> str:
    """Return a field of Linux's description of the first processor; an empty string on other systems."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return ""
