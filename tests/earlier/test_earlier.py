"""A home that version 0.1.0 left behind, with one study done and one still to run, is used by this version.

``home.tar.xz`` was made by the commands of that version: ``search one.toml``, then ``study create two.toml``.
"""

import contextlib
import csv
import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.trial_report import TrialReport
from rust_optuna.paths import Home
from rust_optuna.search.fingerprint import Fingerprint
from tests.studies import run_command

HOME = Path(__file__).parent / "home.tar.xz"
DATABASE = "sqlite:///storage/rust_optuna.db"
VALUE = 0.3887433862433862
"""The best value of study ``one``, as the earlier version printed it."""

VALUES_OF_TWO = {0.001: 0.3096075837742504, 0.01: 0.32765652557319225}
"""Of study ``two``, by learning rate, as the earlier version computed them, on a processor with AVX-512."""


@pytest.fixture
def home(tmp_path):
    with tarfile.open(HOME) as archive:
        archive.extractall(tmp_path / "home", filter="data")
    home = Home(tmp_path / "home")
    refused = run_command(home, DATABASE, "status")
    assert (refused.returncode, "storage upgrade" in refused.stderr) == (1, True), refused.stderr
    run(home, "storage", "upgrade")
    return home


def run(home, *arguments):
    done = run_command(home, DATABASE, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cached(home):
    """Return the shards of features, by folder."""
    return {path.parent.name: path.read_bytes() for path in home.features.glob("*/shard-*.npy")}


def test_its_results_are_read(home):
    best = json.loads(run(home, "best", "one", "--json"))
    assert (best["value"], best["params"]["batch_size"]) == (VALUE, 11)
    states = {each["study"]: (each["state"], each["complete"]) for each in json.loads(run(home, "status", "--json"))}
    assert states == {"one": ("done", 3), "two": ("open", 0)}
    assert "3 trials" in run(home, "study", "export", "one", "exported")
    assert "from_best_of" in run(home, "study", "show", "two")


def test_its_reports_are_the_documents_that_this_version_writes(home):
    with contextlib.closing(sqlite3.connect(home.root / "storage" / "rust_optuna.db")) as connection:
        stored = [json.loads(text) for (text,) in connection.execute("SELECT result FROM rust_optuna_attempt")]
    assert len(stored) == 3
    for document in stored:
        again = TrialReport.from_json(document).to_json()
        assert (again, list(again)) == (document, list(document))


def test_its_fingerprints_are_the_documents_that_this_version_writes(home):
    with contextlib.closing(sqlite3.connect(home.root / "storage" / "rust_optuna.db")) as connection:
        stored = [json.loads(text) for (text,) in connection.execute("SELECT fingerprint FROM rust_optuna_study")]
    assert len(stored) == 2
    assert [Fingerprint.from_json(document).to_json() for document in stored] == stored


@pytest.mark.tensorflow
def test_its_open_study_is_run_on_its_cached_features(home):
    before = cached(home)
    assert "2 points finished" in run(home, "worker", "run", "--data-root", "films")
    after = cached(home)
    (folder,) = before
    assert after[folder] == before[folder]
    there = json.loads((home.features / folder / "identity.json").read_text())["arithmetic"]
    # A processor that rounds otherwise keeps features of its own beside them, and compares the two.
    same = there == arithmetic("float32")
    assert len(after) == (1 if same else 2)
    run(home, "study", "export", "two", "exported")
    with (home.root / "exported" / "trials.csv").open(newline="") as file:
        values = {float(row["learning_rate"]): float(row["value"]) for row in csv.DictReader(file)}
    assert values == (VALUES_OF_TWO if same else pytest.approx(VALUES_OF_TWO, abs=0.05))
