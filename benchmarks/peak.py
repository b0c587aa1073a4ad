"""The machine's own peak, against which everything else is held: TensorFlow's product of two 2048 × 2048 matrices."""

from __future__ import annotations

import time
from typing import Any

from rust_optuna.learn.runtime import load_tensorflow

SIZE = 2048
REPETITIONS = 6


class Peak:
    """Measures floating-point operations a second, in between whatever else is measured.

    Args:
        precision: ``float32`` or ``bfloat16``.
    """

    def __init__(self, precision: str = "float32") -> None:
        tf = load_tensorflow()
        self._matrix: Any = tf.cast(tf.random.normal((SIZE, SIZE)), precision)
        self._product = tf.function(lambda a: tf.matmul(a, a), autograph=False)
        self.measure()

    def measure(self) -> float:
        """Return the best of a few products, in FLOP/s."""
        best = float("inf")
        for _ in range(REPETITIONS):
            began = time.perf_counter()
            self._product(self._matrix)
            best = min(best, time.perf_counter() - began)
        return 2 * SIZE**3 / best
