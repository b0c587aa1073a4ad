"""LeNet-1998 on films: the published study's smallest network, trained end to end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rust_optuna.data.manifest import LABELS
from rust_optuna.learn.network import Start
from rust_optuna.learn.runtime import load_tensorflow

KERNEL = 5
"""The width and height of a convolution's kernels."""
CHANNELS = (1, 6, 16)
"""The channels of the film and of the two convolutions' outputs."""
UNITS = 1024
"""The units of the dense layer."""


@dataclass(frozen=True)
class LeNet:
    """LeNet-1998 (LeCun et al. 1998, Proceedings of the IEEE 86) as the published study has it.

    Convolution 6 × 5×5 with tanh (same padding), average pooling, convolution 16 × 5×5 with tanh (valid padding),
    average pooling, dense 1,024 with ReLU, 18 sigmoids. Dropout follows the dense layer. Nearly all of its weights are
    those of the dense layer: 85 million at 299 × 299 pixels.

    Args:
        image_size: the width and height of a film in pixels.
        precision: of convolutions and matrix products, ``float32`` or ``bfloat16``; weights are float32 in both.
    """

    image_size: int
    precision: str

    channels: ClassVar[int] = 1
    dropouts: ClassVar[int] = 1

    @property
    def flattened(self) -> int:
        """The number of values that enter the dense layer."""
        return ((self.image_size // 2 - KERNEL + 1) // 2) ** 2 * CHANNELS[2]

    def start(self, seed: int) -> Start:
        """Return kernel, bias, kernel, bias, … before training; there are no averages.

        Kernels are uniform in ±√(6/(fan-in + fan-out)) (Glorot and Bengio 2010, as Keras's ``GlorotUniform``); biases
        are zero.
        """
        generator = np.random.default_rng(seed)
        area = KERNEL**2
        shapes = [
            *((KERNEL, KERNEL, inputs, outputs) for inputs, outputs in itertools.pairwise(CHANNELS)),
            (self.flattened, UNITS),
            (UNITS, len(LABELS)),
        ]
        weights: list[np.ndarray] = []
        for shape in shapes:
            fans = (shape[-2] + shape[-1]) * (area if len(shape) > 2 else 1)
            kernel = generator.random(shape, dtype=np.float32)
            # In place: the dense layer's kernel has 340 MB.
            kernel *= 2
            kernel -= 1
            kernel *= np.float32(np.sqrt(6.0 / fans))
            weights += [kernel, np.zeros(shape[-1], np.float32)]
        return Start(weights, [])

    def logits(
        self,
        weights: Sequence[Any],
        averages: Sequence[Any],
        images: Any,
        drop: Callable[[int, Any], Any] | None = None,
    ) -> tuple[Any, Sequence[Any]]:
        """Return the logits; see `rust_optuna.learn.network.Network`."""
        tf = load_tensorflow()
        x, *rounded = (tf.cast(tensor, self.precision) for tensor in (images, *weights))
        first, first_bias, second, second_bias, dense, dense_bias, last, last_bias = rounded
        x = tf.nn.avg_pool2d(tf.tanh(tf.nn.bias_add(tf.nn.conv2d(x, first, 1, "SAME"), first_bias)), 2, 2, "VALID")
        x = tf.nn.avg_pool2d(tf.tanh(tf.nn.bias_add(tf.nn.conv2d(x, second, 1, "VALID"), second_bias)), 2, 2, "VALID")
        x = tf.nn.relu(tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, self.flattened]), dense), dense_bias))
        if drop is not None:
            x = drop(0, x)
        return tf.cast(tf.nn.bias_add(tf.matmul(x, last), last_bias), tf.float32), averages
