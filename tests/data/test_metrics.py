import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from rust_optuna.data.manifest import CORTICES, LABELS, VIEWS
from rust_optuna.data.metrics import (
    average_precision,
    deviation,
    expected_average_precision,
    labels_without_positives,
    lift,
    macro,
    macro_average_precision,
    precision_and_recall,
    roc_auc,
    summarise,
    summarise_untied,
    view_only_scores,
)

PUBLISHED = {"anteroposterior": ("anterior", "posterior"), "lateral": ("medial", "lateral")}


@st.composite
def scored_films(draw):
    """Labels and scores; few distinct scores, so that most are tied, and labels with no or only positives."""
    films, columns = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    levels = draw(st.sampled_from([1, 2, 3, 10, 10_000]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    prevalence = generator.choice([0.0, 0.1, 0.5, 1.0], size=columns)
    labels = (generator.random((films, columns)) < prevalence).astype(np.uint8)
    scores = generator.integers(0, levels, (films, columns)).astype(np.float32) / np.float32(levels)
    return labels, scores


@given(scored_films())
@settings(max_examples=200, deadline=None)
def test_average_precision_is_that_of_scikit_learn(films):
    labels, scores = films
    ours = average_precision(labels, scores)
    for column in range(labels.shape[1]):
        if labels[:, column].any():
            expected = average_precision_score(labels[:, column], scores[:, column])
            assert ours[column] == pytest.approx(expected, abs=1e-12)
        else:
            assert math.isnan(ours[column])


@given(scored_films())
@settings(max_examples=200, deadline=None)
def test_roc_auc_is_that_of_scikit_learn(films):
    labels, scores = films
    ours = roc_auc(labels, scores)
    for column in range(labels.shape[1]):
        if 0 < labels[:, column].sum() < len(labels):
            assert ours[column] == pytest.approx(roc_auc_score(labels[:, column], scores[:, column]), abs=1e-12)
        else:
            assert math.isnan(ours[column])


@given(scored_films())
@settings(max_examples=100, deadline=None)
def test_precision_and_recall_are_scikit_learns_micro_averages(films):
    labels, scores = films
    truth, predicted = labels.ravel(), scores.ravel() >= 0.5
    precision, recall = precision_and_recall(labels, scores)
    assert precision == pytest.approx(precision_score(truth, predicted, zero_division=0))
    assert recall == pytest.approx(recall_score(truth, predicted, zero_division=0))


@given(scored_films())
@settings(max_examples=50, deadline=None)
def test_only_the_order_of_scores_matters(films):
    labels, scores = films
    stretched = np.exp(3 * scores.astype(np.float64)) - 7
    np.testing.assert_array_equal(average_precision(labels, scores), average_precision(labels, stretched))
    np.testing.assert_array_equal(roc_auc(labels, scores), roc_auc(labels, stretched))


def test_a_constant_score_gives_the_prevalence():
    labels = np.array([[1, 0], [0, 0], [0, 1], [1, 1]])
    np.testing.assert_array_equal(average_precision(labels, np.full((4, 2), 0.5)), [0.5, 0.5])
    np.testing.assert_array_equal(roc_auc(labels, np.full((4, 2), 0.5)), [0.5, 0.5])


def test_a_label_without_positives_is_left_out_of_the_mean_without_a_warning():
    labels = np.array([[1, 0], [0, 0]])
    scores = np.array([[0.9, 0.1], [0.2, 0.3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert macro_average_precision(labels, scores) == 1.0
        assert math.isnan(macro_average_precision(labels[:, 1:], scores[:, 1:]))


def test_an_empty_fold_has_no_average_precision():
    assert math.isnan(macro(average_precision(np.zeros((0, 3)), np.zeros((0, 3)))))


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3))),
        (np.zeros(3), np.zeros(3)),
        (np.array([[2.0]]), np.array([[0.0]])),
        (np.array([[1.0]]), np.array([[np.nan]])),
        (np.array([[1.0]]), np.array([[np.inf]])),
    ],
)
@pytest.mark.parametrize("metric", [average_precision, roc_auc, precision_and_recall])
def test_what_cannot_be_scored_is_refused(metric, labels, scores):
    with pytest.raises(ValueError, match=r"shape|films|0 nor 1|finite"):
        metric(labels, scores)


def test_view_only_scores_are_the_frequencies_given_the_view():
    labels = np.array([[1, 0], [1, 1], [0, 1]])
    scores = view_only_scores(["lateral", "lateral", "anteroposterior"], labels, ["anteroposterior", "lateral"])
    np.testing.assert_allclose(scores, [[0.0, 1.0], [1.0, 0.5]])


