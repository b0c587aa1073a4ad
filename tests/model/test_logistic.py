import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression

from rust_optuna.model.logistic import calibration_intercept, calibration_slope


def draw_outcomes(seed, count=40):
    generator = np.random.default_rng(seed)
    probabilities = np.round(generator.beta(0.7, 0.9, count), 2).clip(0.005, 0.995)
    outcomes = generator.random(count) < probabilities**1.5
    weights = generator.integers(0, 3, (6, count)).astype(float)
    return probabilities, outcomes, weights


def logit(probabilities):
    return np.log(probabilities / (1 - probabilities))


def separated(probabilities, outcomes):
    ours, others = probabilities[outcomes], probabilities[~outcomes]
    return not len(ours) or not len(others) or ours.min() >= others.max() or ours.max() <= others.min()


@given(st.integers(0, 2**32), st.sampled_from([4, 10, 40]))
@settings(max_examples=30, deadline=None)
def test_the_slope_is_that_of_scikit_learns_regression(seed, count):
    probabilities, outcomes, weights = draw_outcomes(seed, count)
    for row, slope in zip(weights, calibration_slope(probabilities, outcomes, weights), strict=True):
        drawn = row > 0
        if separated(probabilities[drawn], outcomes[drawn]):
            assert np.isnan(slope)
            continue
        regression = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
        regression.fit(logit(probabilities)[:, np.newaxis], outcomes, sample_weight=row)
        assert slope == pytest.approx(regression.coef_.item(), rel=1e-4, abs=1e-4)


@given(st.integers(0, 2**32), st.sampled_from([3, 40]))
@settings(max_examples=30, deadline=None)
def test_the_intercept_makes_the_mean_probability_the_prevalence(seed, count):
    probabilities, outcomes, weights = draw_outcomes(seed, count)
    for row, intercept in zip(weights, calibration_intercept(probabilities, outcomes, weights), strict=True):
        if len(np.unique(outcomes[row > 0])) < 2:
            assert np.isnan(intercept)
            continue

        def excess(shift, row=row):
            return row @ (1 / (1 + np.exp(-logit(probabilities) - shift)) - outcomes)

        assert intercept == pytest.approx(brentq(excess, -30, 30, xtol=1e-12), abs=1e-8)


def test_probabilities_that_are_too_bold_have_a_slope_below_one():
    generator = np.random.default_rng(0)
    truth = generator.normal(size=20_000)
    outcomes = generator.random(20_000) < 1 / (1 + np.exp(-truth))
    ones = np.ones((1, 20_000))
    bold = 1 / (1 + np.exp(-2 * truth))
    assert calibration_slope(bold, outcomes, ones).item() == pytest.approx(0.5, abs=0.03)
    low = 1 / (1 + np.exp(1 - truth))
    assert calibration_intercept(low, outcomes, ones).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("probabilities", "outcomes"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]),
        ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]),  # they touch
        ([0.3, 0.3, 0.3, 0.3], [0, 1, 0, 1]),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 1, 1]),
    ],
)
def test_outcomes_that_are_separated_have_no_slope(probabilities, outcomes):
    found = calibration_slope(np.array(probabilities), np.array(outcomes, dtype=bool), np.ones((2, 4)))
    assert np.isnan(found).all()


def test_a_slope_beyond_all_bounds_is_none_and_leaves_the_other_rows_alone():
    probabilities = np.array([0.001, 0.5, 0.5 + 1e-7, 0.5001, 0.999, 0.3, 0.6])
    outcomes = np.array([False, True, False, True, True, True, False])
    weights = np.array([[1.0, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    alone = calibration_slope(probabilities, outcomes, weights[1:])
    both = calibration_slope(probabilities, outcomes, weights)
    assert np.isnan(both[0])
    assert both[1] == pytest.approx(alone.item())
    assert 0 < alone.item() < 2


def test_nothing_drawn_has_neither():
    probabilities, outcomes, _ = draw_outcomes(1)
    nothing = np.zeros((1, len(outcomes)))
    assert np.isnan(calibration_slope(probabilities, outcomes, nothing)).all()
    assert np.isnan(calibration_intercept(probabilities, outcomes, nothing)).all()
