"""Small studies for the tests: documents, files, and studies in a database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rust_optuna.config import StudyConfiguration
from rust_optuna.paths import Home
from rust_optuna.search.creation import create_study
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import Study, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import Database
from rust_optuna.storage.site import Site
from rust_optuna.study_file import parse_study
from rust_optuna.worker.worker import Worker

REPOSITORY = Path(__file__).parent.parent


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def random_document(n_trials: int = 4, **changes: Any) -> dict[str, Any]:
    """Return a random study over batch size and dropout rate; ``changes`` replace top-level entries."""
    return {
        "name": "regime-1",
        "manifest": "manifest.csv",
        "sampler": {"type": "random", "seed": 3, "n_trials": n_trials},
        "search_space": {
            "batch_size": {"type": "int", "low": 2, "high": 12},
            "dropout_rate": {"type": "float", "low": 0.0, "high": 0.5},
        },
        "fixed": {"learning_rate": 1e-3, "epsilon": 1e-7},
        "model": {"weights": "random"},
        "cross_validation": {"folds": 3, "epochs": 2, "seed": 5},
        **changes,
    }


def adaptive_document(n_trials: int = 12, sampler: str = "tpe", **changes: Any) -> dict[str, Any]:
    """Return a study like that of `random_document` whose points are drawn one by one."""
    return random_document(n_trials, sampler={"type": sampler, "seed": 3, "n_trials": n_trials}, **changes)


def grid_document(**changes: Any) -> dict[str, Any]:
    """Return a grid of six cells that takes the best of ``regime-1``."""
    return {
        "name": "regime-2",
        "manifest": "manifest.csv",
        "sampler": {"type": "grid", "seed": 3},
        "search_space": {"learning_rate": [1e-3, 1e-2], "epsilon": [1e-7, 1e-5, 1e-3]},
        "fixed": {"from_best_of": "regime-1"},
        "model": {"weights": "random"},
        "cross_validation": {"folds": 3, "epochs": 2, "seed": 5},
        **changes,
    }


def one_document(**changes: Any) -> dict[str, Any]:
    """Return one configuration to compare with others."""
    return {
        "name": "one",
        "manifest": "manifest.csv",
        "fixed": {"batch_size": 8, "dropout_rate": 0.0, "learning_rate": 1e-3, "epsilon": 1e-7},
        "model": {"weights": "random"},
        "cross_validation": {"folds": 3, "epochs": 2, "seed": 5},
        **changes,
    }


def toml(document: Mapping[str, Any]) -> str:
    """Return a study document as TOML."""
    lines = [f"{key} = {_toml(value)}" for key, value in document.items() if not isinstance(value, dict)]
    for name, section in document.items():
        if isinstance(section, dict):
            lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def write_study(home: Home, document: Mapping[str, Any]) -> Path:
    """Write a study file into the home."""
    path = home.root / f"{document['name']}.toml"
    path.write_text(toml(document))
    return path


def site_of(home: Home, url: sa.URL, artifacts: str | None = None) -> Site:
    """Return where everything of a test lies."""
    return Site(home, url.render_as_string(hide_password=False), artifacts)


def configuration(document: Mapping[str, Any] | None = None) -> StudyConfiguration:
    return parse_study(document or random_document(), "a test")


def make_study(database: Database, home: Home, document: Mapping[str, Any] | None = None) -> Study:
    return create_study(database, configuration(document), home).study


def make_worker(database: Database, home: Home, objective: str = "peak") -> Worker:
    """Return a worker in this process with one of the stand-ins."""
    store = open_store(database.artifacts(), home)
    return Worker(database, home, store, objective=f"tests.stand_ins:{objective}")


def run_study(database: Database, home: Home, document: Mapping[str, Any], objective: str = "peak") -> Study:
    """Create a study and run it to its end with a stand-in."""
    study = make_study(database, home, document)
    make_worker(database, home, objective).run([study.name])
    return load_study(database, study.name)


def points(database: Database, study: Study) -> list[Any]:
    """Return the ledger's points of a study, in order."""
    query = sa.select(tables.point).where(tables.point.c.study_id == study.id).order_by(tables.point.c.number)
    return database.transact(lambda connection: list(connection.execute(query).all()))


