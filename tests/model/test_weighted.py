import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from rust_optuna.data import metrics
from rust_optuna.model.weighted import Ranking, divide, mean_of_defined


@st.composite
def ranked_films(draw):
    """One label's films with rows of weights; few distinct scores, so that most are tied."""
    films, rows = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    levels = draw(st.sampled_from([1, 2, 3, 10, 10_000]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = (generator.random(films) < generator.choice([0.0, 0.1, 0.5, 1.0])).astype(np.uint8)
    scores = generator.integers(0, levels, films).astype(np.float32) / np.float32(levels)
    return labels, scores, generator.poisson(1, (rows, films)).astype(np.float64)


PAIRS = [
    ("average_precision", metrics.average_precision),
    ("roc_auc", metrics.roc_auc),
    ("expected_average_precision", metrics.expected_average_precision),
]


@pytest.mark.parametrize(("name", "unweighted"), PAIRS, ids=[name for name, _ in PAIRS])
@given(films=ranked_films())
@settings(max_examples=60, deadline=None)
def test_a_weight_is_that_many_copies(name, unweighted, films):
    labels, scores, weights = films
    weights[0] = 1
    found = getattr(Ranking.of(labels, scores).counts(weights), name)()
    for row, value in zip(weights.astype(int), found, strict=True):
        copies = np.repeat(np.arange(len(labels)), row)
        expected = unweighted(labels[copies, None], scores[copies, None])[0] if copies.size else np.nan
        assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(films=ranked_films())
@settings(max_examples=60, deadline=None)
def test_weighted_metrics_are_those_of_scikit_learn(films):
    labels, scores, weights = films
    counts = Ranking.of(labels, scores).counts(weights)
    pairs = zip(weights, counts.average_precision(), counts.roc_auc(), strict=True)
    for row, precision, area in pairs:
        positives, negatives = row @ labels, row @ (1 - labels)
        if positives:
            expected = average_precision_score(labels, scores, sample_weight=row)
            assert precision == pytest.approx(expected, abs=1e-12)
        if positives and negatives:
            assert area == pytest.approx(roc_auc_score(labels, scores, sample_weight=row), abs=1e-12)


def test_a_film_that_is_left_out_is_as_if_it_were_not_there():
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.8, 0.1])
    whole = Ranking.of(labels[1:], scores[1:]).counts(np.ones((1, 3)))
    without = Ranking.of(labels, scores).counts(np.array([[0.0, 1, 1, 1]]))
    assert without.average_precision() == whole.average_precision() == [0.5]
    assert without.roc_auc() == whole.roc_auc() == [0.75]


def test_a_quotient_and_a_mean_are_not_defined_without_anything_below():
    np.testing.assert_array_equal(divide(np.array([1.0, 0.0]), np.array([2.0, 0.0])), [0.5, np.nan])
    values = np.array([[1.0, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(mean_of_defined(values), [2.0, np.nan])
