"""What Optuna shows is what ran, and what somebody else did there is told."""

import hashlib
import json
import math

import optuna
import optuna_dashboard
import pytest
from optuna.trial import TrialState

from rust_optuna.config import KEYS, misfit
from rust_optuna.search.creation import create_study
from rust_optuna.search.foreign import ForeignTrials, OptunasBest, foreign_trials
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.note import HEADING, note_of, write_note
from rust_optuna.search.results import best_point, best_trial, status
from rust_optuna.search.studies import load_study
from tests.studies import (
    adaptive_document,
    claim_point,
    configuration,
    end_leases,
    grid_document,
    make_study,
    make_worker,
    points,
    random_document,
    run_study,
    shown,
)


def optunas(database, study):
    """Return the study as somebody else loads it."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.load_study(study_name=study.name, storage=database.storage, sampler=sampler)


def looked(database, study):
    return foreign_trials(database, study.name, study.key)


# What ran


def test_optunas_best_parameters_are_all_four_whatever_was_searched(database, home):
    first = run_study(database, home, random_document(3))
    second = run_study(database, home, grid_document())
    best = json.loads(max(points(database, first), key=lambda row: row.value).parameters)
    found = optunas(database, second)
    assert found.best_params == {**best, "learning_rate": 1e-2, "epsilon": 1e-5}
    assert optunas(database, first).best_params == {**best, "learning_rate": 1e-3, "epsilon": 1e-7}
    for trial in found.trials:
        assert best.items() <= trial.params.items()
        single = {name for name, each in trial.distributions.items() if each.single()}
        assert single == {"batch_size", "dropout_rate"}


def test_the_note_says_that_points_are_drawn_one_by_one_and_trials_pruned(sqlite, home):
    pruner = {"type": "hyperband", "min_resource": 2}
    study = run_study(sqlite, home, adaptive_document(3, pruner=pruner))
    note = note_of(status(sqlite, study))
    assert "- tpe draws each point from the results so far, when a worker is free" in note
    assert "- trials that fall behind are pruned: type = hyperband, min_resource = 2, reduction_factor = 3" in note
    assert best_trial(sqlite, study).point.parameters.items() <= optunas(sqlite, study).best_params.items()


def test_the_study_shows_what_is_the_same_for_all_its_trials(database, home):
    run_study(database, home, random_document(2))
    document = grid_document(fixed={"from_best_of": "regime-1", "dropout_rate": 0.25}, model={"pooling": "average"})
    study = make_study(database, home, document)
    attributes = optunas(database, study).user_attrs
    assert attributes["fixed"] == {"dropout_rate": 0.25}
    assert attributes["inherited"]["weights"] == "random"
    assert attributes["model"] == {"pooling": "average", "epochs": 2}
    everywhere = {
        *attributes["fixed"],
        *attributes["inherited"],
        *attributes["model"],
        *study.configuration.search_space,
    }
    assert everywhere == {key for key in KEYS if not misfit(key, "inception_v3", "head")}
    assert attributes["cross_validation"] == {"folds": 3, "seed": 5}
    films = {"films": 20, "patients": 10, "fingerprint": study.fingerprint.films}
    assert attributes["development"] == films
    assert attributes["weights"] == ["random-he-normal-1"]
    text = json.dumps(study.fingerprint.to_json(), sort_keys=True)
    assert attributes["fingerprint"] == hashlib.sha256(text.encode()).hexdigest()
    source = attributes["source"]
    assert (source["study"], source["point"]) == ("regime-1", study.source.point)
    assert {each["key"] for each in source["differences"]} == {"pooling", "dropout_rate"}


def test_a_study_whose_waiting_trials_lack_the_fixed_values_runs_to_its_end(database, home, monkeypatch):
    """An earlier version made them so."""

    def bare(mirror, state, parameters, number, attempt):
        mirror.constant, mirror.distributions = {}, {k: v for k, v in mirror.distributions.items() if k in parameters}
        return add(mirror, state, parameters, number, attempt)

    add = Mirror._add
    monkeypatch.setattr(Mirror, "_add", bare)
    study = make_study(database, home, random_document(3))
    monkeypatch.undo()
    assert {frozenset(trial.params) for trial in shown(database, study)} == {frozenset({"batch_size", "dropout_rate"})}
    Ledger(database).fail(Ledger(database).claim([study.id], "ann"), "no luck")
    make_worker(database, home, "level").run()
    assert load_study(database, study.name).state == "done"
    # The attempts of this version show all four.
    assert sorted(len(trial.params) for trial in shown(database, study) if trial.state.name == "COMPLETE") == [2, 2, 4]
    assert looked(database, study) == ForeignTrials()


def test_the_same_file_again_shows_what_an_earlier_version_did_not(sqlite, home):
    study = make_study(sqlite, home)
    sqlite.storage.set_study_user_attr(Mirror(sqlite, study).optuna_study_id, "fixed", {})
    create_study(sqlite, configuration(), home)
    assert optunas(sqlite, study).user_attrs["fixed"] == {"learning_rate": 1e-3, "epsilon": 1e-7}


# What somebody else did


def test_our_own_trials_are_nobody_elses_however_they_end(database, home, monkeypatch):
    document = random_document(6, lease_seconds=9999)
    study = make_study(database, home, document)
    ledger, mirror = Ledger(database), Mirror(database, study)
    for number, outcome in ((0, "complete"), (1, "pruned")):
        claim = claim_point(ledger, study.id, number)
        mirror.start(claim)
        ledger.finish(claim, outcome, 0.5, None, None)
    ledger.fail(claim_point(ledger, study.id, 2), "no luck")
    ledger.release(claim_point(ledger, study.id, 3), "asked to stop")
    # The maker of the second attempt's trial dies before it notes it.
    claim = claim_point(ledger, study.id, 2)
    monkeypatch.setattr(Ledger, "record_trial", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        mirror.start(claim)
    monkeypatch.undo()
    end_leases(database)
    assert looked(database, study) == ForeignTrials()  # before Optuna is told
    make_worker(database, home, "level").run()
    assert {trial.state.name for trial in shown(database, study)} == {"COMPLETE", "PRUNED", "FAIL"}
    assert looked(database, study) == ForeignTrials()


def test_a_waiting_trial_that_somebody_elses_optimize_took_is_told(database, home):
    study = make_study(database, home, random_document(3))
    optunas(database, study).optimize(lambda trial: 0.99, n_trials=1)
    expected = ForeignTrials(1, OptunasBest(0, 0.99))
    assert looked(database, study) == expected
    make_worker(database, home).run()
    assert load_study(database, study.name).state == "done"
    assert looked(database, study) == expected
    best = best_point(database, study)
    assert best.value < 0.99
    assert optunas(database, study).best_value == 0.99
    for document in (status(database, study).to_json(), best_trial(database, study).to_json()):
        assert document["finished_by_others"] == 1
        assert document["optunas_best"] == {"number": 0, "value": 0.99}
    said = status(database, study).caveats.foreign.words()
    assert said.startswith(
        "1 of its trials in Optuna was finished by somebody else; the best that Optuna shows, trial 0"
    )


def test_trials_that_somebody_else_added_are_told_and_hide_nothing_while_they_are_worse(database, home):
    study = run_study(database, home, random_document(2))
    theirs = optunas(database, study)
    for value in (0.01, 0.02):
        theirs.add_trial(optuna.create_trial(value=value))
    theirs.add_trial(optuna.create_trial(state=TrialState.FAIL))
    assert looked(database, study) == ForeignTrials(3, None)
    assert "were finished by somebody else" in looked(database, study).words()
    theirs.add_trial(optuna.create_trial(value=math.inf))
    assert looked(database, study) == ForeignTrials(4, OptunasBest(5, math.inf))
    json.dumps(status(database, study).to_json(), allow_nan=False)


def test_another_value_told_to_a_running_trial_is_told(database, home):
    study = make_study(database, home, random_document(2))
    ledger, mirror = Ledger(database), Mirror(database, study)
    claim = ledger.claim([study.id], "ann")
    trial = mirror.start(claim)
    optunas(database, study).tell(trial.number, 0.9)
    assert looked(database, study) == ForeignTrials(1, OptunasBest(trial.number, 0.9))
    ledger.finish(claim, "complete", 0.4, None, None)
    mirror.tell(trial.number, "complete", 0.4, None)
    assert looked(database, study) == ForeignTrials(1, OptunasBest(trial.number, 0.9))


def test_a_failure_that_somebody_else_told_is_told_after_the_point_ran_again_too(database, home):
    study = make_study(database, home, random_document(2))
    optunas(database, study).tell(optunas(database, study).ask(), state=TrialState.FAIL)
    assert looked(database, study).finished == 1
    make_worker(database, home).run()
    assert looked(database, study) == ForeignTrials(1, None)


# The note


def test_the_note_tells_what_ran_and_what_others_did_below_what_a_user_wrote(database, home):
    study = make_study(database, home, random_document(2))
    theirs = optunas(database, study)
    text = optuna_dashboard.get_note(theirs)
    assert text.startswith("## What ran")
    assert "fixed: learning_rate = 0.001, epsilon = 1e-07" in text
    assert "somebody else" not in text
    optuna_dashboard.save_note(theirs, f"Mine.\n{text}")
    theirs.add_trial(optuna.create_trial(value=7.0))
    make_worker(database, home).run()
    text = optuna_dashboard.get_note(theirs)
    assert text.startswith("Mine.\n\n## What ran")
    assert text.count("## What ran") == 1
    assert (
        "**1 of its trials in Optuna was finished by somebody else; the best that Optuna shows, trial 2 (7.0)" in text
    )
    assert "STAND-IN tests.stand_ins:peak: its values are not real scores" in text
    second = make_study(database, home, grid_document(model={"pooling": "average"}))
    text = optuna_dashboard.get_note(optunas(database, second))
    assert "inherited from regime-1, point" in text
    assert "**differs from its source**: pooling is average here and max in regime-1" in text


def test_a_long_note_is_written_in_the_pieces_that_the_dashboard_reads(sqlite, home):
    study = make_study(sqlite, home, random_document(1))
    theirs = optunas(sqlite, study)
    optuna_dashboard.save_note(theirs, "long " * 2000)
    mirror = Mirror(sqlite, study)
    mirror.write_note()
    text = optuna_dashboard.get_note(theirs)
    assert text.startswith("long " * 1999 + "long\n\n## What ran")
    optuna_dashboard.save_note(theirs, "short")
    mirror.write_note()
    assert optuna_dashboard.get_note(theirs) == f"short\n\n{note_of(status(sqlite, study))}"
    # A note of ours that was longer leaves nothing of itself.
    write_note(sqlite.storage, mirror.optuna_study_id, f"{HEADING}\n" + "long " * 2000)
    mirror.write_note()
    assert optuna_dashboard.get_note(theirs) == f"short\n\n{note_of(status(sqlite, study))}"
    attributes = sqlite.storage.get_study_system_attrs(mirror.optuna_study_id)
    mirror.write_note()
    assert sqlite.storage.get_study_system_attrs(mirror.optuna_study_id) == attributes  # nothing is written anew


@pytest.mark.parametrize("written", ["first", 1.5, None, [2]])
def test_what_somebody_else_wrote_where_we_note_the_attempt_is_no_error(database, home, written):
    study = make_study(database, home, random_document(1))
    theirs = optunas(database, study)
    for _ in range(2):
        trial = theirs.ask()
    trial.set_user_attr("attempt", written)
    theirs.tell(trial, state=TrialState.FAIL)
    assert looked(database, study).finished == 1


def test_a_note_has_no_line_for_a_model_that_is_all_inherited(sqlite, home):
    run_study(sqlite, home, random_document(1))
    document = grid_document(cross_validation={})
    del document["model"]
    study = make_study(sqlite, home, document)
    assert study.own_values == {}
    assert "- model:" not in note_of(status(sqlite, study))
