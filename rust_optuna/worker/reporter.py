"""Shows intermediate values in Optuna from a thread of its own: training does not wait for the showing."""

from __future__ import annotations

import logging
import queue
import threading

import optuna

from rust_optuna.storage.outages import database_errors

log = logging.getLogger(__name__)


class Reporter:
    """Reports a trial's intermediate values, in order, while the ``with`` block runs; its end waits for the last.

    A block that raises waits for no more than the value that is being reported: its point is to be given back at once.
    Training does not depend on the showing: what the database fails to take is logged and left out. But a trial that is
    finished or gone is trained in vain: the next report raises. A trial that began
    anew, out of memory, comes to its epochs again: their first values stay.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self._values: queue.SimpleQueue[tuple[int, float] | None] = queue.SimpleQueue()
        self._dropping = False
        self._last = -1
        self._in_vain: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def report(self, epoch: int, value: float) -> None:
        """Report a value some time soon.

        Raises:
            UpdateFinishedTrialError: the trial was finished by somebody else.
            KeyError: the trial is gone: its study was deleted.
        """
        if self._in_vain is not None:
            raise self._in_vain
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
            except (optuna.exceptions.UpdateFinishedTrialError, KeyError) as error:
                self._in_vain = error
                self._dropping = True
            except database_errors() as error:
                log.warning("Epoch %d could not be shown in Optuna: %s", epoch, type(error).__name__)
