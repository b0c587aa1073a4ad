"""Trials that run out of memory: run again in micro-batches, or given up."""

import json
import logging
import os
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest

from rust_optuna.errors import OutOfMemoryError
from rust_optuna.learn import program
from rust_optuna.learn.features import Features
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import load_development
from rust_optuna.storage.artifacts import open_store
from rust_optuna.worker import memory
from rust_optuna.worker.memory import SMALLEST, MicroBatch
from rust_optuna.worker.objective import CrossValidationObjective
from tests.studies import REPOSITORY, attempts, make_study, make_worker, points, random_document, shown


class Trial:
    """Runs out of memory with more than so many films at a time; remembers what it was run with."""

    def __init__(self, fits, batch_size):
        self.fits, self.batch_size, self.tried = fits, batch_size, []

    def __call__(self, micro_batch):
        self.tried.append(micro_batch)
        if min(micro_batch or self.batch_size, self.batch_size) > self.fits:
            raise MemoryError("2 GB")
        return "done"


def tried(found, fits, batch_size):
    trial = Trial(fits, batch_size)
    assert found.run(trial, batch_size) == "done"
    return trial.tried


def test_a_trial_that_fits_is_run_in_whole_batches():
    assert tried(MicroBatch(), 2048, 2048) == [None]


def test_a_trial_that_does_not_fit_is_run_again_in_halves_and_later_trials_begin_there():
    found = MicroBatch()
    assert tried(found, 300, 2048) == [None, 1024, 512, 256]
    assert tried(found, 300, 1500) == [256]
    assert tried(found, 30, 100) == [256, 50, 25]
    assert found.limit == 25


def test_a_trial_that_never_fits_is_given_up_and_leaves_the_limit_as_it_was(caplog):
    found, never = MicroBatch(), Trial(0, 100)
    with pytest.raises(OutOfMemoryError, match=f"micro-batches of {SMALLEST}: MemoryError 2 GB"):
        found.run(never, 100)
    assert never.tried == [None, 50, 25, 12, SMALLEST]
    assert found.limit is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4


def test_other_errors_pass_through_at_once():
    def broken(micro_batch):
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        MicroBatch().run(broken, 100)


def test_what_the_failed_trial_held_is_gone_before_the_next():
    held = []

    class Large:
        pass

    def trial(micro_batch):
        assert [reference() for reference in held] == [None] * len(held)
        mine = Large()
        mine.myself = mine
        held.append(weakref.ref(mine))
        if len(held) < 3:
            raise MemoryError
        return len(held)

    assert MicroBatch().run(trial, 64) == 3


class Objective(CrossValidationObjective):
    """The real one, on made-up features."""

    def _source(self, backbone, features):
        films = len(self.development.content)
        table = np.random.default_rng(0).standard_normal((films, 4, 24)).astype(np.float32)
        return CachedFeatures(Features(table, "made up"))


@pytest.fixture
def study(sqlite, home):
    """A study of two trials with all films in a batch: 13 or 14 of 20."""
    document = random_document(2)
    document["search_space"] = {"dropout_rate": {"type": "float", "low": 0.0, "high": 0.5}}
    document["fixed"] = {**document["fixed"], "batch_size": 16, "hidden_units": [8]}
    document["cross_validation"] = {**document["cross_validation"], "epochs": 3}
    return make_study(sqlite, home, document)


@pytest.fixture
def worker(sqlite, home, study):
    def make():
        made = make_worker(sqlite, home)
        store = open_store(sqlite.artifacts(), home)
        made.stand_in = Objective(study, load_development(sqlite, study), home, store)
        return made

    return make


@pytest.fixture
def small_memory(monkeypatch):
    """Let TensorFlow run out of memory in the second epoch of training with more than so many films at a time."""
    import tensorflow as tf

    honest, calls = program.train, []

    def limit(films):
        def train(*given):
            at_once = min(given[5], given[7] or given[5])
            calls.append(at_once)
            if at_once > films and calls.count(at_once) > 3:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nwith a long table")
            return honest(*given)

        monkeypatch.setattr(program, "train", train)

    return limit


