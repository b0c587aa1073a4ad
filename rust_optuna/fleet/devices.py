"""The devices of this machine, counted without loading TensorFlow, and the environment that pins a process to each."""

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
"""The memory that one worker may take. By default no more workers are started than fit into the available memory."""
NVIDIA_SMI_SECONDS = 60
"""How long nvidia-smi may take; a driver that is not loaded yet needs a while."""
NO_GPU = "-1"
BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""The variables that limit the threads of the libraries under NumPy, which does hardly anything while TensorFlow
computes."""
DEVICE_FILES = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/gpus")
"""The folder in which NVIDIA's driver lists GPUs, also for a container that has no nvidia-smi."""


@dataclass(frozen=True)
class Device:
    """The device on which one worker process runs.

    Args:
        name: its name for people.
        environment: the variables that the process needs before it imports anything.
    """

    name: str
    environment: Mapping[str, str]

    @property
    def on_processor(self) -> bool:
        """Whether the worker computes on the processor, not on a GPU."""
        return self.environment["CUDA_VISIBLE_DEVICES"] == NO_GPU

    @property
    def alone(self) -> dict[str, str]:
        """The variables for a process that has the device and all cores to itself."""
        return {name: value for name, value in self.environment.items() if name != CORES}


def gpus() -> list[str]:
    """Return the identifiers of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them.

    If CUDA_VISIBLE_DEVICES is set, they are the ones that it names, by number, UUID or MIG identifier. Otherwise they
    are the ones that nvidia-smi lists, with the MIG parts of a divided GPU in its place. If there is no nvidia-smi, or
    it fails, they are as many as the driver shows.

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
        gpus: ``all`` (every GPU, or the processor if there is none), ``none`` (the processor), or numbers such as
            ``0,1``.
        workers: the number of workers in all; None for ``per_gpu`` on each GPU, or without a GPU for one on each core
            as far as memory allows. If there are more workers than GPUs, the GPUs are shared in turn.
        per_gpu: the number of workers on each GPU; None for one.
    """

    gpus: str = "all"
    workers: int | None = None
    per_gpu: int | None = None

    def devices(self) -> list[Device]:
        """Return the device of each worker process on this machine.

        Raises:
            InvalidValueError: both numbers are given, or ``gpus`` cannot be read or names a GPU that does not exist.
            RustOptunaError: nvidia-smi does not answer.
        """
        if self.workers and self.per_gpu:
            raise InvalidValueError(
                "--workers is the number of workers in all, and --per-gpu the number on each GPU: give only one of them"
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
    available = gpus()
    if choice == "all":
        return available
    chosen = [name.strip() for name in choice.split(",")]
    if not all(chosen):
        raise InvalidValueError("--gpus takes all, none, or numbers such as 0,1")
    words = [name for name in chosen if name in ("all", "none")]
    if words:
        raise InvalidValueError(f"--gpus takes all, none, or numbers such as 0,1: {words[0]} cannot be combined")
    unknown = [name for name in chosen if name not in available]
    if unknown:
        choices = f"there are: {', '.join(available)}" if available else "there is none; --gpus none uses the processor"
        raise InvalidValueError(f"No GPU {', '.join(unknown)} here; {choices}")
    return chosen


def _named(visible: str) -> list[str]:
    """Return the devices that CUDA reads from CUDA_VISIBLE_DEVICES: those before the first invalid name."""
    names: list[str] = []
    for name in (part.strip() for part in visible.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            break
        names.append(name)
    return names


def _listed(command: str) -> list[str]:
    """Return the GPUs that nvidia-smi lists; those that the driver shows if it fails.

    Raises:
        RustOptunaError: nvidia-smi does not answer.
    """
    try:
        listing = subprocess.run(
            [command, "-L"], capture_output=True, text=True, check=False, timeout=NVIDIA_SMI_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise RustOptunaError(
            f"nvidia-smi did not answer within {NVIDIA_SMI_SECONDS} seconds: name the GPUs in CUDA_VISIBLE_DEVICES, "
            "or use --gpus none"
        ) from None
    if listing.returncode:
        counted = _counted()
        output = " ".join((listing.stdout + listing.stderr).split())
        consequence = f"so the driver's count of GPUs is used ({len(counted)})" if counted else "so no GPU is used"
        log.warning("nvidia-smi failed, %s: %s", consequence, output or f"exit code {listing.returncode}")
        return counted
    parts: dict[str, list[str]] = {}
    for line in listing.stdout.splitlines():
        if whole := re.match(r"GPU (\d+):", line):
            parts[whole[1]] = []
        elif parts and (part := re.search(r"\(UUID: (MIG-[^)]+)\)", line)):
            parts[list(parts)[-1]].append(part[1])
    # A process can use only one part of a divided GPU, and the GPU's number means its first part.
    return [name for number, divided in parts.items() for name in divided or [number]]


def _counted() -> list[str]:
    """Return a number for each GPU that the driver shows; CUDA numbers the GPUs that a container may use from 0."""
    files = [path for path in DEVICE_FILES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    entries = files or (list(DRIVER.iterdir()) if DRIVER.is_dir() else [])
    return [str(number) for number in range(len(entries))]


def _order() -> dict[str, str]:
    """Return the variables that make CUDA number GPUs as nvidia-smi does.

    If CUDA_VISIBLE_DEVICES is set, there are none, so that its numbers keep their meaning.
    """
    return {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def threads(processes: int) -> dict[str, str]:
    """Return the variables that give each of several processes its share of the cores.

    The share decides how much a process does at once and changes no value, since a kernel always runs on one thread
    (`rust_optuna.learn.runtime`).
    """
    return {CORES: str(max(1, cores() // processes)), **dict.fromkeys(BLAS_THREADS, "1")}


def _workers_in_memory() -> int:
    """Return how many workers fit into the available memory."""
    return int(memory_available() / (WORKER_GIGABYTES * 2**30))
