"""The published way: the frozen backbone inside the model, flips as layers, Keras's `fit` and `predict`."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from benchmarks import material
from benchmarks.sections import wait_for_the_others
from rust_optuna.learn import runtime
from rust_optuna.learn.head import keras_head


def main() -> None:
    """Print one JSON object: see `step_times`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60, help="training steps, of 16 films")
    chosen = parser.parse_args()
    # As TensorFlow does it by itself: an operation on all cores.
    runtime.KERNEL_THREADS = 0
    runtime.load_keras()
    wait_for_the_others()
    print(json.dumps(step_times(chosen.steps)))


def step_times(steps: int) -> dict[str, float]:
    """Time the published way: the frozen backbone inside the model, flips as layers, Keras's `fit` and `predict`.

    Returns:
        Seconds a film of a training step and of a prediction, and the steps that were timed.
    """
    keras = runtime.load_keras()
    backbone = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3))
    backbone.trainable = False
    inputs = keras.Input((299, 299, 3))
    flipped = keras.layers.RandomFlip("horizontal_and_vertical")(inputs)
    pooled = keras.layers.GlobalMaxPooling2D()(backbone(flipped, training=False))
    model = keras.Model(inputs, keras_head(material.WIDTH, (1024, 512, 256), 0.25)(pooled))
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-7), "binary_crossentropy", jit_compile=False)
    films = np.random.default_rng(0).uniform(-1, 1, (16, 299, 299, 3)).astype(np.float32)
    films = np.concatenate([films] * 10)
    labels = np.zeros((len(films), 18), np.float32)
    model.fit(films[:16], labels[:16], batch_size=16, verbose=0)
    model.predict(films[:16], batch_size=16, verbose=0)
    rounds = -(-steps // 10)
    began = time.perf_counter()
    model.fit(films, labels, batch_size=16, epochs=rounds, verbose=0)
    training = (time.perf_counter() - began) / rounds / len(films)
    began = time.perf_counter()
    model.predict(films, batch_size=16, verbose=0)
    return {"train": training, "predict": (time.perf_counter() - began) / len(films), "steps": rounds * 10}


if __name__ == "__main__":
    main()
