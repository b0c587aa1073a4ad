"""The check itself, against databases with planted faults."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rust_optuna.paths import Home
from rust_optuna.search.creation import create_study
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import create_database
from rust_optuna.storage.url import parse_url
from rust_optuna.worker.worker import Worker
from tests import mariadb
from tests.chaos import objective
from tests.chaos.check import HOLE, LOST, RUNNING, TWICE, WRONG, Finding, check
from tests.chaos.records import connect, query, read
from tests.conftest import new_postgresql
from tests.data.films import make_manifest
from tests.studies import configuration, random_document

NAME, COUNT = "regime-1", 12
SEED = 4
"""A study with points of each kind: complete, complete at the second attempt, pruned, and a hole."""


@contextmanager
def new_sqlite(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder / 'chaos.db'}"


@contextmanager
def new_server_database(backend: str) -> Iterator[str]:
    if backend == "postgresql":
        with new_postgresql() as url:
            yield url
        return
    with mariadb.new_database() as url:
        yield url


class Clean:
    """A database with one study that went well, and a connection whose changes are taken back."""

    def __init__(self, connection: Any, artifacts: Path) -> None:
        self.connection, self.artifacts = connection, artifacts
        if isinstance(connection, sqlite3.Connection):
            connection.execute("BEGIN")  # the other drivers do so themselves

    def plant(self, text: str, *values: Any) -> None:
        marked = text if isinstance(self.connection, sqlite3.Connection) else text.replace("?", "%s")
        self.connection.cursor().execute(marked, values)

    def point(self, **wanted: Any) -> dict[str, Any]:
        """Return the first point with these entries."""
        points = read(self.connection, NAME).points
        return next(point for point in points if all(point[key] == value for key, value in wanted.items()))

    def trial_id(self, number: int) -> int:
        return query(self.connection, "SELECT trial_id FROM trials WHERE number = ?", number)[0]["trial_id"]

    def check(self) -> list[Finding]:
        return check(self.connection, NAME, COUNT, self.artifacts)

    def assert_finds(self, kind: str, words: str) -> None:
        found = self.check()
        assert [str(one) for one in found if one.kind == kind and words in one.words], [str(one) for one in found]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql), "mariadb"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of a database with a finished study, and the folder of its artifacts."""
    folder = tmp_path_factory.mktemp("clean")
    make_manifest(folder)
    home, artifacts = Home(folder), folder / "artifacts"
    artifacts.mkdir()
    with new_sqlite(folder) if request.param == "sqlite" else new_server_database(request.param) as url:
        with pytest.MonkeyPatch.context() as patch, create_database(parse_url(url, home), str(artifacts)) as database:
            patch.setenv(objective.ARTIFACTS, str(artifacts))
            patch.setattr(objective.time, "sleep", lambda seconds: None)
            document = random_document(COUNT, name=NAME)
            document["sampler"]["seed"] = SEED
            create_study(database, configuration(document), home)
            worker = Worker(database, home, open_store(str(artifacts), home), objective=objective.NAME)
            worker.stand_in = objective.ChaosObjective()
            worker.run([NAME])
        yield url, artifacts


@pytest.fixture
def clean(finished: tuple[str, Path]) -> Iterator[Clean]:
    url, artifacts = finished
    with closing(connect(url)) as connection:
        made = Clean(connection, artifacts)
        yield made
        connection.rollback()


def test_a_study_that_went_well_passes(clean):
    points = read(clean.connection, NAME).points
    assert {point["state"] for point in points} == {"complete", "pruned", "hole"}
    assert {point["attempt"] for point in points} == {1, 2, 3}
    assert clean.check() == []


def test_a_study_that_is_not_there_is_found(clean):
    assert [one.kind for one in check(clean.connection, "regime-9", COUNT)] == [LOST]


def test_a_lost_point_is_found(clean):
    number = clean.point(state="complete")["number"]
    clean.plant("UPDATE rust_optuna_point SET state = 'waiting' WHERE number = ?", number)
    clean.assert_finds(LOST, f"point {number} is waiting")


def test_a_point_that_is_not_in_the_ledger_is_found(clean):
    clean.plant("DELETE FROM rust_optuna_attempt WHERE point_id = ?", clean.point(number=COUNT - 1)["id"])
    clean.plant("DELETE FROM rust_optuna_point WHERE number = ?", COUNT - 1)
    clean.assert_finds(LOST, "the points are")
    clean.assert_finds(WRONG, "shows no attempt")


def test_a_study_left_open_is_found(clean):
    clean.plant("UPDATE rust_optuna_study SET state = 'open'")
    clean.assert_finds(LOST, "the study is open")


def test_a_point_done_twice_is_found(clean):
    point = clean.point(state="complete", attempt=2)
    clean.plant("UPDATE rust_optuna_attempt SET outcome = 'complete' WHERE point_id = ?", point["id"])
    clean.assert_finds(TWICE, f"point {point['number']} ended 2 times")


def test_a_point_done_by_two_trials_is_found_even_where_the_ledger_is_right(clean):
    point = clean.point(state="complete", attempt=2)
    first = point["attempts"][0]["trial"]
    clean.plant("UPDATE trials SET state = 'COMPLETE' WHERE number = ?", first)
    clean.assert_finds(TWICE, f"trial {first}")


