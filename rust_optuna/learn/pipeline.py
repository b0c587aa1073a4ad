"""Micro-batches of films, gathered by a thread while the one before is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from rust_optuna.learn.pixels import Pixels

AHEAD = 2
"""How many micro-batches are gathered ahead: one waits while the next is read from the disk."""


def prefetched(pixels: Pixels, parts: Sequence[np.ndarray], capacity: int) -> Generator[np.ndarray, None, None]:
    """Yield the films of each part in turn, as `Pixels.gather` returns them.

    Args:
        pixels: the films.
        parts: the numbers of the films of each micro-batch, at most ``capacity`` of them.
        capacity: the number of films that the arrays have places for.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="films") as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(pixels.gather, part, capacity))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
