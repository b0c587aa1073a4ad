import threading

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from rust_optuna.errors import LeaseLostError
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.storage.database import open_database
from tests.reports import report
from tests.studies import (
    Killed,
    assert_in_step,
    attempts,
    claim_point,
    end_leases,
    make_study,
    make_worker,
    points,
    random_document,
    shown,
)

REPORT = report()


@pytest.fixture
def study(database, home):
    return make_study(database, home, random_document(3))


def die(*arguments):
    raise Killed


STEPS = ("claimed", "made", "noted", "evaluated", "finished", "half told", "told")


def run_until(step, database, study, monkeypatch, worker="dead"):
    """Run one attempt as a worker does, and die after ``step``."""
    mirror, ledger = Mirror(database, study), Ledger(database)
    claim = ledger.claim([study.id], f"{worker}, {step}")
    if step == "claimed":
        return
    if step == "made":
        monkeypatch.setattr(Ledger, "record_trial", die)
        monkeypatch.setattr(mirror.storage, "set_trial_state_values", die)
        with pytest.raises(Killed):
            mirror.start(claim)
        monkeypatch.undo()
        return
    trial = mirror.start(claim)
    if step == "noted":
        return
    trial.report(0.4, 1)
    if step == "evaluated":
        return
    ledger.finish(claim, "complete", 0.4, REPORT, None)
    if step == "finished":
        return
    if step == "half told":
        monkeypatch.setattr(mirror.storage, "set_trial_state_values", die)
        with pytest.raises(Killed):
            mirror.tell(trial.number, "complete", 0.4, REPORT.to_json())
        monkeypatch.undo()
        return
    mirror.tell(trial.number, "complete", 0.4, REPORT.to_json())


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_death_at_any_step_is_repaired(database, home, monkeypatch, attempt):
    """One point dies after each of the steps, at its first attempt or its second; then a worker comes."""
    study = make_study(database, home, random_document(len(STEPS)))
    for step in STEPS:
        if attempt == 2:
            run_until("noted", database, study, monkeypatch, "first")
            Ledger(database).abandon("first, noted", "a first death")
        run_until(step, database, study, monkeypatch)
    end_leases(database)
    make_worker(database, home).run([study.name])

    assert [row.state for row in points(database, study)] == ["complete"] * len(STEPS)
    assert_in_step(database, study)
    for step, row in zip(STEPS, points(database, study), strict=True):
        survived = STEPS.index(step) >= STEPS.index("finished")
        assert (row.value == 0.4) == survived, step
        assert row.attempt == attempt + (not survived), step
    # Every trial that is not the shown one has failed: nothing waits or runs for ever.
    states = [trial.state for trial in shown(database, study)]
    assert states.count(TrialState.COMPLETE) == len(STEPS)
    assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}


def test_repairing_twice_changes_nothing_more(database, home, monkeypatch):
    study = make_study(database, home, random_document(len(STEPS)))
    for step in STEPS:
        run_until(step, database, study, monkeypatch)
    end_leases(database)
    Ledger(database).expire(study.id)
    mirror = Mirror(database, study)
    mirror.reconcile()
    once = shown(database, study)
    mirror.reconcile()
    assert shown(database, study) == once
    assert not [trial for trial in once if trial.state is TrialState.RUNNING]


def test_the_result_is_shown_even_where_only_the_reconciler_tells_it(database, study, monkeypatch):
    run_until("finished", database, study, monkeypatch)
    Mirror(database, study).reconcile()
    trial = shown(database, study)[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.4)
    assert trial.user_attrs == {"point": 0, "attempt": 1, "result": REPORT.to_json()}


def test_a_result_too_long_for_an_attribute_keeps_no_trial_from_its_end(database, study):
    mirror, ledger = Mirror(database, study), Ledger(database)
    claim = ledger.claim([study.id], "ann")
    trial = mirror.start(claim)
    ledger.finish(claim, "complete", 0.5, report(curve=(0.123456789,) * 20_000), None)
    mirror.reconcile()
    ended = shown(database, study)[trial.number]
    assert (ended.state, ended.value, "result" in ended.user_attrs) == (TrialState.COMPLETE, 0.5, False)


def test_what_is_alive_is_left_alone(database, study):
    mirror, ledger = Mirror(database, study), Ledger(database)
    claim = ledger.claim([study.id], "alive")
    trial = mirror.start(claim)
    mirror.reconcile()
    assert [each.state for each in shown(database, study)] == [TrialState.RUNNING] + [TrialState.WAITING] * 2
    ledger.finish(claim, "complete", 0.5, None, None)
    mirror.tell(trial.number, "complete", 0.5, None)
    assert shown(database, study)[0].value == 0.5


def test_an_attempt_that_is_about_to_note_its_trial_is_left_alone(database, study, monkeypatch):
    mirror, ledger = Mirror(database, study), Ledger(database)
    ledger.fail(claim_point(ledger, study.id, 0), "once")
    claim = claim_point(ledger, study.id, 0)
    made = mirror._add(TrialState.RUNNING, claim.parameters, claim.number, claim.attempt)
    Mirror(database, study).reconcile()
    ledger.record_trial(claim, made)
    assert shown(database, study)[made].state is TrialState.RUNNING


