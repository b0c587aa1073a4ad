"""Keeps a worker's lease alive while its point runs."""

from __future__ import annotations

import logging
import threading

from rust_optuna.errors import LeaseLostError, StorageError
from rust_optuna.search.ledger import Claim, Ledger

log = logging.getLogger(__name__)


class LeaseKeeper:
    """A thread that renews a claim's lease at a third of its length, for as long as the ``with`` block runs.

    A database that does not answer is no reason to stop: the lease may outlast the trouble, and if it does not, the
    next renewal says so.
    """

    def __init__(self, ledger: Ledger, claim: Claim) -> None:
        self._ledger = ledger
        self._claim = claim
        self._over = threading.Event()
        self._lost: LeaseLostError | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raise LeaseLostError if a renewal was refused."""
        if self._lost is not None:
            raise self._lost

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._over.wait(self._claim.lease_seconds / 3):
            try:
                self._ledger.renew(self._claim)
            except LeaseLostError as error:
                self._lost = error
                return
            except StorageError as error:
                log.warning("The lease could not be renewed, trying again: %s", error)
