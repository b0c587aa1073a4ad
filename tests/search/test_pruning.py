import random

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from rust_optuna.config import Pruner
from rust_optuna.search import pruning as pruning_module
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.pruning import EndedPoint, Pruning, PruningRule
from rust_optuna.study_file import parse_study
from tests.reports import report
from tests.studies import make_study, random_document

EPOCHS = 20


def optunas(pruner):
    if pruner.type == "median":
        return optuna.pruners.MedianPruner(pruner.n_startup_trials, pruner.n_warmup_steps, pruner.interval_steps)
    return optuna.pruners.HyperbandPruner(pruner.min_resource, EPOCHS, pruner.reduction_factor)


@pytest.mark.parametrize(
    "pruner",
    [
        Pruner("median"),
        Pruner("median", n_startup_trials=0),
        Pruner("median", n_startup_trials=2, n_warmup_steps=4, interval_steps=3),
        Pruner("median", n_startup_trials=2, interval_steps=5),
        Pruner("hyperband"),
        Pruner("hyperband", min_resource=2, reduction_factor=2),
        Pruner("hyperband", min_resource=4, reduction_factor=4),
        Pruner("hyperband", min_resource=40),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_a_trial_is_pruned_where_optuna_would_prune_it(pruner, seed):
    """One trial after another, with Optuna's own pruner on a study in memory as the slow version."""
    chance = random.Random(seed)
    study = optuna.create_study(study_name="a-study", direction="maximize", pruner=optunas(pruner))
    rule, ended, pruned = PruningRule(pruner, "a-study", EPOCHS), {}, 0
    for number in range(40):
        level, trial, curve = chance.random(), study.ask(), []
        for epoch in range(1, EPOCHS + 1):
            curve.append(level + 0.2 * chance.random() * epoch / EPOCHS)
            trial.report(curve[-1], epoch)
            ours = rule.prunes(number, curve, ended)
            assert ours == trial.should_prune(), (number, epoch)
            if ours:
                break
        study.tell(trial, None if ours else max(curve), TrialState.PRUNED if ours else TrialState.COMPLETE)
        ended[number] = EndedPoint(not ours, tuple(curve))
        pruned += ours
    assert (pruned > 0) == (pruner.min_resource <= EPOCHS)


def test_a_good_trial_is_never_pruned_and_a_bad_one_is():
    ended = {number: EndedPoint(True, [0.5] * EPOCHS) for number in range(9)}
    for pruner in (Pruner("median"), Pruner("hyperband")):
        rule = PruningRule(pruner, "a-study", EPOCHS)
        # A bracket's first judgement may be as late as its first rung.
        good, bad = [0.6] * EPOCHS, [0.4] * EPOCHS
        assert not any(rule.prunes(9, good[:epoch], ended) for epoch in range(1, EPOCHS + 1))
        assert any(rule.prunes(9, bad[:epoch], ended) for epoch in range(1, EPOCHS + 1))


def test_complete_trials_of_fewer_epochs_are_left_out():
    ended = {number: EndedPoint(True, [0.9, 0.9]) for number in range(9)}
    rule = PruningRule(Pruner("median"), "a-study", EPOCHS)
    assert rule.prunes(9, [0.1, 0.1], ended)
    assert not rule.prunes(9, [0.1, 0.1, 0.1], ended)


@pytest.fixture
def study(database, home):
    return make_study(database, home, random_document(6, pruner={"type": "median", "n_startup_trials": 1}))


def test_what_has_ended_is_read_once(database, study, monkeypatch):
    ledger, pruning = Ledger(database), Pruning(database, study, study.configuration.pruner)
    statements = []
    monkeypatch.setattr(pruning_module, "AT_ONCE", 1)
    sa.event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    pruning.refresh()
    assert pruning._ended == {}
    for number in range(2):
        ledger.finish(ledger.claim([study.id], "ann"), "complete", 0.5, report(curve=(0.4, 0.5 + number)), None)
    ledger.finish(ledger.claim([study.id], "ann"), "pruned", 0.1, None, None)
    ledger.claim([study.id], "bob")
    pruning.refresh()
    assert pruning._ended == {
        0: EndedPoint(True, (0.4, 0.5)),
        1: EndedPoint(True, (0.4, 1.5)),
        2: EndedPoint(False, ()),
    }
    statements.clear()
    pruning.refresh()
    assert len([text for text in statements if text.startswith("SELECT")]) == 1


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"type": "medium"}, "'medium' is not one of none, median, hyperband"),
        ({}, "pruner.type  is missing"),
        ({"type": "median", "min_resource": 3}, "min_resource  belongs to hyperband, not to median; the keys are type"),
        ({"type": "none", "n_startup_trials": 3}, "n_startup_trials  belongs to median, not to none"),
        ({"type": "median", "warmup": 3}, "warmup  is not a key here"),
        ({"type": "median", "interval_steps": 0}, "0 is out of range: it must be at least 1"),
        ({"type": "hyperband", "reduction_factor": 1}, "1 is out of range: it must be at least 2"),
    ],
)
def test_a_pruner_that_is_not_one_is_refused(section, problem):
    with pytest.raises(Exception, match=problem):
        parse_study(random_document(pruner=section), "a test")
