"""Worker processes of this machine, one a slot: started, watched, replaced when they die, stopped in good order."""

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
"""Between looks at the processes."""
TEND_SECONDS = 5.0
"""Between calls of the housekeeping, on average."""
MAX_DEATHS = 5
"""Deaths in a row, with no point finished in between, after which a slot is given up."""
MAX_DELAY_SECONDS = 60.0
"""The longest wait before a dead worker is replaced; the waits begin with a second and double."""
MARGIN_SECONDS = 15.0
"""What a stopping worker gets beyond its grace to give its point back, before it is killed."""
HURRY_SECONDS = 3.0
"""What a worker gets to give its point back when a second signal came."""
LINGER_SECONDS = 120.0
"""What workers get to end by themselves once their studies are done."""


class Studies(Protocol):
    """The studies that a supervisor's workers serve, as far as the supervisor needs to know them.

    Every method is called in the supervisor's thread, the main one, and may ask the database. One that does raises
    `StorageError` where the database does not answer, which the supervisor endures within its patience (from `names`
    only while it replaces a worker: at the start, the error ends it). Any other error ends the supervisor.
    """

    def names(self) -> Sequence[str]:
        """Return the studies that a worker started now is to serve; none for all that are open."""

    def is_done(self) -> bool:
        """Say whether nothing is left to do. Called often; False for ever for one that never ends by itself."""

    def tend(self) -> None:
        """Do the housekeeping. Called every few seconds."""


