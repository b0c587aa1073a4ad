import itertools

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rust_optuna.search import design
from tests.studies import configuration, grid_document, random_document

SEEDS = st.integers(0, 2**32 - 1)
MIXED = {
    "batch_size": {"type": "int", "low": 16, "high": 2048, "log": True},
    "dropout_rate": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1},
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "epsilon": [1e-8, 1e-4],
    "pooling": ["max", "average"],
    "standardize": [True, False],
    "image_size": [150, 299],
}


def random_study(seed, n_trials):
    return configuration(random_document(sampler={"type": "random", "seed": seed, "n_trials": n_trials}))


def mixed_study(seed, n_trials=12):
    sampler = {"type": "random", "seed": seed, "n_trials": n_trials}
    return configuration(random_document(sampler=sampler, search_space=MIXED, fixed={}))


def grid_study(seed):
    return configuration(grid_document(sampler={"type": "grid", "seed": seed}))


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_the_same_seed_draws_the_same_points(seed):
    assert design.draw(mixed_study(seed)) == design.draw(mixed_study(seed))


@given(SEEDS, st.integers(1, 10), st.integers(1, 10))
@settings(max_examples=15, deadline=None)
def test_a_longer_design_begins_with_the_shorter_one(seed, fewer, more):
    assert design.draw(random_study(seed, fewer + more))[:fewer] == design.draw(random_study(seed, fewer))


def test_another_seed_draws_other_points():
    assert design.draw(random_study(1, 8)) != design.draw(random_study(2, 8))


def test_the_points_are_those_of_the_samplers_own_stream():
    sampler = optuna.samplers.RandomSampler(seed=3)
    study = optuna.create_study(sampler=sampler)
    stream = []
    for _ in range(5):
        trial = study.ask()
        stream.append(
            {
                "batch_size": trial.suggest_int("batch_size", 2, 12),
                "dropout_rate": trial.suggest_float("dropout_rate", 0.0, 0.5),
            }
        )
    assert design.draw(random_study(3, 5)) == stream


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_points_are_within_their_ranges_and_of_their_types(seed):
    for point in design.draw(mixed_study(seed)):
        assert list(point) == list(MIXED)
        assert type(point["batch_size"]) is int
        assert 16 <= point["batch_size"] <= 2048
        assert min(abs(point["dropout_rate"] - step / 10) for step in range(6)) < 1e-9
        assert 1e-5 <= point["learning_rate"] <= 1e-1
        for name in ("epsilon", "pooling", "standardize", "image_size"):
            assert any(point[name] is choice or point[name] == choice for choice in MIXED[name])


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_grid_has_each_cell_exactly_once(seed):
    study = grid_study(seed)
    cells = list(itertools.product(*(axis.choices for axis in study.search_space.values())))
    drawn = [tuple(point.values()) for point in design.draw(study)]
    assert sorted(drawn) == sorted(cells)
    assert design.size(study) == len(cells)


def test_the_order_of_a_grid_is_its_seeds():
    orders = [tuple(tuple(point.values()) for point in design.draw(grid_study(seed))) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("study", [mixed_study(7, 40), random_study(7, 40), grid_study(7)], ids=str)
def test_the_recorded_distributions_hold_every_drawn_value(study):
    recorded = design.distributions(study)
    for point in design.draw(study):
        assert set(point) == set(recorded)
        for name, value in point.items():
            distribution = recorded[name]
            assert distribution._contains(distribution.to_internal_repr(value))
            assert distribution.to_external_repr(distribution.to_internal_repr(value)) == value


def test_lists_of_numbers_are_recorded_as_intervals_and_decades_in_logarithms():
    recorded = design.distributions(mixed_study(0))
    assert recorded["epsilon"] == optuna.distributions.FloatDistribution(1e-8, 1e-4, log=True)
    assert recorded["image_size"] == optuna.distributions.IntDistribution(150, 299)
    assert recorded["pooling"] == optuna.distributions.CategoricalDistribution(("max", "average"))
    assert recorded["standardize"] == optuna.distributions.CategoricalDistribution((True, False))
