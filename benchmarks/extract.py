"""Films a second through the backbone, beside the peak, in float32 and bfloat16; and the published way's step."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from benchmarks import material
from benchmarks.peak import Peak
from benchmarks.sections import wait_for_the_others
from rust_optuna.config import BackboneConfiguration
from rust_optuna.learn.extraction import MICRO_BATCH, Extractor
from rust_optuna.learn.head import keras_head
from rust_optuna.learn.runtime import load_keras

FLOP_A_FILM = 11.4e9


def main() -> None:
    """Print one JSON object: films a second and utilisation by precision; seconds a film of the published way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--published-steps", type=int, default=0, help="training steps of the published way, at 16")
    chosen = parser.parse_args()
    peak = Peak()
    images = np.random.default_rng(0).uniform(-1, 1, (2 * MICRO_BATCH, 299, 299)).astype(np.float32)
    flips = np.arange(len(images)) % 4
    precisions = ("float32", "bfloat16")
    extractors = {p: Extractor(BackboneConfiguration("random", extraction_precision=p)) for p in precisions}
    for extractor in extractors.values():
        extractor.extract(images[:MICRO_BATCH], flips[:MICRO_BATCH])
    wait_for_the_others()
    found: dict[str, dict[str, list[float]]] = {p: {"rate": [], "utilisation": []} for p in precisions}
    for _ in range(chosen.rounds):
        for precision, extractor in extractors.items():
            flops = peak.measure()
            began = time.perf_counter()
            extractor.extract(images, flips)
            rate = len(images) / (time.perf_counter() - began)
            flops = (flops + peak.measure()) / 2
            found[precision]["rate"].append(rate)
            found[precision]["utilisation"].append(rate * FLOP_A_FILM / flops)
    result: dict[str, object] = dict(found)
    if chosen.published_steps:
        result["published"] = _published(chosen.published_steps)
    print(json.dumps(result))


def _published(steps: int) -> dict[str, float]:
    """Time the published way: the frozen backbone inside the model, flips as layers, Keras's `fit` and `predict`.

    Returns:
        Seconds a film of a training step and of a prediction, and the steps that were timed.
    """
    keras = load_keras()
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