def results(database, study):
    return [json.loads(row.result) for row in attempts(database, study) if row.outcome == "complete"]


@pytest.mark.tensorflow
def test_an_objective_out_of_memory_completes_in_micro_batches_and_says_so(
    sqlite, study, worker, small_memory, monkeypatch
):
    monkeypatch.setattr(memory, "SMALLEST", 2)
    small_memory(4)
    with warnings.catch_warnings():
        # Optuna warns of an intermediate value that is reported twice.
        warnings.simplefilter("error")
        assert worker().run([study.name]) == 2
    assert [row.state for row in points(sqlite, study)] == ["complete"] * 2
    assert [row.outcome for row in attempts(sqlite, study)] == ["complete"] * 2
    found = results(sqlite, study)
    # 14 → 7 → 3; the second trial begins at 3.
    assert [result["micro_batch"] for result in found] == [3, 3]
    for result, trial in zip(found, sorted(shown(sqlite, study), key=lambda t: t.user_attrs["point"]), strict=True):
        assert sorted(trial.intermediate_values) == [1, 2, 3]
        assert list(trial.intermediate_values.values()) == pytest.approx(result["curve"], abs=0.01)


@pytest.mark.tensorflow
def test_micro_batches_give_the_curve_of_whole_batches(sqlite, study, worker, small_memory, monkeypatch):
    """Average precision moves in steps where two films change places, hence the tolerance."""
    monkeypatch.setattr(memory, "SMALLEST", 2)
    whole = worker()
    claim = whole.ledger.claim([study.id], "ann")
    said = []

    def curve(made):
        trial = Mirror(sqlite, study).optuna_study.ask()
        return made.stand_in(claim, trial, lambda epoch, value: said.append(epoch), lambda: None).report

    plain = curve(whole)
    small_memory(4)
    parts = curve(worker())
    assert (plain.micro_batch, parts.micro_batch) == (None, 3)
    assert parts.curve == pytest.approx(plain.curve, abs=0.01)
    assert parts.seeds == plain.seeds
    # Every epoch of every run is told of, so that a lease sees it advance.
    assert said == [1, 2, 3, 1, 1, 1, 2, 3]


@pytest.mark.tensorflow
def test_a_point_that_fits_in_no_micro_batch_fails_and_the_worker_goes_on(sqlite, study, worker, monkeypatch):
    import tensorflow as tf

    honest = program.train

    def train(*given):
        if exhausted:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return honest(*given)

    exhausted = [1]
    monkeypatch.setattr(program, "train", train)
    made = worker()
    run = made.stand_in._micro_batch.run

    def once(*given):
        try:
            return run(*given)
        finally:
            exhausted.clear()

    monkeypatch.setattr(made.stand_in._micro_batch, "run", once)
    assert made.run([study.name]) == 2
    failed = [row for row in attempts(sqlite, study) if row.outcome == "failed"]
    assert [row.fault for row in failed] == ["memory"]
    assert "even in micro-batches of 8: ResourceExhaustedError" in failed[0].reason
    assert [row.state for row in points(sqlite, study)] == ["complete"] * 2
    assert {result["micro_batch"] for result in results(sqlite, study)} == {None}


@pytest.mark.tensorflow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is limited on Linux alone")
def test_a_process_that_truly_runs_out_of_memory_goes_on_in_micro_batches():
    done = subprocess.run(
        [sys.executable, "-m", "tests.worker.out_of_memory"],
        cwd=REPOSITORY,
        env={**os.environ, "RUST_OPTUNA_CORES": "1", "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    micro_batch, epochs = map(int, done.stdout.split())
    assert micro_batch in (3000, 1500, 750, 375, 187, 93)
    assert epochs == 2
