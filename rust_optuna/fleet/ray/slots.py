"""A supervisor's slots on a cluster: the worker process of each runs on a node that Ray chooses.

Everything that a supervisor does (replacing, giving up, stopping in good order) it does here too, by ``Slot``. Ray
only finds a node with room and carries orders there; who runs which point is the ledger's business, as everywhere.
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
"""Exit code of a worker that is gone with its node or its keeper."""
REPLY_SECONDS = 3.0
"""For how long a keeper is waited for that was told to kill its worker."""
ROOM_SECONDS = 30.0
"""After which it is said that a worker found no room in the cluster yet."""


class RaySlot(Slot):
    """A slot somewhere in a cluster: each of its workers goes where Ray finds room.

    Args:
        number: of the slot.
        device: what a worker needs, in words.
        log: where its workers' output goes on the node, one's after the other's.
        needs: what a worker needs, in Ray's words.
        per_gpu: how many workers share a GPU, None for workers on processors.
        one_machine: the database is a file, so workers must run on this machine.
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
        """Say how its worker, the last one, ended."""
        lost = self._last.lost if self._last else None
        return lost or cause(code)

    @property
    def lost_its_node(self) -> bool:
        """Whether the last worker died with its node: another is started however often that happens."""
        return self._last is not None and self._last.node_died

    @property
    def stays(self) -> bool:
        """No: Ray may find another node, which has what this one lacks."""
        return False

    def show(self, stream: TextIO, prefix: str) -> None:
        """Write nothing: the log is on the worker's node."""

    def last_words(self) -> str:
        """Return the last line that its last worker logged, as far as it could be asked for."""
        return self._last.words if self._last else "none"


class RemoteProcess:
    """A worker process on some node, behind what a supervisor uses of `subprocess.Popen`.

    Args:
        order: the worker.
        needs: options of its keeper: what it takes of a node.
        one_machine: refuse to run on another machine than this.
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
        self._say_at: float | None = time.monotonic() + ROOM_SECONDS
        # Two calls at once: one waits for the worker's end, others bring signals.
        options = {"max_restarts": 0, "max_concurrency": 2, "scheduling_strategy": "SPREAD", **needs}
        self._keeper = ray.remote(Keeper).options(**options).remote()
        # A call's arguments go straight to the node; the constructor's, a password among them, Ray would keep.
        self._answer = self._keeper.start.remote(order)

    def poll(self) -> int | None:
        """Return the exit code, None while the worker runs or waits for room.

        Raises:
            RustOptunaError: it was placed on a machine that cannot reach the database.
        """
        if self.returncode is None:
            self._look(0.0)
        return self.returncode

    def wait(self) -> int:
        """Wait for the end of a worker that was killed; what its keeper does not confirm in time, Ray ends."""
        deadline = time.monotonic() + REPLY_SECONDS
        while self.returncode is None and time.monotonic() < deadline:
            self._look(deadline - time.monotonic())
        if self.returncode is None:
            self._end(KILLED)
        return self.returncode or 0

    def send_signal(self, sig: int) -> None:
        """Send the worker a signal; one that has no node yet is given up."""
        if self.returncode is not None:
            return
        if self.placement is None:
            # If it is being started at this very moment, it finds itself orphaned.
            self._end(-sig)
        else:
            self._keeper.send_signal.remote(int(sig))

    def _look(self, seconds: float) -> None:
        """Take an answer of the keeper, if there is one within these seconds."""
        ready, _ = self._ray.wait([self._answer], timeout=seconds)
        if not ready:
            self._say_waiting()
            return
        try:
            answer = self._ray.get(self._answer)
        except self._ray.exceptions.ActorUnavailableError:
            # The network, not the node. A worker whose start was not confirmed is not known to run.
            if self.placement is None:
                self._lose("was not heard of")
            else:
                self._answer = self._keeper.wait.remote()
        except self._ray.exceptions.RayError as error:
            self._bury(error)
        else:
            if self.placement is None:
                self._place(answer)
            else:
                code, self.words = answer
                self._end(code)

    def _place(self, placement: Placement) -> None:
        self.placement = placement
        self._answer = self._keeper.wait.remote()
        about = {"event": "placed", "worker": self.worker, "pid": placement.pid, "device": placement.device}
        about |= {"host": placement.host, "node": placement.node}
        log.info("Worker %s runs on %s", self.worker, placement, extra=about)
        if self._one_machine and placement.host != platform.node():
            raise RustOptunaError(
                f"Ray placed a worker on {placement.host}, which cannot share the SQLite file of {platform.node()}: "
                "keep the studies in PostgreSQL (--storage) to search on several machines"
            )

    def _bury(self, error: Exception) -> None:
        """Take the end of a keeper: with its node, by itself, or because it could not start the worker."""
        if self.placement is not None:
            alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
            # A node that is being taken away may still count as alive while its processes end.
            self.node_died = self.placement.node not in alive or getattr(error, "preempted", False)
        if self.node_died:
            self._lose(f"went down with node {self.placement.node[:8]}" if self.placement else "went down")
        else:
            self.words = str(error).strip().splitlines()[-1]
            self._lose("lost its keeper in Ray")

    def _lose(self, how: str) -> None:
        self.lost = how
        self._end(KILLED)

    def _end(self, code: int) -> None:
        """Note the exit code, and let Ray have the room again."""
        self.returncode = code
        self._ray.kill(self._keeper, no_restart=True)

    def _say_waiting(self) -> None:
        if self.placement is None and self._say_at is not None and time.monotonic() > self._say_at:
            self._say_at = None
            about = {"event": "waiting", "worker": self.worker}
            log.warning("Worker %s waits: Ray found no node with room for it yet", self.worker, extra=about)
