"""The devices of this machine, counted without loading TensorFlow, and the environment that pins a process to one."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.errors import InvalidValueError, RustOptunaError
from rust_optuna.machine import CORES, cores, memory_available

log = logging.getLogger(__name__)

WORKER_GIGABYTES = 1.5
"""Memory that one worker may take; no more workers are started by default than fit."""
NVIDIA_SMI_SECONDS = 60
"""How long nvidia-smi may take; a driver that is not loaded yet needs a while."""
NO_GPU = "-1"
BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Of the libraries under NumPy, which has next to nothing to do while TensorFlow computes."""
DEVICE_FILES = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/gpus")
"""Where NVIDIA's driver shows GPUs to a container that has no nvidia-smi."""


@dataclass(frozen=True)
class Device:
    """Where one worker process runs.

    Args:
        name: in words.
        environment: variables to set before anything is imported.
    """

    name: str
    environment: Mapping[str, str]

    @property
    def on_processor(self) -> bool:
        """Whether the worker computes on the processor, not on a GPU."""
        return self.environment["CUDA_VISIBLE_DEVICES"] == NO_GPU

    @property
    def alone(self) -> dict[str, str]:
        """The variables for a process that has the device, and all cores, to itself."""
        return {name: value for name, value in self.environment.items() if name != CORES}


def gpus() -> list[str]:
    """Return the identifiers of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them.

    Those that CUDA_VISIBLE_DEVICES names, by number, UUID or MIG identifier; else those that nvidia-smi lists (of a
    divided GPU its MIG parts); else, also where nvidia-smi fails, as many as the driver shows.

    Raises:
        RustOptunaError: nvidia-smi does not answer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _named(visible)
    command = shutil.which("nvidia-smi")
    return _counted() if command is None else _listed(command)


@dataclass(frozen=True)
class DeviceChoice:
    """Which devices the workers of a search or a supervisor run on.

    Args:
        gpus: ``all`` (every GPU; the processor where there is none), ``none`` (the processor), or ``0,1`` (these).
        workers: how many in all; None for ``per_gpu`` on each GPU, or one a core as far as memory allows. More workers
            than GPUs share them in turn.
        per_gpu: how many on each GPU, one by default.
    """

    gpus: str = "all"
    workers: int | None = None
    per_gpu: int | None = None

    def devices(self) -> list[Device]:
        """Return the device of each worker process on this machine.

        Raises:
            InvalidValueError: both numbers are given.
            RustOptunaError: a GPU is named that is not there.
        """
        if self.workers and self.per_gpu:
            raise InvalidValueError(
                "--workers says how many workers in all, --per-gpu how many on each GPU: give one of them"
            )
        chosen = _chosen(self.gpus)
        if not chosen:
            count = self.workers or max(1, min(cores(), _workers_in_memory()))
            return [Device("cpu", {"CUDA_VISIBLE_DEVICES": NO_GPU, **threads(count)}) for _ in range(count)]
        count = self.workers or len(chosen) * (self.per_gpu or 1)
        names = [chosen[number % len(chosen)] for number in range(count)]
        environment = {**_order(), **threads(count)}
        return [Device(f"gpu {name}", {"CUDA_VISIBLE_DEVICES": name, **environment}) for name in names]


def _chosen(choice: str) -> list[str]:
    if choice == "none":
        return []
    there = gpus()
    if choice == "all":
        return there
    chosen = [name.strip() for name in choice.split(",")]
    if not all(chosen):
        raise InvalidValueError("--gpus takes all, none, or numbers such as 0,1")
    words = [name for name in chosen if name in ("all", "none")]
    if words:
        raise InvalidValueError(f"--gpus takes all, none, or numbers such as 0,1; {words[0]} does not go with others")
    unknown = [name for name in chosen if name not in there]
    if unknown:
        which = f"there are: {', '.join(there)}" if there else "there is none; --gpus none computes on the processor"
        raise InvalidValueError(f"No GPU {', '.join(unknown)} here; {which}")
    return chosen


def _named(visible: str) -> list[str]:
    """Return what CUDA takes of CUDA_VISIBLE_DEVICES: everything before the first name that is none."""
    found: list[str] = []
    for name in (each.strip() for each in visible.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            break
        found.append(name)
    return found


def _listed(command: str) -> list[str]:
    try:
        listing = subprocess.run(
            [command, "-L"], capture_output=True, text=True, check=False, timeout=NVIDIA_SMI_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise RustOptunaError(
            f"nvidia-smi does not answer within {NVIDIA_SMI_SECONDS} seconds: name the GPUs in CUDA_VISIBLE_DEVICES, "
            "or use --gpus none"
        ) from None
    if listing.returncode:
        counted = _counted()
        said = " ".join((listing.stdout + listing.stderr).split())
        found = f"the driver shows {len(counted)} GPUs" if counted else "no GPU is used"
        log.warning("nvidia-smi failed, %s: %s", found, said or f"exit code {listing.returncode}")
        return counted
    parts: dict[str, list[str]] = {}
    for line in listing.stdout.splitlines():
        if whole := re.match(r"GPU (\d+):", line):
            parts[whole[1]] = []
        elif parts and (part := re.search(r"\(UUID: (MIG-[^)]+)\)", line)):
            parts[list(parts)[-1]].append(part[1])
    # A process can use one part of a divided GPU only, and its number means the first.
    return [name for number, divided in parts.items() for name in divided or [number]]


def _counted() -> list[str]:
    """Return a number for each GPU that the driver shows: CUDA numbers those that a container may use from 0."""
    files = [path for path in DEVICE_FILES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    shown = files or (list(DRIVER.iterdir()) if DRIVER.is_dir() else [])
    return [str(number) for number in range(len(shown))]


def _order() -> dict[str, str]:
    """Let CUDA number GPUs as nvidia-smi does; numbers that CUDA_VISIBLE_DEVICES gave keep their meaning."""
    return {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def threads(processes: int) -> dict[str, str]:
    """Divide the cores among processes.

    How many a process has decides how much it does at once, and no value: a kernel always runs on one thread
    (`rust_optuna.learn.runtime`).
    """
    return {CORES: str(max(1, cores() // processes)), **dict.fromkeys(BLAS_THREADS, "1")}


def _workers_in_memory() -> int:
    """Return how many workers fit into the memory that is available."""
    return int(memory_available() / (WORKER_GIGABYTES * 2**30))
