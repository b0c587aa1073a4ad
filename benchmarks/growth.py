"""How cost grows with trials, workers, films and folds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

from benchmarks import material, sections
from rust_optuna.paths import Home
from rust_optuna.search.ledger import Ledger
from rust_optuna.storage.database import Database, create_database
from rust_optuna.storage.url import sqlite_url

STAND_IN_SECONDS = 0.25
POINTS_A_WORKER = 16
CLAIMS = 50


def stand_in(trial: optuna.Trial) -> float:
    """Return a value after a fixed while, as a trial on a device of its own would."""
    time.sleep(STAND_IN_SECONDS)
    return trial.suggest_float("dropout_rate", 0, 1)


def main() -> None:
    """Print one JSON object: for each axis, (size, seconds); of workers, (number, points a second)."""
    quick = "--quick" in sys.argv
    sections.wait_for_the_others()
    found: dict[str, list[tuple[float, float]]] = {"create": [], "claim": [], "workers": [], "films": [], "folds": []}
    for trials in (10, 100, 1000) if quick else (10, 100, 1000, 10000):
        created, claimed = _ledger(trials)
        found["create"].append((trials, created))
        found["claim"].append((trials, claimed))
    for workers in (1, 4) if quick else (1, 2, 4, 8):
        found["workers"].append((workers, _workers(workers)))
    for films in (100, 2500) if quick else (100, 1000, 10000, 30000):
        found["films"].append((films, _trial(films=films)))
    for folds in (2, 6) if quick else (2, 6, 10):
        found["folds"].append((folds, _trial(folds=folds)))
    print(json.dumps(found))


def _trial(films: int = material.FILMS, folds: int = material.FOLDS) -> float:
    """Return the seconds of a trial at batch size 512 on one core."""
    arguments = ["--rounds", "1", "--epochs", "2", "--sizes", "512", "--precisions", "float32"]
    [result] = sections.run("train", [*arguments, "--films", str(films), "--folds", str(folds)])
    seconds: float = result["float32 512"]["seconds"][0]
    return seconds


def _ledger(trials: int) -> tuple[float, float]:
    """Return the seconds to create a study of so many points on SQLite, and to claim and finish one of them."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with create_database(sqlite_url(home.database), "artifacts") as database:
            began = time.perf_counter()
            create_made_up_study(database, home, trials)
            created = time.perf_counter() - began
            ledger = Ledger(database)
            ledger.register("benchmark", host="here", process=os.getpid(), device="none")
            count = min(trials, CLAIMS)
            began = time.perf_counter()
            for _ in range(count):
                claim = ledger.claim([1], "benchmark")
                assert claim is not None
                ledger.finish(claim, "complete", 0.5, None, None)
            return created, (time.perf_counter() - began) / count


def _workers(workers: int) -> float:
    """Return points a second of so many worker processes on SQLite, from the first claim to the last."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with create_database(sqlite_url(home.database), "artifacts") as database:
            create_made_up_study(database, home, workers * POINTS_A_WORKER)
            command = [sys.executable, "-m", "rust_optuna", "worker", "run", "--home", str(home.root)]
            command += ["--objective", "benchmarks.growth:stand_in"]
            children = [
                subprocess.Popen(command, cwd=sections.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for _ in range(workers)
            ]
            codes = [child.wait() for child in children]
            if any(codes):
                raise RuntimeError("a worker failed")
            rows = database.transact(_times)
    return workers * POINTS_A_WORKER / float(max(row[1] for row in rows) - min(row[0] for row in rows))


def _times(connection: Any) -> list[Any]:
    import sqlalchemy as sa

    from rust_optuna.storage.tables import attempt

    rows: list[Any] = connection.execute(sa.select(attempt.c.started_at, attempt.c.ended_at)).all()
    return rows


def create_made_up_study(database: Database, home: Home, trials: int) -> None:
    """Create a study of made-up films, as one of a manifest is."""
    films = material.development(120, 3)
    document = {
        "name": "growth",
        "manifest": "none",
        "sampler": {"type": "random", "seed": 1, "n_trials": trials},
        "search_space": {"dropout_rate": {"type": "float", "low": 0.0, "high": 0.9}},
        "fixed": {"batch_size": 16, "learning_rate": 1e-3, "epsilon": 1e-7},
        "model": {"weights": "random"},
        "cross_validation": {"folds": 3},
    }
    material.create_study(database, films, document, home)


if __name__ == "__main__":
    main()