def attempts(database: Database, study: Study, number: int | None = None) -> list[Any]:
    """Return the attempts at all points of a study, or at one, oldest first; ``point`` is the point's number."""
    query = (
        sa.select(tables.attempt, tables.point.c.number.label("point"))
        .join(tables.point, tables.point.c.id == tables.attempt.c.point_id)
        .where(tables.point.c.study_id == study.id)
        .order_by(tables.attempt.c.id)
    )
    if number is not None:
        query = query.where(tables.point.c.number == number)
    return database.transact(lambda connection: list(connection.execute(query).all()))


def shown(database: Database, study: Study) -> list[Any]:
    """Return Optuna's trials of a study."""
    return Mirror(database, study).optuna_study.get_trials(deepcopy=False)


def claim_point(ledger, study_id, number, worker="ann"):
    """Claim one point, whatever the order in which they are handed out."""
    others = []
    while (claim := ledger.claim([study_id], worker)).number != number:
        ledger.release(claim, "not the one")
        others.append(ledger.claim([study_id], f"in the way of {number}: {len(others)}"))
    for other in others:
        ledger.release(other, "not the one")
    return claim


def end_leases(database: Database) -> None:
    """Let every lease have ended a minute ago."""
    past = tables.point.update().where(tables.point.c.lease_end.is_not(None))
    database.transact(lambda c: c.execute(past.values(lease_end=tables.database_now() - 60)))


def assert_in_step(database: Database, study: Study) -> None:
    """Assert that Optuna shows every complete point once, by the trial the ledger names, and nothing runs."""
    trials = [trial for trial in shown(database, study) if "point" in trial.user_attrs]
    assert not [trial.number for trial in trials if trial.state.name == "RUNNING"]
    complete = {trial.number: trial for trial in trials if trial.state.name == "COMPLETE"}
    rows = [row for row in points(database, study) if row.state == "complete"]
    assert sorted(complete) == sorted(row.trial for row in rows)
    for row in rows:
        trial = complete[row.trial]
        assert (trial.user_attrs["point"], trial.user_attrs["attempt"]) == (row.number, row.attempt)
        assert trial.value == row.value
        assert trial.params == {**study.constant_hyperparameters, **json.loads(row.parameters)}


def assert_each_once(database: Database, study: Study, count: int) -> None:
    """Assert that a study is done: every point complete, by one attempt, shown by one Optuna trial, and none extra."""
    assert load_study(database, study.name).state == "done"
    assert [row.state for row in points(database, study)] == ["complete"] * count
    assert [row.outcome for row in attempts(database, study)] == ["complete"] * count
    assert [trial.state.name for trial in shown(database, study)] == ["COMPLETE"] * count
    assert_in_step(database, study)


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Return the condition's value as soon as it is true.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} seconds")


def command(
    home: Home, url: str, arguments: Sequence[str | Path], **environment: str
) -> tuple[list[str], dict[str, Any]]:
    """Return the command line of this program and the keyword arguments of ``subprocess`` to run it with."""
    variables = {"RUST_OPTUNA_HOME": str(home.root), "RUST_OPTUNA_STORAGE": url, **environment}
    keywords = {"cwd": REPOSITORY, "env": {**os.environ, **variables}, "text": True}
    return [sys.executable, "-m", "rust_optuna", *map(str, arguments)], keywords


def run_command(home: Home, url: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this program to its end."""
    line, keywords = command(home, url, arguments, **environment)
    return subprocess.run(line, capture_output=True, timeout=120, check=False, **keywords)


def start_command(home: Home, url: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start this program."""
    line, keywords = command(home, url, arguments, **environment)
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **keywords)
