"""The repetition of trials that run out of memory, with fewer films at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from rust_optuna.errors import OutOfMemoryError
from rust_optuna.learn.runtime import free_memory, out_of_memory

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SMALLEST = 8
"""The number of films in the smallest micro-batch. If even that does not fit, the batch is not the cause."""
LONGEST_ERROR = 200
"""The number of characters of an error that are repeated: TensorFlow adds a stack and a table of all memory."""


class MicroBatch:
    """The number of films that trials of this process may compute at a time, lowered by each that runs out of memory.

    Attributes:
        limit: the number of films; None until a trial runs out of memory.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def run(self, trial: Callable[[int | None], Result], batch_size: int) -> Result:
        """Run a trial. Each time it runs out of memory, run it again from the start with half as many films at a time.

        Later trials start with the limit that this one ended with.

        Args:
            trial: a function that runs the trial with a micro-batch size; None means whole batches.
            batch_size: the largest number of films that the trial trains on at a time without a limit.

        Raises:
            OutOfMemoryError: memory does not suffice even for `SMALLEST` films. The limit is then restored, because
                lowering it did not help.
        """
        before = self.limit
        while True:
            try:
                return trial(self.limit)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                reason = _summary(error)
            # Python has dropped the error here, and with its traceback all that the trial held in memory.
            free_memory()
            if self.limit == SMALLEST:
                self.limit = before
                raise OutOfMemoryError(f"even in micro-batches of {SMALLEST}: {reason}")
            self.limit = max(SMALLEST, min(self.limit or batch_size, batch_size) // 2)
            log.warning("Out of memory; the trial starts again in micro-batches of %d: %s", self.limit, reason)


def run_as_asked(trial: Callable[[], Result], micro_batch: int) -> Result:
    """Run a trial whose micro-batch belongs to its numerics, so that it must not be lowered.

    Args:
        trial: a function that runs the trial.
        micro_batch: the number of films that it computes at a time.

    Raises:
        OutOfMemoryError: memory does not suffice.
    """
    try:
        return trial()
    except Exception as error:
        if not out_of_memory(error):
            raise
        reason = _summary(error)
    free_memory()
    raise OutOfMemoryError(
        f"in micro-batches of {micro_batch}, which a network trained end to end keeps, because another size gives "
        f"another network (set a smaller micro_batch in a new study): {reason}"
    )


def _summary(error: Exception) -> str:
    """Return an error's type and the line of its message that says what did not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next((line for line in lines if "OOM" in line), next(iter(lines), ""))
    return f"{type(error).__name__} {line}".strip()[:LONGEST_ERROR]
