"""A trial's time by batch size, and beside it plain Keras `fit` on the same features: one process of several."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from benchmarks import material
from benchmarks.peak import Peak
from benchmarks.sections import wait_for_the_others
from rust_optuna.learn.cross_validation import cross_validate
from rust_optuna.learn.head import initial_weights, keras_head
from rust_optuna.learn.runtime import load_keras


def main() -> None:
    """Print one JSON object: seconds of a trial, and utilisation of the peak measured beside it, by precision and size.

    An epoch of all folds is timed between two calls of ``on_epoch``, so scoring and metrics count; what is outside
    the epochs is added once. A trial's time is 20 such epochs.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 128, 512, 1600])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--fit", action="store_true", help="time Keras's fit as well")
    parser.add_argument("--films", type=int, default=material.FILMS)
    parser.add_argument("--folds", type=int, default=material.FOLDS)
    chosen = parser.parse_args()
    films = material.development(chosen.films, chosen.folds)
    source = material.features(films)
    peak = Peak()
    trained = sum(int((films.folds != fold).sum()) for fold in range(chosen.folds))
    cross_validate(films, source, material.trial(512, epochs=1), seed=0, point=0, on_epoch=lambda *_: None)
    wait_for_the_others()
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(chosen.rounds):
        for precision in chosen.precisions:
            for size in chosen.sizes:
                flops = peak.measure()
                seconds = trial_seconds(films, source, size, precision, chosen.epochs)
                flops = (flops + peak.measure()) / 2
                cell = found.setdefault(f"{precision} {size}", {"seconds": [], "utilisation": [], "peak": []})
                cell["seconds"].append(seconds)
                cell["utilisation"].append(material.FLOP_A_FILM * trained * material.EPOCHS / seconds / flops)
                cell["peak"].append(flops)
        if chosen.fit:
            for size in chosen.sizes:
                cell = found.setdefault(f"fit {size}", {"seconds": []})
                cell["seconds"].append(_fit_seconds(films, source, size))
    print(json.dumps(found))


def trial_seconds(films: object, source: object, size: int, precision: str, epochs: int) -> float:
    """Return the seconds of a trial of 20 epochs, from one of a few."""
    times = [time.perf_counter()]
    cross_validate(
        films,  # type: ignore[arg-type]
        source,  # type: ignore[arg-type]
        material.trial(size, epochs=epochs, training_precision=precision),
        seed=0,
        point=0,
        on_epoch=lambda *_: times.append(time.perf_counter()),
    )
    whole = time.perf_counter() - times[0]
    epoch = float(np.median(np.diff(times)[1:]))
    around = max(0.0, whole - (times[-1] - times[0])) + max(0.0, times[1] - times[0] - epoch)
    return around + material.EPOCHS * epoch


def _fit_seconds(films: object, source: object, size: int) -> float:
    """Return the seconds of a trial of 20 epochs by Keras's `fit` on cached features, from its second epoch."""
    keras = load_keras()
    training = np.flatnonzero(films.folds != 0)  # type: ignore[attr-defined]
    table, rows = source.gather(training, np.zeros(len(training), np.int64))  # type: ignore[attr-defined]
    x = table.numpy()[rows]
    y = films.labels[training].astype(np.float32)  # type: ignore[attr-defined]
    model = keras_head(material.WIDTH, (1024, 512, 256), 0.25, initial_weights(material.WIDTH, (1024, 512, 256), 0))
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-7), "binary_crossentropy", jit_compile=False)
    model.fit(x, y, batch_size=size, epochs=1, verbose=0)
    began = time.perf_counter()
    model.fit(x, y, batch_size=size, epochs=1, verbose=0)
    return (time.perf_counter() - began) * material.EPOCHS * material.FOLDS


if __name__ == "__main__":
    main()