def test_attempts_at_the_same_time_are_found(clean):
    point = clean.point(attempt=2)
    late = point["attempts"][1]["started_at"] + 5
    clean.plant("UPDATE rust_optuna_attempt SET ended_at = ? WHERE id = ?", late, point["attempts"][0]["id"])
    clean.assert_finds(TWICE, f"attempt 2 at point {point['number']} began 5.0")


def test_a_zombies_value_in_the_ledger_is_found(clean):
    point = clean.point(state="complete")
    clean.plant("UPDATE rust_optuna_point SET value = 0.987 WHERE id = ?", point["id"])
    clean.assert_finds(WRONG, f"point {point['number']} has the value 0.987")


def test_a_zombies_value_in_optuna_alone_is_found(clean):
    point = clean.point(state="complete")
    clean.plant("UPDATE trial_values SET value = 0.987 WHERE trial_id = ?", clean.trial_id(point["trial"]))
    clean.assert_finds(WRONG, "with 0.987, the ledger has")


@pytest.mark.parametrize("state", ["RUNNING", "WAITING"])
def test_a_trial_left_running_is_found(clean, state):
    clean.plant("UPDATE trials SET state = ? WHERE number = 3", state)
    clean.assert_finds(RUNNING, f"is {state} at the end")


def test_an_attempt_left_running_is_found(clean):
    attempt = clean.point(state="complete")["attempts"][0]
    clean.plant("UPDATE rust_optuna_attempt SET outcome = 'running', ended_at = NULL WHERE id = ?", attempt["id"])
    clean.assert_finds(RUNNING, "is running at the end")


def test_a_trial_that_shows_no_attempt_is_found(clean):
    clean.plant("INSERT INTO trials (trial_id, number, study_id, state) SELECT 999, 999, study_id, 'FAIL' FROM studies")
    clean.assert_finds(WRONG, "trial 999 (point None, attempt None) is FAIL, and shows no attempt")


def test_a_second_trial_of_an_attempt_is_found(clean):
    clean.plant("INSERT INTO trials (trial_id, number, study_id, state) SELECT 999, 999, study_id, 'FAIL' FROM studies")
    quoted = "`key`" if type(clean.connection).__module__.startswith("pymysql") else "key"
    for key, value in (("point", clean.point(attempt=2)["number"]), ("attempt", 1)):
        clean.plant(
            f"INSERT INTO trial_user_attributes (trial_user_attribute_id, trial_id, {quoted}, value_json)"
            " VALUES (?, 999, ?, ?)",
            9990 + value + (key == "attempt") * 100,
            key,
            str(value),
        )
    clean.assert_finds(WRONG, "is shown by 2 trials")


def test_a_complete_attempt_that_optuna_does_not_show_is_found(clean):
    trial_id = clean.trial_id(clean.point(state="complete")["trial"])
    clean.plant("DELETE FROM trial_user_attributes WHERE trial_id = ?", trial_id)
    clean.assert_finds(LOST, "Optuna does not show it")


def test_a_gap_of_attempts_is_found(clean):
    attempt = clean.point(attempt=2)["attempts"][0]
    clean.plant("DELETE FROM rust_optuna_attempt WHERE id = ?", attempt["id"])
    clean.assert_finds(LOST, "are [2], its newest 2")


def test_a_hole_without_reasons_is_found(clean):
    hole = clean.point(state="hole")
    clean.plant("UPDATE rust_optuna_attempt SET reason = NULL WHERE point_id = ?", hole["id"])
    clean.assert_finds(HOLE, f"attempt 1 at point {hole['number']} was failed without a reason")


def test_a_hole_that_was_dug_too_early_is_found(clean):
    point = clean.point(state="complete", attempt=1)
    clean.plant("UPDATE rust_optuna_point SET state = 'hole', value = NULL WHERE id = ?", point["id"])
    clean.plant("UPDATE rust_optuna_attempt SET outcome = 'lost', reason = 'x' WHERE point_id = ?", point["id"])
    clean.assert_finds(HOLE, "is a hole after only {'lost': 1}")


def test_a_fault_of_the_machine_blamed_on_a_point_is_found(clean):
    attempt = next(point["attempts"][0] for point in read(clean.connection, NAME).points if point["state"] == "pruned")
    clean.plant(
        "INSERT INTO rust_optuna_attempt (id, point_id, number, worker, started_at, ended_at, outcome, reason)"
        " VALUES (9999, ?, 2, 'w', ?, ?, 'failed', 'disk full')",
        attempt["point_id"],
        attempt["ended_at"],
        attempt["ended_at"],
    )
    clean.assert_finds(WRONG, "is blamed for what its objective did not do: ['disk full']")


def test_a_missing_artifact_is_found(clean):
    artifact = clean.point(state="complete")["attempts"][-1]["artifact"]
    moved = clean.artifacts / artifact
    moved.rename(clean.artifacts / "elsewhere")
    try:
        clean.assert_finds(LOST, f"artifact {artifact} of point")
        clean.assert_finds(LOST, f"artifact {artifact} of trial")
    finally:
        (clean.artifacts / "elsewhere").rename(moved)
