"""The devices of this machine, counted without loading TensorFlow, and the environment that pins a process to one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.errors import RustOptunaError

WORKER_GIGABYTES = 1.5
"""Memory that one worker may take; no more workers are started by default than fit."""


@dataclass(frozen=True)
class Slot:
    """Where one worker process runs.

    Args:
        name: in words.
        environment: variables to set before anything is imported.
    """

    name: str
    environment: Mapping[str, str]


def cpu_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the identifiers of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    listing = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]


def slots(choice: str, workers: int | None) -> list[Slot]:
    """Return one slot for each worker process.

    Args:
        choice: ``all`` (every GPU; the processor where there is none), ``none`` (the processor), or ``0,1`` (these).
        workers: how many; None for one a GPU, or one a core as far as memory allows. More workers than GPUs share
            them in turn.

    Raises:
        RustOptunaError: a GPU is named that is not there.
    """
    there = gpus()
    if not choice.strip():
        raise RustOptunaError("--gpus takes all, none, or numbers such as 0,1")
    chosen = there if choice == "all" else [] if choice == "none" else [c.strip() for c in choice.split(",")]
    unknown = [name for name in chosen if name not in there]
    if unknown:
        raise RustOptunaError(f"No GPU {', '.join(unknown)} here; there are: {', '.join(there) or 'none'}")
    if not chosen:
        count = workers or max(1, min(cpu_cores(), _workers_in_memory()))
        return [Slot("cpu", {"CUDA_VISIBLE_DEVICES": "-1", **_threads(count)}) for _ in range(count)]
    count = workers or len(chosen)
    names = [chosen[number % len(chosen)] for number in range(count)]
    return [Slot(f"gpu {name}", {"CUDA_VISIBLE_DEVICES": name, **_threads(count)}) for name in names]


def _threads(processes: int) -> dict[str, str]:
    """Divide the cores among processes. One thread each is faster than several shared by all."""
    each = str(max(1, cpu_cores() // processes))
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, each)


def _workers_in_memory() -> int:
    """Return how many workers fit into the memory that is available (Linux) or installed (elsewhere)."""
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(available / (WORKER_GIGABYTES * 2**30))
