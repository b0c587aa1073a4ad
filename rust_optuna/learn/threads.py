"""The folds of a trial side by side: threads of one process, which meet at the end of each epoch."""

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
    """Another thread of the trial has failed, or the trial was interrupted: this one need not go on."""


class SideBySide:
    """Calls a function of several items at once; in the calling thread alone where there is one thread only.

    TensorFlow releases the interpreter's lock while it computes, so that as many cores are busy as there are threads.

    Args:
        threads: how many calls at a time, at least 1.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fold") if threads > 1 else None
        self._abandoned = threading.Event()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the function of each item, in their order.

        What a call that fails raises is raised here, without waiting for the others: they end with the block, sooner by
        `check`. Of several that have failed by then, the first in order; lack of memory before all else, for it makes
        others fail.
        """
        if self._pool is None:
            return [function(item) for item in items]
        begun = [self._pool.submit(function, item) for item in items]
        wait(begun, return_when=FIRST_EXCEPTION)
        errors = [error for each in begun if each.done() and (error := each.exception()) is not None]
        if errors:
            raise next(filter(out_of_memory, errors), errors[0])
        return [each.result() for each in begun]

    def check(self) -> None:
        """Raise AbandonedError where nothing waits for the calling thread any more."""
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
