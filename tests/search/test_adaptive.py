import json
import math
import random
import statistics
import sys

import numpy as np
import optuna
import pytest

from rust_optuna.errors import MissingExtraError
from rust_optuna.search import design
from rust_optuna.search.adaptive import (
    AdaptiveDesign,
    ChangedSlotError,
    Notes,
    Slot,
    SlotState,
    refuse_missing_sampler,
)
from tests.studies import adaptive_document, configuration

SAMPLERS = ("tpe", "cma-es", "nsga-ii")
SEARCH_SPACE = {
    "batch_size": {"type": "int", "low": 16, "high": 2048, "log": True},
    "dropout_rate": {"type": "float", "low": 0.0, "high": 0.5},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
}


def study(sampler="tpe", n_trials=60, seed=3, **changes):
    document = adaptive_document(n_trials, sampler, search_space=SEARCH_SPACE, fixed={"epsilon": 1e-7}, **changes)
    document["sampler"]["seed"] = seed
    return configuration(document)


def toy(parameters):
    """Highest, at 1, at batch size 128, dropout rate 0.2 and learning rate 3e-3; the learning rate matters most."""
    return (
        1
        - 0.1 * abs(math.log2(parameters["batch_size"] / 128)) / 7
        - 0.2 * abs(parameters["dropout_rate"] - 0.2)
        - 0.7 * abs(math.log10(parameters["learning_rate"] / 3e-3)) / 3
    )


def run(configuration, order, fresh=False, workers=8):
    """Return the slots of a study that several workers ran, whose results arrive in a random order of its own seed."""
    chance, running, slots, notes = random.Random(order), [], {}, {}
    adaptive = AdaptiveDesign(configuration)
    for number in range(configuration.n_trials):
        if len(running) == workers:
            ended = running.pop(chance.randrange(workers))
            parameters = slots[ended].parameters
            slots[ended] = Slot(ended, SlotState.COMPLETE, parameters, toy(parameters))
            adaptive.show(slots[ended])
        if fresh:  # as a worker that has just started reads it
            adaptive = AdaptiveDesign(configuration)
            for slot in slots.values():
                adaptive.show(slot, notes[slot.number])
        parameters, notes[number] = adaptive.draw(number)
        slots[number] = Slot(number, SlotState.DRAWN, parameters)
        running.append(number)
    return [slots[number] for number in sorted(slots)]


def run_optuna(configuration, make, order, workers=8):
    """Return the parameters that `run` draws, by a study of Optuna alone, whose trials are asked for and told."""
    chance, running, trials = random.Random(order), [], []
    study = optuna.create_study(direction="maximize")
    for number in range(configuration.n_trials):
        if len(running) == workers:
            ended = trials[running.pop(chance.randrange(workers))]
            study.tell(ended, toy(ended.params))
        (seed,) = np.random.SeedSequence((configuration.sampler_seed, number)).generate_state(1, np.uint32)
        study.sampler = make(int(seed))
        trials.append(study.ask())
        design.suggest(trials[-1], configuration)
        running.append(number)
    return [trial.params for trial in trials]


