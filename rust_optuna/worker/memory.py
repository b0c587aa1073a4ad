"""Trials that run out of memory are run again, a few films at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from rust_optuna.errors import OutOfMemoryError
from rust_optuna.learn.runtime import free_memory, out_of_memory

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SMALLEST = 8
"""Films in the smallest micro-batch: what does not fit then is not the batch."""
WORDS = 200
"""Characters of an error that are repeated: TensorFlow adds a stack, and a table of everything in memory."""


class MicroBatch:
    """How many films the trials of this process may compute at a time, learned from those that ran out of memory.

    Attributes:
        limit: None as long as no trial ran out.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def run(self, trial: Callable[[int | None], Result], batch_size: int) -> Result:
        """Run a trial; out of memory, from its start again with half as many films at a time, and so on.

        The limit that it ends with is that of later trials, too.

        Args:
            trial: runs it with a micro-batch, None for whole batches.
            batch_size: the most films that the trial trains on at a time without a limit.

        Raises:
            OutOfMemoryError: memory does not suffice for `SMALLEST` films. The limit is then as before: it was not what
                was needed.
        """
        before = self.limit
        while True:
            try:
                return trial(self.limit)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                what = _in_short(error)
            # Here the error is gone, and with it its traceback, which held all that the trial had in memory.
            free_memory()
            if self.limit == SMALLEST:
                self.limit = before
                raise OutOfMemoryError(f"even in micro-batches of {SMALLEST}: {what}")
            self.limit = max(SMALLEST, min(self.limit or batch_size, batch_size) // 2)
            log.warning("out of memory, again from the start in micro-batches of %d: %s", self.limit, what)


def _in_short(error: Exception) -> str:
    """Return an error's kind and the line that says what did not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "OOM" in line), next(iter(lines), ""))
    return f"{type(error).__name__} {said}".strip()[:WORDS]
