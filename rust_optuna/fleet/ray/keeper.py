"""The actor that Ray runs on a node to keep one worker process there. It loads neither Optuna nor TensorFlow."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.fleet.devices import NO_GPU, threads
from rust_optuna.fleet.slot import last_words, spawn
from rust_optuna.machine import cores


@dataclass(frozen=True)
class Order:
    """The worker that a keeper is to start.

    Args:
        worker: the worker's identifier.
        words: the worker's command, from `commands.worker_run`.
        environment: the variables to set: home, storage and artifacts.
        log: the file on the node to which its output is appended; a path below the home.
        per_gpu: the number of workers that share a GPU; None for a worker that computes on the processor.
    """

    worker: str
    words: Sequence[str]
    environment: Mapping[str, str]
    log: str
    per_gpu: int | None


@dataclass(frozen=True)
class Placement:
    """The place where a worker runs.

    Args:
        node: Ray's identifier of the node.
        host: the node's host name.
        address: the node's address.
        device: the value of CUDA_VISIBLE_DEVICES for the worker.
        pid: the worker's process number on the node.
    """

    node: str
    host: str
    address: str
    device: str
    pid: int

    def __str__(self) -> str:
        device = "cpu" if self.device == NO_GPU else f"gpu {self.device}"
        return f"{self.host} ({self.address}, node {self.node[:8]}), {device}, process {self.pid}"


class Keeper:
    """A keeper, which starts a worker as a child process, reports how it ended, and passes signals on.

    The worker is a process of its own because it handles signals, may end itself in the middle of a trial, and frees a
    GPU's memory only when it ends. It knows the keeper's process as its supervisor: when Ray or the node's ``raylet``
    is killed, the worker notices that it is orphaned, gives its point back and ends. Ray runs ``wait`` concurrently
    with the other methods.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path()

    def start(self, order: Order) -> Placement:
        """Start the worker, and return where it runs.

        Raises:
            OSError: its log cannot be written on this node.
        """
        import ray

        context = ray.get_runtime_context()
        node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        variables = {**order.environment, **_device(order.per_gpu, node["Resources"])}
        self._log = Path(order.log)
        self._process = spawn(order.words, self._log, order.worker, variables)
        return Placement(
            node=node["NodeID"],
            host=platform.node(),
            address=node["NodeManagerAddress"],
            device={**os.environ, **variables}.get("CUDA_VISIBLE_DEVICES", ""),
            pid=self._process.pid,
        )

    def wait(self) -> tuple[int, str]:
        """Wait for the worker to end, and return its exit code and its last log line."""
        if self._process is None:
            raise RuntimeError("wait before start")
        return self._process.wait(), last_words(self._log)

    def send_signal(self, number: int) -> None:
        """Send a signal to the worker if it still runs."""
        if self._process is not None:
            self._process.send_signal(signal.Signals(number))


def _device(per_gpu: int | None, resources: Mapping[str, float]) -> dict[str, str]:
    """Return the variables for a worker on the GPU that Ray has chosen, or on the processor."""
    if per_gpu is None:
        return {"CUDA_VISIBLE_DEVICES": NO_GPU, **threads(cores())}
    # Ray would give every worker one thread, however many cores the node has.
    return threads(max(1, round(resources.get("GPU", 1) * per_gpu)))
