"""The display of intermediate values in Optuna, from a separate thread for which training does not wait."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

import optuna

from rust_optuna.errors import StorageError
from rust_optuna.storage.outages import database_errors

log = logging.getLogger(__name__)


class Reporter:
    """A thread that reports a trial's intermediate values, in order, while the ``with`` block runs.

    The end of the block waits for the last value. A block that raises waits only for the value that is being reported,
    so that its point is given back at once. Training does not depend on these reports: a value that the database fails
    to store is logged and left out. But a trial that is finished or gone is trained in vain, so the next report raises.
    A trial that ran out of memory and started again reaches its epochs a second time; their first values stay.

    Args:
        trial: the trial.
        afterwards: what the thread does after each report, where it may use the database; None for nothing.
    """

    def __init__(self, trial: optuna.Trial, afterwards: Callable[[], None] | None = None) -> None:
        self._trial = trial
        self._afterwards = afterwards
        self._values: queue.SimpleQueue[tuple[int, float] | None] = queue.SimpleQueue()
        self._dropping = False
        self._last = -1
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def report(self, epoch: int, value: float) -> None:
        """Hand a value to the thread, which reports it soon.

        Raises:
            UpdateFinishedTrialError: somebody else has finished the trial.
            KeyError: the trial is gone, because its study was deleted.
        """
        if self._error is not None:
            raise self._error
        if epoch > self._last:
            self._last = epoch
            self._values.put((epoch, value))

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None:
            self._dropping = True
        self._values.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (value := self._values.get()) is not None:
            epoch, score = value
            if self._dropping:
                continue
            try:
                self._trial.report(score, epoch)
                if self._afterwards is not None:
                    self._afterwards()
            except (optuna.exceptions.UpdateFinishedTrialError, KeyError) as error:
                self._error = error
                self._dropping = True
            except (StorageError, *database_errors()) as error:
                log.warning("Epoch %d is not shown in Optuna, training goes on: %s", epoch, type(error).__name__)
