"""The renewal of a worker's lease while its point advances, and the end of a process that cannot end itself."""

from __future__ import annotations

import logging
import os
import statistics
import threading
import time
from collections.abc import Callable

from rust_optuna.errors import LeaseLostError, StorageError
from rust_optuna.processes import ExitCode
from rust_optuna.search.ledger import Claim, Ledger
from rust_optuna.storage.states import FaultKind

log = logging.getLogger(__name__)

STUCK_SECONDS = 600.0
"""How long a trial may go without advancing before it counts as stuck, unless `STUCK_EPOCHS` allows it longer."""
STUCK_EPOCHS = 20
"""How many times its median epoch a trial may go without advancing."""
WATCH_SECONDS = 0.25
"""How often the clock is checked."""
LAST_WORDS_SECONDS = 5.0
"""How long giving a point back may take before the process ends without having done so."""


class LeaseKeeper:
    """Two threads that run beside a point for as long as the ``with`` block does.

    One renews the claim's lease after each third of its length. It goes on when the database does not answer: the lease
    may outlast the outage, and if it does not, the next renewal reports it.

    The other watches the clock, and never waits for the database. A trial that no longer advances (a GPU that hangs)
    must not keep its point, and one that outlasts a stop's grace must not hold up the machine. In both cases the main
    thread may never return to Python, so this thread gives the point back and ends the process.

    Args:
        ledger: the ledger that granted the claim.
        claim: the claimed point.
        overdue: a function, called often, that returns whether a requested stop's grace is over.
        stuck_seconds: see `STUCK_SECONDS`.
        leave: a function that ends the process with an exit code; None for the real one.
    """

    def __init__(
        self,
        ledger: Ledger,
        claim: Claim,
        *,
        overdue: Callable[[], bool] = lambda: False,
        stuck_seconds: float = STUCK_SECONDS,
        leave: Callable[[int], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._claim = claim
        self._overdue = overdue
        self._stuck_seconds = stuck_seconds
        self._leave = leave or _leave
        self._over = threading.Event()
        self._lost: LeaseLostError | None = None
        self._advanced = self._epoch_began = time.monotonic()
        self._epochs: list[float] = []
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._renew, "lease"), (self._watch, "watch"))
        ]

    def check(self) -> None:
        """Raise LeaseLostError if a renewal was refused."""
        if self._lost is not None:
            raise self._lost

    def advanced(self) -> None:
        """Record a sign of life within an epoch."""
        self._advanced = time.monotonic()

    def finished_epoch(self) -> None:
        """Record the end of an epoch."""
        now = time.monotonic()
        self._epochs.append(now - self._epoch_began)
        self._advanced = self._epoch_began = now

    def __enter__(self) -> LeaseKeeper:
        self._advanced = self._epoch_began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _renew(self) -> None:
        while not self._over.wait(self._claim.lease_seconds / 3):
            if self._is_stuck():
                return
            try:
                self._ledger.renew(self._claim)
            except LeaseLostError as error:
                self._lost = error
                return
            except StorageError as error:
                log.warning("The lease could not be renewed; the worker tries again: %s", error)

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            if self._is_stuck():
                seconds = time.monotonic() - self._advanced
                self._give_back(f"the trial did not advance for {seconds:.0f} s", FaultKind.MACHINE, ExitCode.STUCK)
                return
            if self._overdue():
                self._give_back("the worker was asked to stop", FaultKind.INTERRUPTED, ExitCode.DONE)
                return

    def _is_stuck(self) -> bool:
        limit = self._stuck_seconds
        if self._epochs:
            limit = max(limit, STUCK_EPOCHS * statistics.median(self._epochs))
        return time.monotonic() - self._advanced > limit

    def _give_back(self, reason: str, fault: FaultKind, code: ExitCode) -> None:
        """Give the point back and end the process, whatever the main thread is doing."""
        log.warning("%s: point %d is given back: %s", self._claim.study, self._claim.number, reason)

        def release() -> None:
            self._ledger.release(self._claim, reason, fault)
            if not self._over.is_set():
                self._ledger.leave(self._claim.worker)

        thread = threading.Thread(target=release, daemon=True)
        thread.start()
        thread.join(LAST_WORDS_SECONDS)
        if not self._over.is_set():
            self._leave(code)


def _leave(code: int) -> None:
    logging.shutdown()
    os._exit(code)
