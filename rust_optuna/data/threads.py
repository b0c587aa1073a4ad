"""Work on thousands of files in threads: reading, hashing and decoding all release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""A callback with (items done, items in total), always called from the thread that started the work."""

MAX_THREADS = 8
"""The maximum number of threads. A decoded film takes tens of megabytes, and more threads gain nothing on one disk."""


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None = None
) -> list[Result]:
    """Return the result of ``function`` for each item, in the order of ``items``.

    An error in ``function`` is raised here, and items that have not begun are then dropped, so that an interrupt does
    not wait for thousands of files.
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