def test_a_view_that_training_lacks_gets_the_overall_frequencies():
    scores = view_only_scores(["lateral", "lateral"], np.array([[1, 0], [0, 0]]), ["anteroposterior"])
    np.testing.assert_allclose(scores, [[0.5, 0.0]])


def random_fold(seed, films=60):
    generator = np.random.default_rng(seed)
    labels = np.zeros((films, len(LABELS)), dtype=np.uint8)
    view = generator.integers(0, 2, films)
    labels[np.arange(films), view] = 1
    for film in range(films):
        for cortex in PUBLISHED[VIEWS[view[film]]]:
            score = generator.integers(0, 5)
            if score:
                labels[film, LABELS.index(f"{cortex}_{score}")] = 1
    return labels, generator.random((films, len(LABELS))).astype(np.float32)


def test_per_cortex_is_scored_among_the_films_whose_view_shows_it_unreadable_ones_included():
    labels, scores = random_fold(0)
    found = summarise(labels, scores, PUBLISHED)["per_cortex"]
    assert set(found) == set(CORTICES)
    films = labels[:, LABELS.index("view_lateral")] == 1
    columns = [LABELS.index(f"medial_{score}") for score in (1, 2, 3, 4)]
    assert (labels[films][:, columns].sum(axis=1) == 0).any()
    expected = average_precision_score(labels[films][:, columns], scores[films][:, columns], average="macro")
    assert found["medial"] == pytest.approx(expected)


def test_a_fold_is_summarised_as_scikit_learn_would():
    labels, scores = random_fold(1)
    found = summarise(labels, scores, PUBLISHED)
    assert found["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    assert found["average_precision_16"] == pytest.approx(average_precision_score(labels[:, 2:], scores[:, 2:]))
    assert found["roc_auc_macro"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["roc_auc_micro"] == pytest.approx(roc_auc_score(labels, scores, average="micro"))


def test_labels_without_positives_are_named():
    labels, _ = random_fold(3)
    labels[:, LABELS.index("posterior_4")] = 0
    assert labels_without_positives(labels) == ["posterior_4"]


@given(labels=st.lists(st.integers(0, 1), min_size=1, max_size=6).filter(any), data=st.data())
@settings(deadline=None)
def test_expected_average_precision_is_the_mean_over_all_ways_to_break_ties(labels, data):
    scores = data.draw(st.lists(st.integers(0, 2), min_size=len(labels), max_size=len(labels)))
    orders = np.array(list(itertools.permutations(range(len(labels))))).T
    # A hundredth decides between equal scores and never between different ones.
    broken = np.array(scores)[:, None] + orders / 100
    column = np.array(labels)[:, None]
    mean = average_precision(np.repeat(column, broken.shape[1], axis=1), broken).mean()
    assert expected_average_precision(column, np.array(scores)[:, None])[0] == pytest.approx(mean, abs=1e-12)


def test_without_ties_expected_average_precision_is_average_precision():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, (40, 5)), rng.random((40, 5))
    np.testing.assert_allclose(expected_average_precision(labels, scores), average_precision(labels, scores))


def test_expected_average_precision_of_a_label_without_positives_is_not_defined():
    assert np.isnan(expected_average_precision(np.zeros((3, 1)), np.ones((3, 1)))).all()


def test_a_baselines_fold_is_summarised_with_its_ties_broken_at_random():
    labels, scores = random_fold(4)
    tied = scores.round(1)
    each = expected_average_precision(labels, tied)
    found = summarise_untied(labels, tied)
    assert found["average_precision"] == pytest.approx(np.nanmean(each))
    assert found["average_precision_16"] == pytest.approx(np.nanmean(each[2:]))
    assert found["average_precision"] > summarise(labels, tied, PUBLISHED)["average_precision"]


def test_lift_is_the_mean_of_the_folds_differences_with_its_standard_error():
    ours, theirs = [0.6, 0.9, None, 0.5, 0.75], [0.5, 0.6, 0.4, None, 0.25]
    differences = np.array([0.1, 0.3, 0.5])
    mean, error = lift(ours, theirs)
    assert mean == pytest.approx(differences.mean())
    assert error == pytest.approx(differences.std(ddof=1) / math.sqrt(3))
    assert deviation([*differences, None]) == pytest.approx(differences.std(ddof=1))


@pytest.mark.parametrize("folds", [[], [0.5], [0.5, None], [None, None]])
def test_fewer_than_two_folds_have_no_spread_and_no_lift(folds):
    assert deviation(folds) is None
    assert lift(folds, folds) is None
