"""A network that is trained end to end. Its weights are arguments, so that all folds share a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Start:
    """A network before its first step.

    Args:
        weights: what Adam changes, float32.
        averages: the moving averages of batch normalisation, float32; empty without batch normalisation.
    """

    weights: Sequence[np.ndarray]
    averages: Sequence[np.ndarray]


class Network(Protocol):
    """A network from films to the logits of the 18 labels. Equal networks have equal programs."""

    @property
    def image_size(self) -> int:
        """The width and height of a film in pixels."""

    @property
    def channels(self) -> int:
        """How many channels a film has when it enters; they are equal."""

    @property
    def dropouts(self) -> int:
        """The number of layers whose outputs may be dropped."""

    def start(self, seed: int) -> Start:
        """Return the weights before training, which NumPy draws, so that they are the same on every device.

        Args:
            seed: the fold's seed.
        """

    def logits(
        self,
        weights: Sequence[Any],
        averages: Sequence[Any],
        images: Any,
        drop: Callable[[int, Any], Any] | None = None,
    ) -> tuple[Any, Sequence[Any]]:
        """Return the logits, (films, 18) float32, and the averages after this pass.

        Args:
            weights: as in `Start`.
            averages: as in `Start`.
            images: (films, size, size, channels) float32 in [−1, 1].
            drop: called with the number of each layer whose outputs may be dropped, and with its outputs. With it, the
                pass is one of training: batch normalisation takes its statistics from these films. None to score films.
        """