@pytest.mark.parametrize(
    ("sampler", "make"),
    [
        ("tpe", lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True)),
        ("cma-es", lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)),
        ("nsga-ii", lambda seed: optuna.samplers.NSGAIISampler(seed=seed)),
    ],
)
def test_a_draw_is_that_of_the_sampler_of_optuna_that_the_study_names(sampler, make):
    small = study(sampler, n_trials=70 if sampler == "nsga-ii" else 30)
    assert [dict(slot.parameters) for slot in run(small, order=1)] == run_optuna(small, make, order=1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_depends_on_the_seed_and_the_results_alone(sampler):
    """The same order of results gives the same draws, in a worker that saw them arrive and in one that read them."""
    small = study(sampler, n_trials=54 if sampler == "nsga-ii" else 30)
    first = run(small, order=1)
    assert run(small, order=1, fresh=True) == first
    other = run(study(sampler, n_trials=small.n_trials, seed=4), order=1)
    assert [slot.parameters for slot in other] != [slot.parameters for slot in first]
    if sampler != "nsga-ii":
        later = [slot.parameters for slot in run(small, order=2)]
        assert later != [slot.parameters for slot in first]


def test_draws_see_the_results_of_other_workers():
    """With eight workers, TPE's best value is at least 0.01 above random search's, on average over 20 seeds.

    It was 0.023 ± 0.004 (standard error) with Optuna 5.0.0; random search's best is 0.042 from the optimum.
    """
    adaptive, blind = [], []
    for seed in range(20):
        configured = study(seed=seed)
        adaptive.append(max(toy(slot.parameters) for slot in run(configured, order=seed)))
        blind.append(max(map(toy, design.estimate(configured))))
    assert statistics.mean(adaptive) > statistics.mean(blind) + 0.01


def test_points_that_run_keep_others_from_the_same_place():
    """Draws from the same results differ, because each sees those before it."""
    configured = study(n_trials=30)
    adaptive = AdaptiveDesign(configured)
    for number, parameters in enumerate(design.estimate(configured)[:20]):
        adaptive.show(Slot(number, SlotState.COMPLETE, parameters, toy(parameters)))
    drawn = [tuple(adaptive.draw(number)[0].values()) for number in range(20, 30)]
    assert len(set(drawn)) == 10


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_drawn_lies_in_the_search_space_and_survives_json(sampler):
    space = {**SEARCH_SPACE, "output": ["mixed0", "mixed10"], "epsilon": [1e-8, 1e-6]}
    document = adaptive_document(20, sampler, search_space=space, fixed={})
    configured = configuration(document)
    for slot in run(configured, order=0, workers=2):
        assert list(slot.parameters) == list(space)
        assert type(slot.parameters["batch_size"]) is int
        assert 16 <= slot.parameters["batch_size"] <= 2048
        assert 1e-4 <= slot.parameters["learning_rate"] <= 1e-1
        assert (slot.parameters["output"] in space["output"], slot.parameters["epsilon"] in space["epsilon"]) == (1, 1)
        assert json.loads(json.dumps(slot.parameters)) == slot.parameters


def test_a_slot_that_was_left_empty_is_drawn_later():
    adaptive = AdaptiveDesign(study())
    parameters, _ = adaptive.draw(5)
    adaptive.show(Slot(5, SlotState.COMPLETE, parameters, 0.5))
    adaptive.draw(2)
    assert adaptive.known == {5: SlotState.COMPLETE, 2: SlotState.DRAWN}


def test_a_slot_that_went_back_is_noticed():
    adaptive = AdaptiveDesign(study())
    parameters, _ = adaptive.draw(0)
    adaptive.show(Slot(0, SlotState.HOLE, parameters))
    adaptive.show(Slot(0, SlotState.HOLE, parameters))
    with pytest.raises(ChangedSlotError):
        adaptive.show(Slot(0, SlotState.DRAWN, parameters))


def test_tpe_sees_how_far_pruned_points_came():
    """Of points that were pruned, those with the better curve attract draws."""
    configured = study(n_trials=40)
    points = design.estimate(configured)[:30]

    def learning_rates(sign):
        adaptive = AdaptiveDesign(configured)
        for number, point in enumerate(points):
            curve = [sign * toy(point)]
            adaptive.show(Slot(number, SlotState.PRUNED, point, curve[-1], curve))
        return [adaptive.draw(number)[0]["learning_rate"] for number in range(30, 40)]

    assert learning_rates(1) != learning_rates(-1)


def test_notes_survive_json():
    notes = Notes({"cma:generation": 3}, {"parents": [1, 2]})
    assert Notes.from_json(notes.to_json()) == notes


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(MissingExtraError, match=r"needs cmaes, which is not installed: pip install .*cma-es") as caught:
        refuse_missing_sampler(study("cma-es"))
    assert "\n" not in str(caught.value)
    refuse_missing_sampler(study("tpe"))


def test_features_are_prepared_for_every_choice_that_a_draw_may_make():
    space = {**SEARCH_SPACE, "output": ["mixed0", "mixed10"], "pooling": ["max", "average"]}
    document = adaptive_document(4, search_space=space, fixed={"epsilon": 1e-7})
    choices = design.choices_of_features(configuration(document))
    assert [(c["output"], c["pooling"]) for c in choices] == [
        ("mixed0", "max"),
        ("mixed0", "average"),
        ("mixed10", "max"),
        ("mixed10", "average"),
    ]
    assert {c["batch_size"] for c in choices} == {16}


def test_an_adaptive_design_is_not_drawn_at_creation():
    with pytest.raises(ValueError, match="tpe draws no point before it is run"):
        design.draw(study())
    assert design.slots(study()) == [None] * 60
    assert len(design.estimate(study())) == 60
