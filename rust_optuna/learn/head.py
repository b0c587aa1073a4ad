"""The head: dense layers with ReLU and dropout on standardised features, 18 sigmoids at the end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rust_optuna.data.manifest import LABELS
from rust_optuna.learn.runtime import load_keras

COLUMNS_AT_ONCE = 128
"""The number of columns converted to float64 at a time: 2,079 films × 4 flips × 2,048 features would take 136 MB."""


@dataclass(frozen=True)
class Standardisation:
    """The transformation of features before they enter the head: ``(features − mean) · scale``.

    Args:
        mean: (width,) float32.
        scale: (width,) float32, one over the standard deviation.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, table: np.ndarray) -> Standardisation:
        """Fit mean and (population) standard deviation of each feature, in float64.

        A feature that never varies gets scale 1, so that it is 0 in training and not inflated in validation.

        Args:
            table: (films, 4, width) float32, the training films in all their flips.

        Raises:
            ValueError: there are no films.
        """
        if not len(table):
            raise ValueError("a standardisation needs at least one film")
        rows = table.reshape(-1, table.shape[-1])
        fitted = cls(np.zeros(rows.shape[1], np.float32), np.ones(rows.shape[1], np.float32))
        for start in range(0, rows.shape[1], COLUMNS_AT_ONCE):
            columns = slice(start, start + COLUMNS_AT_ONCE)
            wide = rows[:, columns].astype(np.float64)
            varies = wide.max(axis=0) > wide.min(axis=0)
            fitted.mean[columns] = wide.mean(axis=0)
            fitted.scale[columns] = 1.0 / np.where(varies, wide.std(axis=0), 1.0)
        return fitted


def layer_sizes(width: int, hidden_units: Sequence[int]) -> list[tuple[int, int]]:
    """Return the (inputs, outputs) of each dense layer of the head."""
    sizes = [width, *hidden_units, len(LABELS)]
    return list(itertools.pairwise(sizes))


def initial_weights(width: int, hidden_units: Sequence[int], seed: int) -> list[np.ndarray]:
    """Return a head's weights before training: kernel, bias, kernel, bias, …, float32.

    Kernels are uniform in ±√(6/(inputs + outputs)) (Glorot and Bengio 2010, as Keras's ``GlorotUniform``); biases are
    zero. NumPy draws the kernels, so that they are the same on every device.

    Args:
        width: the number of features of a film.
        hidden_units: the units of the hidden layers.
        seed: the seed, at least 0.
    """
    generator = np.random.default_rng(seed)
    weights: list[np.ndarray] = []
    for inputs, outputs in layer_sizes(width, hidden_units):
        limit = np.float32(np.sqrt(6.0 / (inputs + outputs)))
        unit = generator.random((inputs, outputs), dtype=np.float32)
        weights += [(2 * unit - 1) * limit, np.zeros(outputs, np.float32)]
    return weights


def keras_head(
    width: int,
    hidden_units: Sequence[int],
    dropout_rate: float,
    weights: Sequence[np.ndarray] | None = None,
    standardisation: Standardisation | None = None,
) -> Any:
    """Return the head as a plain Keras model from (films, width) features to (films, 18) probabilities.

    `training` computes the same without Keras's overhead; tests compare the two.

    Args:
        width: the number of features of a film.
        hidden_units: the units of the hidden layers.
        dropout_rate: the share of a hidden layer's outputs that training drops.
        weights: kernel, bias, kernel, bias, …; None for Keras's own random weights.
        standardisation: the standardisation of the features; None for none.
    """
    keras = load_keras()
    layers: list[Any] = [keras.Input((width,), dtype="float32")]
    if standardisation is not None:
        offset = -standardisation.mean * standardisation.scale
        layers.append(keras.layers.Rescaling(standardisation.scale, offset))
    for units in hidden_units:
        layers += [keras.layers.Dense(units, activation="relu"), keras.layers.Dropout(dropout_rate)]
    model = keras.Sequential([*layers, keras.layers.Dense(len(LABELS), activation="sigmoid")])
    if weights is not None:
        model.set_weights(list(weights))
    return model
