"""Work over thousands of files in threads: reading, hashing and decoding all release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Called with (items done, items in all), always from the thread that started the work."""

MAX_THREADS = 8
"""A decoded film takes tens of megabytes; more threads than this gain nothing on one disk."""


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None = None
) -> list[Result]:
    """Return ``function`` of each item, in the order of ``items``.

    What ``function`` raises is raised here; items not yet begun are then given up (so an interrupt does not
    wait for thousands of files).
    """
    results: list[Result] = []
    with ThreadPoolExecutor(max_workers=min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        try:
            for result in pool.map(function, items):
                results.append(result)
                if progress is not None:
                    progress(len(results), len(items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results
