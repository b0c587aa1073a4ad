"""The folds of a trial side by side, in threads of one process that meet at the end of each epoch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

from rust_optuna.learn.runtime import out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


class AbandonedError(Exception):
    """The end of a trial, by a failure in another thread or an interrupt: this thread need not go on."""


class SideBySide:
    """A pool of threads that calls a function on several items at once.

    TensorFlow releases the interpreter's lock while it computes, so each thread keeps one core busy.

    Args:
        threads: the number of simultaneous calls, at least 1. A single one runs in the calling thread.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fold") if threads > 1 else None
        self._abandoned = threading.Event()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the function's result for each item, in the order of the items.

        When a call fails, its error is raised here without waiting for the other calls. Those end with the block, or
        sooner by `check`. If several calls have failed by then, the error is the first in order, except that lack of
        memory comes before all others, because it makes other calls fail.
        """
        if self._pool is None:
            return [function(item) for item in items]
        calls = [self._pool.submit(function, item) for item in items]
        wait(calls, return_when=FIRST_EXCEPTION)
        errors = [error for call in calls if call.done() and (error := call.exception()) is not None]
        if errors:
            raise next(filter(out_of_memory, errors), errors[0])
        return [call.result() for call in calls]

    def check(self) -> None:
        """Raise `AbandonedError` if nothing waits for the calling thread any more."""
        if self._abandoned.is_set():
            raise AbandonedError

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._abandoned.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
