"""What a worker spends outside the arithmetic (database, metrics, artifacts), on real trials of made-up features."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import material
from benchmarks.sections import wait_for_the_others
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.learn import program
from rust_optuna.learn.runtime import load_tensorflow
from rust_optuna.paths import Home
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import create_database
from rust_optuna.storage.url import sqlite_url
from rust_optuna.worker.objective import CrossValidationObjective
from rust_optuna.worker.worker import Worker


def main() -> None:
    """Print one JSON object: seconds of a worker from its first claim to its last, and those inside the programs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=material.EPOCHS)
    chosen = parser.parse_args()
    inside = [0.0]
    began = time.perf_counter()
    load_tensorflow()
    startup = time.perf_counter() - began
    program.train = _timed(program.train, inside)
    program.predict = _timed(program.predict, inside)
    with made_up_worker(chosen.trials, chosen.epochs, smallest_batch=512) as worker:
        wait_for_the_others()
        began = time.perf_counter()
        finished = worker.run()
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "inside": inside[0], "trials": finished, "startup": startup}))


@contextmanager
def made_up_worker(trials: int, epochs: int, smallest_batch: int) -> Iterator[Worker]:
    """Yield a real worker for a study of so many random trials on made-up features, in a database of its own."""
    films = material.development()
    source = material.features(films)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with create_database(sqlite_url(home.database), str(home.storage / "artifacts")) as database:
            _create(database, films, trials, epochs, smallest_batch)
            with patch.object(CrossValidationObjective, "_source", lambda *_: source):
                yield Worker(database, home, open_store(str(home.storage / "artifacts"), home))


def _create(database: Any, films: DevelopmentSet, trials: int, epochs: int, smallest_batch: int) -> None:
    """Enter a study of the made-up films, as `create_study` enters one of a manifest."""
    document = {
        "name": "around",
        "manifest": "none",
        "sampler": {"type": "random", "seed": 1, "n_trials": trials},
        "search_space": {"batch_size": {"type": "int", "low": smallest_batch, "high": 2048}},
        "fixed": {"dropout_rate": 0.25, "learning_rate": 1e-3, "epsilon": 1e-7},
        "model": {"weights": "random"},
        "cross_validation": {"epochs": epochs},
    }
    material.create_study(database, films, document, Home(Path(".")))


def _timed(function: Callable[..., Any], inside: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            inside[0] += time.perf_counter() - began

    return call


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