def test_an_attempt_that_ends_while_trials_are_swept_is_told_its_own_end(database, study, monkeypatch):
    mirror, ledger = Mirror(database, study), Ledger(database)
    claim = ledger.claim([study.id], "ann")
    trial = mirror.start(claim)
    read = database.storage.get_all_trials

    def read_and_let_it_end(*arguments, **keywords):
        found = read(*arguments, **keywords)
        ledger.finish(claim, "complete", 0.5, None, None)
        return found

    monkeypatch.setattr(database.storage, "get_all_trials", read_and_let_it_end)
    assert mirror.sweep() == 0
    monkeypatch.undo()
    swept = shown(database, study)[trial.number]
    assert (swept.state, swept.value) == (TrialState.COMPLETE, 0.5)


def test_a_trial_whose_making_was_not_answered_is_not_made_twice(database, study, monkeypatch):
    mirror, ledger = Mirror(database, study), Ledger(database)
    ledger.fail(claim_point(ledger, study.id, 0), "once")
    claim = claim_point(ledger, study.id, 0)
    make, made = database.storage.create_new_trial, []

    def make_and_lose_the_answer(*arguments, **keywords):
        made.append(make(*arguments, **keywords))
        if len(made) == 1:
            raise sa.exc.OperationalError("INSERT", {}, ConnectionError("the server closed the connection"))
        return made[-1]

    monkeypatch.setattr(database.storage, "create_new_trial", make_and_lose_the_answer)
    trial = mirror.start(claim)
    monkeypatch.undo()
    second = [
        each for each in shown(database, study) if (each.user_attrs["point"], each.user_attrs["attempt"]) == (0, 2)
    ]
    assert [each.number for each in second] == [trial.number]
    assert second[0].state is TrialState.RUNNING


def test_starting_a_lost_attempt_is_refused_and_its_trial_does_not_run_on(database, study):
    mirror, ledger = Mirror(database, study), Ledger(database)
    ledger.fail(claim_point(ledger, study.id, 0), "once")
    claim = claim_point(ledger, study.id, 0)
    ledger.abandon("ann", "presumed dead")
    with pytest.raises(LeaseLostError):
        mirror.start(claim)
    mirror.reconcile()
    assert not [trial for trial in shown(database, study) if trial.state is TrialState.RUNNING]


@pytest.mark.parametrize(("outcome", "value"), [("pruned", 0.25), ("pruned", None), ("failed", None)])
def test_other_ends_are_shown_too(database, study, outcome, value):
    mirror, ledger = Mirror(database, study), Ledger(database)
    claim = ledger.claim([study.id], "ann")
    trial = mirror.start(claim)
    if outcome == "failed":
        ledger.fail(claim, "no luck")
    else:
        ledger.finish(claim, outcome, value, None, None)
    mirror.reconcile()
    told = shown(database, study)[trial.number]
    assert told.state is {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[outcome]
    assert told.value == value


def test_trials_of_somebody_else_are_left_alone(database, home, study):
    theirs = optuna.load_study(study_name=study.name, storage=database.storage)
    theirs.enqueue_trial({"dropout_rate": 0.123})
    running = optuna.create_trial(state=TrialState.RUNNING, user_attrs={"note": "mine"})
    theirs.add_trial(running)
    make_worker(database, home).run([study.name])
    states = [trial.state for trial in shown(database, study)]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.WAITING, TrialState.RUNNING]


def test_a_trial_that_somebody_else_finished_costs_the_point_an_attempt_and_no_more(database, home, study):
    database.storage.set_trial_state_values(shown(database, study)[0]._trial_id, TrialState.COMPLETE, [-99.0])
    make_worker(database, home).run([study.name])
    assert [row.state for row in points(database, study)] == ["complete"] * 3
    assert [row.outcome for row in attempts(database, study, 0)] == ["released", "complete"]
    assert -99.0 not in [row.value for row in points(database, study)]


def test_reconcilers_at_once_do_not_disturb_each_other_nor_the_workers(database, home):
    study = make_study(database, home, random_document(12))
    over, errors = threading.Event(), []

    def reconcile():
        try:
            with open_database(database.url) as mine:
                while not over.is_set():
                    Mirror(mine, study).reconcile()
        except Exception as error:
            errors.append(error)

    def work():
        try:
            with open_database(database.url) as mine:
                make_worker(mine, home).run([study.name])
        except Exception as error:
            errors.append(error)

    reconcilers = [threading.Thread(target=reconcile) for _ in range(2)]
    workers = [threading.Thread(target=work) for _ in range(2)]
    for thread in reconcilers + workers:
        thread.start()
    for thread in workers:
        thread.join()
    over.set()
    for thread in reconcilers:
        thread.join()
    assert errors == []
    assert [row.outcome for row in attempts(database, study)] == ["complete"] * 12
    assert_in_step(database, study)


def test_optuna_reads_points_as_ordinary_trials(database, home):
    study = make_study(database, home, random_document(3))
    make_worker(database, home).run([study.name])
    theirs = optuna.load_study(study_name=study.name, storage=database.storage)
    assert theirs.direction is optuna.study.StudyDirection.MAXIMIZE
    assert theirs.best_value == max(row.value for row in points(database, study))
    assert theirs.best_trial.distributions["dropout_rate"] == optuna.distributions.FloatDistribution(0.0, 0.5)
