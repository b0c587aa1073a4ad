"""The supervisor, which runs one worker process in each slot: it starts, watches, replaces and stops them."""

from __future__ import annotations

import logging
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rust_optuna.errors import CannotServeError, RetiredError, StorageError
from rust_optuna.fleet.commands import worker_run
from rust_optuna.fleet.slot import ERROR, Slot
from rust_optuna.fleet.workers import Workers
from rust_optuna.processes import ExitCode
from rust_optuna.search.ledger import Ledger
from rust_optuna.signals import Signals
from rust_optuna.storage.database import WORKER_PATIENCE_SECONDS
from rust_optuna.storage.roster import any_serves, points_finished_by

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How long to wait between checks of the processes."""
TEND_SECONDS = 5.0
"""The mean time between two rounds of housekeeping."""
MAX_DEATHS = 5
"""How many workers of a slot may die in a row, with no point finished in between, before the slot is given up."""
MAX_DELAY_SECONDS = 60.0
"""The longest delay before a dead worker is replaced; delays begin at a second and double."""
MARGIN_SECONDS = 15.0
"""How long a stopping worker may take beyond its grace to give its point back before it is killed."""
HURRY_SECONDS = 3.0
"""How long a worker may take to give its point back after a second signal."""
LINGER_SECONDS = 120.0
"""How long workers may take to end by themselves once their studies are done."""


class Studies(Protocol):
    """What a supervisor needs to know about the studies that its workers serve.

    Every method is called in the supervisor's thread, which is the main one, and may query the database. If the
    database does not answer, it raises `StorageError`, which the supervisor endures within its patience; when `names`
    raises it before the first workers run, it ends the supervisor. Any other error ends the supervisor too.
    """

    def names(self) -> Sequence[str]:
        """Return the studies that a worker started now should serve; none for all open studies."""

    def is_done(self) -> bool:
        """Return whether nothing is left to do. This is called often, and always False if workers run forever."""

    def tend(self) -> None:
        """Do the housekeeping. This is called every few seconds."""


@dataclass
class Supervisor:
    """A supervisor that runs a worker process in each slot until its studies are done or it is told to stop.

    Call every method in the main thread. If the database does not answer, neither the supervisor, within its patience,
    nor a slot ends: workers that die in the meantime are replaced once it answers, and their deaths are not counted.

    Args:
        ledger: the ledger, in which a dead worker's point is requeued at once, before its lease ends.
        studies: the studies that the workers serve.
        workers: how the workers run, one in each slot. The database may be unreachable for `WORKER_PATIENCE_SECONDS`,
            or forever if the workers run forever.
        logs: returns the file to which the workers of a slot append their output.
        environment: the variables of all workers: home, storage and artifacts. A password is passed here because others
            can read a command line.
        observe_seconds: how long to wait between calls of ``studies.is_done`` while no process ends.
        clock: a monotonic clock in seconds.
    """

    ledger: Ledger
    studies: Studies
    workers: Workers
    logs: Callable[[int], Path]
    environment: Mapping[str, str]
    observe_seconds: float = POLL_SECONDS
    clock: Callable[[], float] = time.monotonic
    slots: list[Slot] = field(init=False)

    def __post_init__(self) -> None:
        make_slot, devices = self.workers.make_slot, self.workers.devices
        self.slots = [make_slot(number, device, self.logs(number)) for number, device in enumerate(devices)]
        self._done = False
        self._done_since: float | None = None
        self._outage_since: float | None = None
        self._observe_at = self._tend_at = self.clock()
        self._serving_reported = self.workers.on_serving is None

    def run(self, signals: Signals) -> signal.Signals | None:
        """Run workers until all studies are done; return the signal that stopped them, if one did.

        After the first signal workers finish their points within the grace, or give them back; a second one ends them
        within seconds, and a third at once. However this ends, no worker is left and every point is given back.

        Args:
            signals: the signals, which are blocked by the caller and handled from here on.

        Raises:
            CannotServeError: no worker can serve the studies here; the message quotes the last words of one.
            RetiredError: every slot was given up; the message quotes the last words of a worker.
            StorageError: the database was unreachable for too long.
        """
        try:
            self.start()
            signals.listen()
            while not signals.received:
                if self.step():
                    return None
                signals.wait(POLL_SECONDS)
            log.info("Stopping after %s", signals.received[0].name, extra={"event": "stopping"})
            self.stop(signals)
            return signals.received[0]
        finally:
            self.kill()

    def start(self) -> None:
        """Start a worker in every slot."""
        for slot in self.slots:
            self._start(slot)

    def step(self) -> bool:
        """Do everything that is due; return whether all studies are done and every worker has ended.

        Raises:
            CannotServeError: no worker can serve the studies here.
            RetiredError: every slot was given up.
            StorageError: the database was unreachable for too long.
        """
        # Processes are checked before studies: a worker that had ended while a study was still open ended too early.
        ended = [(slot, code) for slot in self.slots if (code := slot.ended) is not None]
        self._show()
        try:
            self._check_studies(at_once=bool(ended))
            for slot, code in ended:
                self._handle_end(slot, code)
            self._report_serving()
            if not self._done:
                self._replace()
        except StorageError as error:
            self._endure(error)
            return False
        self._outage_since = None
        if self._done:
            return self._all_ended()
        if all(slot.retired for slot in self.slots):
            slot = self.slots[0]
            if all(other.unfit for other in self.slots):
                reason = slot.last_words().removeprefix(ERROR)
                raise CannotServeError(f"No worker can run here. {reason} Log: {slot.log}")
            raise RetiredError(
                f"All workers died again and again. The last log line of one: {slot.last_words()} Log: {slot.log}"
            )
        return False

    def stop(self, signals: Signals) -> None:
        """Let each worker finish its point within the grace, or give it back, and end.

        Workers that take longer are left for ``kill``.
        """
        self._signal_all(signal.SIGTERM)
        self._await_ends(self.workers.grace + MARGIN_SECONDS, signals, hurried_by=2)
        if len(signals.received) > 1:
            self._signal_all(signal.SIGTERM)
            self._await_ends(HURRY_SECONDS, signals, hurried_by=3)
        for slot in self.slots:
            if slot.ended is not None:
                self._reap(slot, "the worker was stopped")

    def kill(self) -> None:
        """Kill the remaining workers, and requeue their points."""
        self._signal_all(signal.SIGKILL)
        for slot in self.slots:
            if slot.process is not None:
                self._reap(slot, "the worker was killed by its supervisor")
        self._show()

    def _start(self, slot: Slot) -> None:
        predecessor = slot.worker
        pid = slot.start(worker_run(self.studies.names(), self.workers), self.environment)
        action = f"replaces {predecessor}" if predecessor else "started"
        fields = {"event": "replaced" if predecessor else "started", "worker": slot.worker, "pid": pid}
        fields["device"] = slot.device.name
        log.info("Worker %s %s on %s, log: %s", slot.worker, action, slot.device.name, slot.log, extra=fields)

    def _check_studies(self, *, at_once: bool) -> None:
        """Check whether all studies are done, and do the housekeeping, each if it is due."""
        now = self.clock()
        if at_once or now >= self._observe_at:
            self._done = self.studies.is_done()
            if not self._done:  # studies that were done may be open again, when holes get new attempts
                self._done_since = None
            self._observe_at = now + self.observe_seconds
        if now >= self._tend_at:
            # The jitter keeps many supervisors that started at once from querying the database at the same moment.
            self._tend_at = now + TEND_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 (jitter)
            self.studies.tend()

    def _report_serving(self) -> None:
        """Call ``on_serving`` once, as soon as a worker serves."""
        on_serving = self.workers.on_serving
        if self._serving_reported or on_serving is None:
            return
        if any_serves(self.ledger.database, [slot.worker for slot in self.slots if slot.lives]):
            self._serving_reported = True
            on_serving()

    def _handle_end(self, slot: Slot, code: int) -> None:
        """Requeue an ended worker's point, and decide when it is replaced or whether its slot is given up."""
        self._requeue(slot, f"the worker {slot.cause(code)}")
        finished = points_finished_by(self.ledger.database, slot.worker)
        slot.process = None
        fields: dict[str, object] = {"worker": slot.worker, "device": slot.device.name, "exit_code": code}
        if self._done:
            log.info("Worker %s %s", slot.worker, slot.cause(code), extra={**fields, "event": "ended"})
            return
        if self._outage_since is None and not slot.lost_its_node:
            slot.deaths = 1 if finished else slot.deaths + 1
        delay = min(MAX_DELAY_SECONDS, 2.0 ** max(0, slot.deaths - 1))
        slot.due = self.clock() + delay
        slot.unfit = code == ExitCode.CANNOT_SERVE and slot.stays
        slot.retired = slot.unfit or code == ExitCode.CIRCUIT_BREAKER or slot.deaths >= MAX_DEATHS
        if slot.unfit:
            # The reason is reported once, at the end, since the workers of the other slots mostly give the same.
            slot.leave_out_error()
            message = "Slot %d on %s is given up: its worker cannot serve here, log: %s"
            log.error(message, slot.number, slot.device.name, slot.log, extra={**fields, "event": "retired"})
            return
        self.workers.show(slot)
        fields |= {"event": "died", "deaths": slot.deaths}
        words = slot.last_words()
        log.warning("Worker %s %s; its last log line: %s", slot.worker, slot.cause(code), words, extra=fields)
        if slot.retired:
            reason = f"{slot.deaths} deaths in a row"
            if code == ExitCode.CIRCUIT_BREAKER:
                reason = "the same error at several points"
            fields["event"] = "retired"
            log.error("Slot %d on %s is given up: %s", slot.number, slot.device.name, reason, extra=fields)

    def _replace(self) -> None:
        """Start a worker in every slot in which one is due."""
        for slot in self.slots:
            if slot.process is None and not slot.retired and slot.due <= self.clock():
                self._start(slot)

    def _requeue(self, slot: Slot, reason: str) -> None:
        count = self.ledger.abandon(slot.worker, reason)
        if count:
            fields = {"event": "lost", "worker": slot.worker, "count": count, "reason": reason}
            log.warning("The point of worker %s waits again: %s", slot.worker, reason, extra=fields)

    def _endure(self, error: StorageError) -> None:
        """Note that the database does not answer; raise its error once the supervisor's patience is exhausted."""
        now = self.clock()
        if self._outage_since is None:
            self._outage_since = now
            log.warning("Waiting for the database: %s", error, extra={"event": "outage"})
        elif not self.workers.forever and now - self._outage_since > WORKER_PATIENCE_SECONDS:
            raise error

    def _all_ended(self) -> bool:
        """Return whether all workers have ended, as they do once the studies are done; kill those that linger."""
        lingering = sum(slot.lives for slot in self.slots)
        if not lingering:
            return True
        if self._done_since is None:
            self._done_since = self.clock()
        if self.clock() - self._done_since > LINGER_SECONDS:
            log.warning("The studies are done, but %d workers still run: killing them", lingering)
            self.kill()
        return False

    def _signal_all(self, number: signal.Signals) -> None:
        for slot in self.slots:
            slot.signal(number)

    def _await_ends(self, seconds: float, signals: Signals, *, hurried_by: int) -> None:
        """Wait until every worker has ended, ``seconds`` have passed, or ``hurried_by`` signals have come."""
        deadline = self.clock() + seconds
        while any(slot.lives for slot in self.slots):
            if self.clock() > deadline or len(signals.received) >= hurried_by:
                return
            signals.wait(0.1)
            self._show()

    def _reap(self, slot: Slot, reason: str) -> None:
        """Wait for a worker to end, and requeue its point."""
        code = slot.process.wait() if slot.process else 0
        slot.process = None
        fields = {"event": "ended", "worker": slot.worker, "exit_code": code}
        log.info("Worker %s %s", slot.worker, slot.cause(code), extra=fields)
        try:
            self._requeue(slot, reason)
        except StorageError as error:
            log.warning("The point of worker %s waits until its lease ends: %s", slot.worker, error)

    def _show(self) -> None:
        for slot in self.slots:
            self.workers.show(slot)