@dataclass
class Supervisor:
    """Runs a worker process in each slot until its studies are done, or it is told to stop.

    Every method belongs to the main thread. A database that does not answer ends neither the supervisor, within its
    patience, nor a slot: what died meanwhile is replaced once it answers, and not counted.

    Args:
        ledger: whatever a dead worker was running is requeued here at once, before its lease ends.
        studies: what the workers serve.
        workers: how they run, one in each slot. The database may be away for `WORKER_PATIENCE_SECONDS`; for ever, where
            they run for ever.
        logs: returns the file that the output of a slot's workers is appended to.
        environment: variables for all of them (home, storage, artifacts: a password stands in no command line).
        observe_seconds: between calls of ``studies.is_done`` while no process ends.
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
        self._serving_told = self.workers.on_serving is None

    def run(self, signals: Signals) -> signal.Signals | None:
        """Run workers until all is done; return the signal that stopped it, if one did.

        The first signal lets workers finish their points within the grace, or give them back; a second one ends them
        within seconds, and a third at once. Whatever ends this, no worker is left and every point is given back.

        Args:
            signals: entered, and not listened to yet.

        Raises:
            CannotServeError: no worker can serve the studies here; with the last words of one.
            RetiredError: every slot was given up; with the last words of a worker.
            StorageError: the database was away for too long.
        """
        try:
            self.start()
            signals.listen()
            while not signals.received:
                if self.step():
                    return None
                signals.wait(POLL_SECONDS)
            log.info("%s: stopping", signals.received[0].name, extra={"event": "stopping"})
            self.stop(signals)
            return signals.received[0]
        finally:
            self.kill()

    def start(self) -> None:
        """Start a worker in every slot."""
        for slot in self.slots:
            self._start(slot)

    def step(self) -> bool:
        """Do what is to be done by now; return whether all is done and every worker has ended.

        Raises:
            RetiredError: every slot was given up.
            StorageError: the database was away for too long.
        """
        # Processes first, state second: a worker that had ended before the study was seen open ended too early.
        ended = [(slot, code) for slot in self.slots if (code := slot.ended) is not None]
        self._show()
        try:
            self._look(at_once=bool(ended))
            for slot, code in ended:
                self._bury(slot, code)
            self._tell_serving()
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
            if all(each.unfit for each in self.slots):
                why = slot.last_words().removeprefix(ERROR)
                raise CannotServeError(f"No worker can run here. {why} Log: {slot.log}")
            raise RetiredError(
                f"All workers died, again and again. The last words of one: {slot.last_words()} Log: {slot.log}"
            )
        return False

    def stop(self, signals: Signals) -> None:
        """Let the workers end in good order: each finishes its point within the grace, or gives it back.

        What takes longer is left to ``kill``.
        """
        self._tell(signal.SIGTERM)
        self._await(self.workers.grace + MARGIN_SECONDS, signals, hurried_by=2)
        if len(signals.received) > 1:
            self._tell(signal.SIGTERM)
            self._await(HURRY_SECONDS, signals, hurried_by=3)
        for slot in self.slots:
            if slot.ended is not None:
                self._reap(slot, "the worker was stopped")

    def kill(self) -> None:
        """Kill the workers that are left, and requeue what they ran."""
        self._tell(signal.SIGKILL)
        for slot in self.slots:
            if slot.process is not None:
                self._reap(slot, "the worker was killed by its supervisor")
        self._show()

    def _start(self, slot: Slot) -> None:
        before = slot.worker
        pid = slot.start(worker_run(self.studies.names(), self.workers), self.environment)
        what = f"replaces {before}" if before else "started"
        about = {"event": "replaced" if before else "started", "worker": slot.worker, "pid": pid}
        about["device"] = slot.device.name
        log.info("Worker %s %s on %s, log: %s", slot.worker, what, slot.device.name, slot.log, extra=about)

    def _look(self, *, at_once: bool) -> None:
        """See whether all is done, and do the housekeeping, each where its time has come."""
        now = self.clock()
        if at_once or now >= self._observe_at:
            self._done = self.studies.is_done()
            if not self._done:  # or no longer: holes were given new attempts
                self._done_since = None
            self._observe_at = now + self.observe_seconds
        if now >= self._tend_at:
            # Many supervisors started at once do not ask the database in step.
            self._tend_at = now + TEND_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 (jitter)
            self.studies.tend()

    def _tell_serving(self) -> None:
        on_serving = self.workers.on_serving
        if self._serving_told or on_serving is None:
            return
        if any_serves(self.ledger.database, [slot.worker for slot in self.slots if slot.lives]):
            self._serving_told = True
            on_serving()

    def _bury(self, slot: Slot, code: int) -> None:
        """Requeue what an ended worker was running, and see when it is replaced."""
        self._requeue(slot, f"the worker {slot.cause(code)}")
        finished = points_finished_by(self.ledger.database, slot.worker)
        slot.process = None
        about: dict[str, object] = {"worker": slot.worker, "device": slot.device.name, "exit_code": code}
        if self._done:
            log.info("Worker %s %s", slot.worker, slot.cause(code), extra={**about, "event": "ended"})
            return
        if self._outage_since is None and not slot.blameless:
            slot.deaths = 1 if finished else slot.deaths + 1
        delay = min(MAX_DELAY_SECONDS, 2.0 ** max(0, slot.deaths - 1))
        slot.due = self.clock() + delay
        slot.unfit = code == ExitCode.CANNOT_SERVE and slot.stays
        slot.retired = slot.unfit or code == ExitCode.CIRCUIT_BREAKER or slot.deaths >= MAX_DEATHS
        if slot.unfit:
            # Why is told once, at the end: the other slots' workers mostly say the same.
            slot.leave_out_error()
            what = "Slot %d on %s is given up: its worker cannot serve here, log: %s"
            log.error(what, slot.number, slot.device.name, slot.log, extra={**about, "event": "retired"})
            return
        self.workers.show(slot)
        about |= {"event": "died", "deaths": slot.deaths}
        words = slot.last_words()
        log.warning("Worker %s %s; its last words: %s", slot.worker, slot.cause(code), words, extra=about)
        if slot.retired:
            why = f"{slot.deaths} deaths in a row"
            if code == ExitCode.CIRCUIT_BREAKER:
                why = "the same error at several points"
            about["event"] = "retired"
            log.error("Slot %d on %s is given up: %s", slot.number, slot.device.name, why, extra=about)

    def _replace(self) -> None:
        """Start the workers whose time has come."""
        for slot in self.slots:
            if slot.process is None and not slot.retired and slot.due <= self.clock():
                self._start(slot)

    def _requeue(self, slot: Slot, reason: str) -> None:
        count = self.ledger.abandon(slot.worker, reason)
        if count:
            about = {"event": "lost", "worker": slot.worker, "count": count, "reason": reason}
            log.warning("The point of worker %s waits again: %s", slot.worker, reason, extra=about)

    def _endure(self, error: StorageError) -> None:
        """Wait for a database that does not answer; raise its error once patience is at an end."""
        now = self.clock()
        if self._outage_since is None:
            self._outage_since = now
            log.warning("Waiting for the database: %s", error, extra={"event": "outage"})
        elif not self.workers.forever and now - self._outage_since > WORKER_PATIENCE_SECONDS:
            raise error

    def _all_ended(self) -> bool:
        """Say whether the workers have ended, as they do by themselves once all is done; end those that linger."""
        lingering = sum(slot.lives for slot in self.slots)
        if not lingering:
            return True
        if self._done_since is None:
            self._done_since = self.clock()
        if self.clock() - self._done_since > LINGER_SECONDS:
            log.warning("All is done, and %d workers are still there: they are killed", lingering)
            self.kill()
        return False

    def _tell(self, number: signal.Signals) -> None:
        for slot in self.slots:
            slot.signal(number)

    def _await(self, seconds: float, signals: Signals, *, hurried_by: int) -> None:
        """Wait until every worker has ended, so many seconds have passed, or so many signals have come."""
        deadline = self.clock() + seconds
        while any(slot.lives for slot in self.slots):
            if self.clock() > deadline or len(signals.received) >= hurried_by:
                return
            signals.wait(0.1)
            self._show()

    def _reap(self, slot: Slot, reason: str) -> None:
        """Take the end of a worker, and requeue what it was running."""
        code = slot.process.wait() if slot.process else 0
        slot.process = None
        about = {"event": "ended", "worker": slot.worker, "exit_code": code}
        log.info("Worker %s %s", slot.worker, slot.cause(code), extra=about)
        try:
            self._requeue(slot, reason)
        except StorageError as error:
            log.warning("The point of worker %s waits until its lease ends: %s", slot.worker, error)

    def _show(self) -> None:
        for slot in self.slots:
            self.workers.show(slot)
