"""InceptionV3 with the head of the frozen model, trained end to end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rust_optuna.config import BackboneConfiguration
from rust_optuna.learn.backbone import CHANNELS, build_backbone, random_kernels
from rust_optuna.learn.head import initial_weights
from rust_optuna.learn.network import Start
from rust_optuna.learn.program import dense_layers
from rust_optuna.learn.runtime import load_keras, load_tensorflow

BACKBONE = 0x6261636B
"""The number by which the seed of a fold's random backbone differs from the seeds of its head and of its epochs."""


@dataclass(frozen=True)
class Inception:
    """InceptionV3, cut at a named layer, with global pooling and the head of the frozen model.

    Its layers are Keras's, with their weights and moving averages passed in.

    Args:
        backbone: the weights to start from, the layer, the pooling and the size of a film. Its ``extraction_precision``
            is that of the convolutions.
        hidden_units: the units of the head's hidden layers.
    """

    backbone: BackboneConfiguration
    hidden_units: tuple[int, ...]

    channels: ClassVar[int] = CHANNELS

    @property
    def image_size(self) -> int:
        """The width and height of a film in pixels."""
        return self.backbone.image_size

    @property
    def dropouts(self) -> int:
        """The number of layers whose outputs may be dropped."""
        return len(self.hidden_units)

    def start(self, seed: int) -> Start:
        """Return the weights of the backbone, then kernel, bias, … of the head; and the backbone's averages.

        Random kernels are drawn as those of a frozen backbone, but from the fold's seed.
        """
        model = _model(self.backbone)
        head = initial_weights(int(model.output.shape[-1]), self.hidden_units, seed)
        # Copied, because the model's own variables are those of every fold.
        weights = [variable.numpy().copy() for variable in model.trainable_variables]
        if self.backbone.weights == "random":
            kernels = [place for place, variable in enumerate(model.trainable_variables) if variable.name == "kernel"]
            shapes = [weights[place].shape for place in kernels]
            for place, kernel in zip(kernels, random_kernels(shapes, (seed, BACKBONE)), strict=True):
                weights[place] = kernel
        averages = [variable.numpy().copy() for variable in model.non_trainable_variables]
        return Start([*weights, *head], averages)

    def logits(
        self,
        weights: Sequence[Any],
        averages: Sequence[Any],
        images: Any,
        drop: Callable[[int, Any], Any] | None = None,
    ) -> tuple[Any, Sequence[Any]]:
        """Return the logits; see `rust_optuna.learn.network.Network`."""
        tf, keras = load_tensorflow(), load_keras()
        model = _model(self.backbone)
        count = len(model.trainable_variables)
        maps, changed = model.stateless_call(list(weights[:count]), list(averages), images, training=drop is not None)
        pool = keras.ops.max if self.backbone.pooling == "max" else keras.ops.mean
        features = tf.cast(pool(maps, axis=(1, 2)), tf.float32)
        return dense_layers(weights[count:], features, self.backbone.extraction_precision, drop), changed


@functools.lru_cache(maxsize=4)
def _model(backbone: BackboneConfiguration) -> Any:
    """Return the backbone as a Keras model, of which only the layers and the weights to start from are used."""
    model = build_backbone(backbone)
    model.trainable = True
    return model
