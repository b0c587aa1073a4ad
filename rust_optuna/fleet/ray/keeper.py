"""What Ray runs on a node: it keeps one worker process there. Loads neither Optuna nor TensorFlow."""

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
        worker: its identifier.
        words: the worker's command, from `commands.worker_run`.
        environment: variables to set: home, storage, artifacts.
        log: where its output goes on the node; a path below the home.
        per_gpu: how many workers share a GPU; None for a worker that computes on the processor.
    """

    worker: str
    words: Sequence[str]
    environment: Mapping[str, str]
    log: str
    per_gpu: int | None


@dataclass(frozen=True)
class Placement:
    """Where a worker runs.

    Args:
        node: Ray's identifier of the node.
        host: the node's own name.
        address: the node's address.
        device: what CUDA_VISIBLE_DEVICES says there.
        pid: the worker's process number there.
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
    """Starts a worker as a child process, tells how it ended, and passes signals on.

    A process of its own, because a worker handles signals, may end itself in the midst of a trial, and gives a GPU's
    memory back only when it ends. It knows this process as its supervisor: when Ray or the node's ``raylet`` is
    killed, it finds itself orphaned, gives its point back and ends. Ray runs ``wait`` beside the other methods.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path()

    def start(self, order: Order) -> Placement:
        """Start the worker; return where.

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
        """Wait for the worker's end; return its exit code and its last words."""
        if self._process is None:
            raise RuntimeError("wait before start")
        return self._process.wait(), last_words(self._log)

    def send_signal(self, number: int) -> None:
        """Send the worker a signal, if it still runs."""
        if self._process is not None:
            self._process.send_signal(signal.Signals(number))


def _device(per_gpu: int | None, resources: Mapping[str, float]) -> dict[str, str]:
    """Return the variables that pin a worker to its device: the GPU that Ray chose already, or the processor."""
    if per_gpu is None:
        return {"CUDA_VISIBLE_DEVICES": NO_GPU, **threads(cores())}
    # Ray would let every worker have one thread, however many cores the node has.
    return threads(max(1, round(resources.get("GPU", 1) * per_gpu)))
