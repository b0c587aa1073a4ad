"""Does bfloat16 rank hyperparameters as float32 does? And how far do two seeds of float32 agree: the noise floor."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from benchmarks import material
from benchmarks.sections import wait_for_the_others
from rust_optuna.learn.cross_validation import cross_validate

KINDS = (("float32", 0), ("bfloat16", 0), ("float32", 1))


def main() -> None:
    """Print one JSON object: for each (precision, seed) the values of all points."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=material.EPOCHS)
    parser.add_argument("--films", type=int, default=1200)
    chosen = parser.parse_args()
    films = material.development(chosen.films)
    source = material.features(films)
    wait_for_the_others()
    found: dict[str, list[float]] = {}
    for number, point in enumerate(points(chosen.points)):
        for precision, seed in KINDS:
            trial = material.trial(**point, epochs=chosen.epochs, training_precision=precision)
            value = cross_validate(films, source, trial, seed=seed, point=number, on_epoch=lambda *_: None).report.value
            found.setdefault(f"{precision}, seed {seed}", []).append(value)
    print(json.dumps(found))


def points(count: int) -> list[dict[str, Any]]:
    """Return points over all four hyperparameters of both regimes."""
    generator = np.random.default_rng(0)
    return [
        {
            "batch_size": int(generator.integers(128, 2049)),
            "dropout_rate": float(generator.uniform(0, 0.5)),
            "learning_rate": float(10.0 ** generator.uniform(-4, -1.5)),
            "epsilon": float(10.0 ** generator.integers(-8, 0)),
        }
        for _ in range(count)
    ]


if __name__ == "__main__":
    main()
