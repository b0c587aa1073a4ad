"""Workers that draw their points, and trials that end early."""

import csv
import json
import os
import signal
import sys

import pytest
from optuna.trial import TrialState

from rust_optuna.errors import MissingExtraError
from rust_optuna.paths import Home
from rust_optuna.search.results import best_point, status
from rust_optuna.search.studies import load_study
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import parse_url
from rust_optuna.worker.objective import Outcome
from tests.cli.test_main import invoke
from tests.reports import report
from tests.search.test_drawing import assert_exact
from tests.studies import (
    adaptive_document,
    attempts,
    grid_document,
    make_study,
    make_worker,
    points,
    random_document,
    run_study,
    shown,
    wait_until,
    write_study,
)

MEDIAN = {"type": "median", "n_startup_trials": 2}


def url_of(database):
    return database.url.render_as_string(hide_password=False)


# Drawn one by one


def work(url, root, name):
    """Run one worker in a process of its own."""
    with open_database(parse_url(url, Home(root))) as database:
        make_worker(database, Home(root)).run([name])


@pytest.mark.long
def test_eight_processes_end_60_slots_once_although_three_are_killed(database, home, children):
    """Each of the three is killed wherever it is, as soon as 10, 25 and 40 points are complete."""
    study = make_study(database, home, adaptive_document(60, lease_seconds=4))
    workers = [children.start(work, url_of(database), home.root, study.name) for _ in range(8)]
    for worker, complete in zip(workers, (10, 25, 40), strict=False):
        wait_until(lambda complete=complete: status(database, study).counts["complete"] >= complete, 120)
        os.kill(worker.pid, signal.SIGKILL)
    assert sorted(children.join(120)) == [-signal.SIGKILL] * 3 + [0] * 5
    rows = attempts(database, study)
    assert_exact(database, study, 60, killed=len([row for row in rows if row.outcome == "lost"]))


@pytest.mark.parametrize("sampler", ["tpe", "cma-es", "nsga-ii"])
def test_a_grid_inherits_the_best_of_an_adaptive_study(sqlite, home, sampler):
    study = run_study(sqlite, home, adaptive_document(6, sampler))
    assert_exact(sqlite, study, 6)
    grid = run_study(sqlite, home, grid_document())
    best = best_point(sqlite, study)
    assert (grid.source.point, grid.source.value) == (best.number, best.value)
    assert grid.inherited.items() >= best.parameters.items()
    assert load_study(sqlite, grid.name).state == "done"


def test_a_worker_without_the_samplers_package_claims_nothing(sqlite, home, monkeypatch):
    study = make_study(sqlite, home, adaptive_document(3, "cma-es"))
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(MissingExtraError, match="cma-es"):
        make_worker(sqlite, home).run([study.name])
    assert attempts(sqlite, study) == []


def test_the_commands_tell_what_an_adaptive_study_is(home, sqlite_url, tmp_path):
    def run(*arguments):
        done = invoke("--home", home.root, "--storage", sqlite_url, *arguments)
        assert done.exit_code == 0, done.output
        return done.output

    write_study(home, adaptive_document(5, pruner=MEDIAN))
    assert "5 points, 20 development films" in run("study", "create", "regime-1.toml")
    assert "already exists" in run("study", "create", "regime-1.toml")
    run("worker", "run", "regime-1", "--objective", "tests.stand_ins:behind_at_point_3")
    [document] = json.loads(run("status", "--json"))
    assert (document["sampler"], document["complete"], document["pruned"]) == ("tpe", 4, 1)
    best = json.loads(run("best", "regime-1", "--json"))
    assert (best["point"], best["pruned"]) == (4, 1)
    assert "not compared: 1 pruned point" in run("best", "regime-1")
    shown = json.loads(run("study", "show", "regime-1", "--json"))
    assert shown["configuration"]["pruner"] == {**MEDIAN, "n_warmup_steps": 0, "interval_steps": 1}
    assert '[pruner]\n  type = "median"' in run("study", "show", "regime-1")
    assert "4 trials (pruned: 1, whose scores are not kept)" in run("study", "export", "regime-1", tmp_path / "export")
    with (tmp_path / "export" / "trials.csv").open() as table:
        assert [row["point"] for row in csv.DictReader(table)] == ["0", "1", "2", "4"]
    assert "regime-1 has 6 points now" in run("study", "extend", "regime-1", "--trials", "6")


# Pruned


class Curves:
    """Reports epochs as the real objective does: a curve for each point."""

    def __init__(self, level, epochs=4):
        self.level, self.epochs = level, epochs

    def runtime(self):
        return {"objective": "STAND-IN curves"}

    def prepare(self, design):
        pass

    def pin(self):
        pass

    def __call__(self, claim, trial, on_epoch, on_advance):
        curve = [self.level(claim.number) * epoch / self.epochs for epoch in range(1, self.epochs + 1)]
        for epoch, value in enumerate(curve, 1):
            on_epoch(epoch, value)
        return Outcome(curve[-1], report(epoch=self.epochs, value=curve[-1], curve=tuple(curve)))


def run_curves(database, home, document, level):
    study = make_study(database, home, document)
    worker = make_worker(database, home)
    worker.stand_in = Curves(level)
    worker.run([study.name])
    return load_study(database, study.name)


def bad_at_3(number):
    return 0.2 if number == 3 else 0.5 + 0.01 * number


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_bad_point_is_pruned_and_a_good_one_never(database, home, sampler):
    document = random_document(8, sampler={"type": sampler, "seed": 3, "n_trials": 8}, pruner=MEDIAN)
    study = run_curves(database, home, document, bad_at_3)
    rows = points(database, study)
    assert [row.state for row in rows] == ["pruned" if number == 3 else "complete" for number in range(8)]
    assert (rows[3].value, study.state) == (0.05, "done")
    [attempt] = attempts(database, study, 3)
    assert (attempt.outcome, json.loads(attempt.result), attempt.artifact) == ("pruned", {"curve": [0.05]}, None)
    [trial] = [trial for trial in shown(database, study) if trial.user_attrs["point"] == 3]
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {1: 0.05})
    assert best_point(database, study).number == 7
    counts = status(database, study).counts
    assert (counts["complete"], counts["pruned"], counts["hole"]) == (7, 1, 0)


def test_nothing_is_pruned_unless_the_file_says_so(sqlite, home):
    study = run_curves(sqlite, home, random_document(6), bad_at_3)
    assert {row.state for row in points(sqlite, study)} == {"complete"}


def test_a_grid_prunes_too(sqlite, home):
    run_study(sqlite, home, random_document(2))
    study = make_study(sqlite, home, grid_document(pruner=MEDIAN))
    assert study.configuration.pruner.n_startup_trials == 2


def test_hyperband_judges_against_the_points_of_the_bracket(sqlite, home):
    """The first point of each bracket is never pruned, and one that is worse than all before it always is."""
    document = random_document(12, pruner={"type": "hyperband", "reduction_factor": 2})
    document["cross_validation"] = {"folds": 3, "epochs": 4}
    study = run_curves(sqlite, home, document, lambda number: 0.9 - 0.05 * number)
    states = [row.state for row in points(sqlite, study)]
    assert states[0] == "complete"
    assert 12 - states.count("pruned") <= 3  # one for each bracket


def test_a_study_whose_points_were_all_pruned_has_no_best(sqlite, home):
    study = run_study(sqlite, home, random_document(2), "pruned")
    assert best_point(sqlite, study) is None
    with pytest.raises(Exception, match="whose points were all pruned"):
        make_study(sqlite, home, grid_document())
