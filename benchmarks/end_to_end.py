"""An epoch of end-to-end training, and beside it plain Keras `fit` on the same films in memory."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from benchmarks.sections import wait_for_the_others
from rust_optuna.config import BackboneConfiguration, TrialConfiguration
from rust_optuna.data.manifest import LABELS
from rust_optuna.learn.end_to_end import EndToEndTrainer
from rust_optuna.learn.head import keras_head
from rust_optuna.learn.pixels import Pixels
from rust_optuna.learn.runtime import load_keras


def main() -> None:
    """Print one JSON object: for each architecture, the seconds of an epoch by us and by `fit`, round by round.

    Both train with batches of one micro-batch, so both take the same steps.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=299, help="pixels")
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (chosen.films, chosen.size, chosen.size), dtype=np.uint8)
    labels = generator.integers(0, 2, (chosen.films, len(LABELS)), dtype=np.uint8)
    trained = {name: _ours(name, images, labels, chosen.batch) for name in ("inception_v3", "lenet_1998")}
    fitted = {name: _keras(name, chosen.size) for name in trained}
    inputs = {name: _inputs(images, model.input_shape[-1]) for name, model in fitted.items()}
    targets = labels.astype(np.float32)

    def ours(name: str, epoch: int) -> float:
        began = time.perf_counter()
        trained[name].train_epoch(epoch)
        return time.perf_counter() - began

    def theirs(name: str) -> float:
        began = time.perf_counter()
        fitted[name].fit(inputs[name], targets, batch_size=chosen.batch, epochs=1, verbose=0)
        return time.perf_counter() - began

    for name in trained:
        ours(name, 1)
        theirs(name)
    wait_for_the_others()
    found: dict[str, dict[str, list[float]]] = {name: {"ours": [], "fit": []} for name in trained}
    for epoch in range(2, chosen.rounds + 2):
        for name, seconds in found.items():
            seconds["ours"].append(ours(name, epoch))
            seconds["fit"].append(theirs(name))
    print(json.dumps(found))


def _ours(name: str, images: np.ndarray, labels: np.ndarray, batch: int) -> EndToEndTrainer:
    trial = TrialConfiguration(
        batch_size=batch,
        dropout_rate=0.0,
        learning_rate=1e-3,
        epsilon=1e-7,
        backbone=BackboneConfiguration("random", image_size=images.shape[1]),
        architecture=name,
        train="all",
        micro_batch=batch,
    )
    return EndToEndTrainer(Pixels(images, "made up"), labels, np.arange(len(images)), trial, seed=0)


def _keras(name: str, size: int) -> Any:
    """Return the same network as an ordinary Keras model."""
    keras = load_keras()
    layers = keras.layers
    if name == "lenet_1998":
        model = keras.Sequential(
            [
                keras.Input((size, size, 1)),
                layers.Conv2D(6, 5, activation="tanh", padding="same"),
                layers.AveragePooling2D(2),
                layers.Conv2D(16, 5, activation="tanh"),
                layers.AveragePooling2D(2),
                layers.Flatten(),
                layers.Dense(1024, activation="relu"),
                layers.Dense(len(LABELS), activation="sigmoid"),
            ]
        )
    else:
        backbone = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(size, size, 3))
        pooled = layers.GlobalMaxPooling2D()(backbone.output)
        model = keras.Model(backbone.input, keras_head(int(pooled.shape[-1]), (1024, 512, 256), 0.0)(pooled))
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-7), "binary_crossentropy", jit_compile=False)
    return model


def _inputs(images: np.ndarray, channels: int) -> np.ndarray:
    """Return films as Keras takes them: (films, size, size, channels) float32 in [−1, 1]."""
    grey = images.astype(np.float32) / 127.5 - 1
    return np.repeat(grey[..., np.newaxis], channels, axis=-1)


if __name__ == "__main__":
    main()
