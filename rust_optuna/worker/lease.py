"""Keeps a worker's lease alive while its point advances, and ends the process where it cannot end itself."""

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
"""A trial that has not advanced for so long is stuck; or for `STUCK_EPOCHS` times its median epoch if that is more."""
STUCK_EPOCHS = 20
WATCH_SECONDS = 0.25
"""Between looks at the clock."""
LAST_WORDS_SECONDS = 5.0
"""What giving a point back may take before the process ends all the same."""


class LeaseKeeper:
    """Two threads beside a running point, for as long as the ``with`` block runs.

    One renews the claim's lease at a third of its length. A database that does not answer is no reason to stop: the
    lease may outlast the trouble, and if it does not, the next renewal says so.

    The other watches the clock, and never waits for the database. A trial that no longer advances (a GPU that hangs)
    must not hold its point, and one that a stop has overtaken must not hold up the machine: neither may ever come back
    to Python, so the point is given back from here, and the process ends.

    Args:
        ledger: holds the claim.
        claim: the point.
        overdue: called all the time; true once the worker was asked to stop and its time is over.
        stuck_seconds: see `STUCK_SECONDS`.
        leave: ends the process with an exit code.
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
        """Note a sign of life: part of an epoch is done."""
        self._advanced = time.monotonic()

    def finished_epoch(self) -> None:
        """Note that an epoch is done."""
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
                log.warning("The lease could not be renewed, trying again: %s", error)

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            if self._is_stuck():
                seconds = time.monotonic() - self._advanced
                self._give_back(f"it did not advance for {seconds:.0f} s", FaultKind.MACHINE, ExitCode.STUCK)
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
        """Give the point back, and end the process, whatever the main thread is at."""
        log.warning("%s: point %d is given back: %s", self._claim.study, self._claim.number, reason)

        def say() -> None:
            self._ledger.release(self._claim, reason, fault)
            if not self._over.is_set():
                self._ledger.leave(self._claim.worker)

        words = threading.Thread(target=say, daemon=True)
        words.start()
        words.join(LAST_WORDS_SECONDS)
        if not self._over.is_set():
            self._leave(code)


def _leave(code: int) -> None:
    logging.shutdown()
    os._exit(code)
