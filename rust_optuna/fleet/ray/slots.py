"""A supervisor's slots on a cluster, where each worker process runs on a node that Ray chooses.

Because these are ``Slot`` objects, the supervisor replaces, gives up and stops workers as it does on one machine. Ray
only finds a node with room and carries orders there. As everywhere, the ledger decides which worker runs which point.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rust_optuna.errors import RustOptunaError
from rust_optuna.fleet.devices import Device
from rust_optuna.fleet.ray.keeper import Keeper, Order, Placement
from rust_optuna.fleet.slot import Slot, cause
from rust_optuna.processes import new_worker_id

log = logging.getLogger(__name__)

KILLED = -9
"""The exit code of a worker that was lost with its node or its keeper."""
REPLY_SECONDS = 3.0
"""How long to wait for a keeper that was told to kill its worker."""
ROOM_SECONDS = 30.0
"""How long a worker may wait for room in the cluster before this is logged."""


class RaySlot(Slot):
    """A slot somewhere in a cluster, each of whose workers runs where Ray finds room.

    Args:
        number: the slot's number.
        device: a description of the device that a worker needs.
        log: the file on a node to which its workers append their output.
        needs: the resources that a worker needs, as options of Ray.
        per_gpu: the number of workers that share a GPU; None for workers on processors.
        one_machine: whether workers must run on this machine, because the database is a file.
    """

    def __init__(
        self,
        number: int,
        device: Device,
        log: Path,
        *,
        needs: Mapping[str, Any],
        per_gpu: int | None,
        one_machine: bool,
    ) -> None:
        super().__init__(number, device, log)
        self._needs = needs
        self._per_gpu = per_gpu
        self._one_machine = one_machine
        self._last: RemoteProcess | None = None

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        """Ask Ray for a worker; it starts when a node has room."""
        self.worker = new_worker_id()
        order = Order(self.worker, list(words), dict(environment), str(self.log), self._per_gpu)
        self.process = self._last = RemoteProcess(order, self._needs, one_machine=self._one_machine)

    def cause(self, code: int) -> str:
        """Return, as a predicate, how the slot's last worker ended."""
        lost = self._last.lost if self._last else None
        return lost or cause(code)

    @property
    def lost_its_node(self) -> bool:
        """Whether the last worker died with its node. Such deaths are not counted, however many there are."""
        return self._last is not None and self._last.node_died

    @property
    def stays(self) -> bool:
        """Whether the next worker will run on the same machine: False, since Ray may choose a node that can serve."""
        return False

    def show(self, stream: TextIO, prefix: str) -> None:
        """Write nothing, since the log is on the worker's node."""

    def last_words(self) -> str:
        """Return the last line that the slot's last worker logged; ``none`` if its keeper could not report it."""
        return self._last.words if self._last else "none"


class RemoteProcess:
    """A worker process on some node, with the part of `subprocess.Popen` that a supervisor uses.

    Args:
        order: the worker to start.
        needs: the resources that its keeper takes on a node, as options of Ray.
        one_machine: whether to refuse to run on any machine but this one.
    """

    def __init__(self, order: Order, needs: Mapping[str, Any], *, one_machine: bool) -> None:
        import ray

        self._ray = ray
        self.worker = order.worker
        self.placement: Placement | None = None
        self.returncode: int | None = None
        self.words = "none"
        self.lost: str | None = None
        self.node_died = False
        self._one_machine = one_machine
        self._warn_at: float | None = time.monotonic() + ROOM_SECONDS
        # Two calls run at once: one waits for the worker's end while others bring signals.
        options = {"max_restarts": 0, "max_concurrency": 2, "scheduling_strategy": "SPREAD", **needs}
        self._keeper = ray.remote(Keeper).options(**options).remote()
        # The order holds a password. Ray would keep a constructor's arguments, but sends a call's straight to the node.
        self._answer = self._keeper.start.remote(order)

    def poll(self) -> int | None:
        """Return the exit code, or None while the worker runs or waits for room.

        Raises:
            RustOptunaError: the worker was placed on a machine that cannot reach the database.
        """
        if self.returncode is None:
            self._receive(0.0)
        return self.returncode

    def wait(self) -> int:
        """Wait for a killed worker to end, and return its exit code.

        If its keeper does not confirm the end in time, Ray kills the keeper.
        """
        deadline = time.monotonic() + REPLY_SECONDS
        while self.returncode is None and time.monotonic() < deadline:
            self._receive(deadline - time.monotonic())
        if self.returncode is None:
            self._end(KILLED)
        return self.returncode or 0

    def send_signal(self, sig: int) -> None:
        """Send a signal to the worker; give it up if it has no node yet."""
        if self.returncode is not None:
            return
        if self.placement is None:
            # A worker that is being started at this very moment will notice that it is orphaned.
            self._end(-sig)
        else:
            self._keeper.send_signal.remote(int(sig))

    def _receive(self, seconds: float) -> None:
        """Handle an answer of the keeper if one arrives within ``seconds``."""
        ready, _ = self._ray.wait([self._answer], timeout=seconds)
        if not ready:
            self._warn_waiting()
            return
        try:
            answer = self._ray.get(self._answer)
        except self._ray.exceptions.ActorUnavailableError:
            # The network failed, not the node. If the worker's start was not confirmed, it may not run at all.
            if self.placement is None:
                self._lose("did not confirm its start")
            else:
                self._answer = self._keeper.wait.remote()
        except self._ray.exceptions.RayError as error:
            self._handle_lost_keeper(error)
        else:
            if self.placement is None:
                self._place(answer)
            else:
                code, self.words = answer
                self._end(code)

    def _place(self, placement: Placement) -> None:
        self.placement = placement
        self._answer = self._keeper.wait.remote()
        fields = {"event": "placed", "worker": self.worker, "pid": placement.pid, "device": placement.device}
        fields |= {"host": placement.host, "node": placement.node}
        log.info("Worker %s runs on %s", self.worker, placement, extra=fields)
        if self._one_machine and placement.host != platform.node():
            raise RustOptunaError(
                f"Ray placed a worker on {placement.host}, which cannot share the SQLite file of {platform.node()}: "
                "keep the studies in PostgreSQL (--storage) to search on several machines"
            )

    def _handle_lost_keeper(self, error: Exception) -> None:
        """Note that the keeper ended: with its node, by itself, or because it could not start the worker."""
        if self.placement is not None:
            alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
            # A node that is being removed may still count as alive while its processes end.
            self.node_died = self.placement.node not in alive or getattr(error, "preempted", False)
        if self.node_died:
            self._lose(f"went down with node {self.placement.node[:8]}" if self.placement else "went down")
        else:
            self.words = str(error).strip().splitlines()[-1]
            self._lose("lost its keeper in Ray")

    def _lose(self, cause: str) -> None:
        self.lost = cause
        self._end(KILLED)

    def _end(self, code: int) -> None:
        """Record the exit code, and free the worker's room in the cluster."""
        self.returncode = code
        self._ray.kill(self._keeper, no_restart=True)

    def _warn_waiting(self) -> None:
        """Log once that the worker has waited for room for long."""
        if self.placement is None and self._warn_at is not None and time.monotonic() > self._warn_at:
            self._warn_at = None
            fields = {"event": "waiting", "worker": self.worker}
            log.warning("Worker %s waits: Ray has found no node with room for it yet", self.worker, extra=fields)
