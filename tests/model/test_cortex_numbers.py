import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from rust_optuna.data.manifest import CORTICES, LABELS
from rust_optuna.data.metrics import macro
from rust_optuna.model.bootstrap import patient_weights
from rust_optuna.model.cortex_numbers import cortex_numbers, most_probable, subscore_distribution
from rust_optuna.model.scored import UNREADABLE, Estimate, plain
from tests.model.films import draw_films, readable
from tests.model.slow import assert_bootstrapped

NAMES = ("exact", "within_one", "quadratic_kappa", "unreadable_found", "called_unreadable")


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_distribution_is_that_of_independent_labels_of_which_at_most_one_holds(seed):
    scores = np.random.default_rng(seed).uniform(0.001, 0.999, (2, len(LABELS)))
    found = subscore_distribution(scores)
    for film, cortex in itertools.product(range(2), range(4)):
        of_cortex = scores[film, 2 + 4 * cortex : 6 + 4 * cortex]
        chances = [
            np.prod([score if place == held else 1 - score for place, score in enumerate(of_cortex)])
            for held in range(5)  # 4: none of them
        ]
        np.testing.assert_allclose(found[film, cortex], np.array(chances) / np.sum(chances), rtol=1e-9)


def test_scores_of_zero_and_one_give_distributions_too():
    scores = np.zeros((3, len(LABELS)), dtype=np.float32)
    scores[1, 4] = 1
    scores[2, 2:6] = 1
    found = subscore_distribution(scores)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=2), 1)
    assert found[0, 0, UNREADABLE] > 0.999
    assert found[1, 0, 2] > 0.999
    np.testing.assert_allclose(found[2, 0, :4], 0.25, atol=1e-6)


def share(part, whole):
    return np.mean(part[whole]) if whole.any() else np.nan


def slow_cortex(films, scores, position):
    """Return the numbers of one cortex, counted film by film, and its confusion matrix."""
    shown = [film for film in range(len(films)) if CORTICES[position] in films.cortices[view_of(films, film)]]
    labels = films.classes[shown, position]
    distribution = subscore_distribution(scores)[shown, position]
    called, subscore = distribution.argmax(axis=1), distribution[:, :4].argmax(axis=1)
    is_readable = labels != UNREADABLE
    kappa = np.nan
    if is_readable.any():
        pair = labels[is_readable], subscore[is_readable]
        if len(np.unique(pair)) > 1:
            kappa = cohen_kappa_score(*pair, labels=range(4), weights="quadratic")
    return {
        "exact": share(labels == subscore, is_readable),
        "within_one": share(np.abs(labels - subscore) <= 1, is_readable),
        "quadratic_kappa": kappa,
        "unreadable_found": share(called == UNREADABLE, ~is_readable),
        "called_unreadable": share(called == UNREADABLE, is_readable),
    }, confusion_matrix(labels, called, labels=range(5))


def view_of(films, film):
    return "lateral" if films.labels[film, 1] else "anteroposterior"


def slow_numbers(films):
    found = {}
    for scorer, scores in films.by_scorer.items():
        cortices = {cortex: slow_cortex(films, scores, place)[0] for place, cortex in enumerate(CORTICES)}
        found |= {("cortices", cortex, scorer, name): cortices[cortex][name] for cortex in CORTICES for name in NAMES}
        for name in NAMES:
            values = np.array([cortices[cortex][name] for cortex in CORTICES])
            found["mean", scorer, name] = macro(values)
    return found


@pytest.mark.parametrize(("seed", "levels"), [(1, None), (2, 6)])
def test_numbers_and_intervals_are_those_of_films_that_are_really_repeated(seed, levels):
    assert_bootstrapped(cortex_numbers, slow_numbers, draw_films(seed, 14, levels=levels))


def test_of_classes_that_are_equal_but_for_rounding_the_first_is_called():
    assert 0.1 + 0.2 > 0.3
    assert most_probable(np.array([[0.3, 0.1 + 0.2, 0.2], [0.3, 0.301, 0.2]])).tolist() == [0, 1]


def test_films_are_counted_and_the_document_is_json_without_nan():
    films = draw_films(3, 12)
    document = plain(cortex_numbers(films, patient_weights(films.patients, 20)))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    for position, cortex in enumerate(CORTICES):
        of_cortex = document["cortices"][cortex]
        for scorer, scores in films.by_scorer.items():
            assert of_cortex[scorer]["confusion"] == slow_cortex(films, scores, position)[1].tolist()
        shown = films.shown[:, position]
        assert of_cortex["films"] == shown.sum() == np.sum(of_cortex["model"]["confusion"])
        assert of_cortex["patients"] == len(set(np.array(films.patients)[shown]))
        assert of_cortex["readable"] == (films.classes[shown, position] != UNREADABLE).sum()


def test_a_cortex_that_no_film_shows_has_no_numbers():
    films = draw_films(4, 12)
    films = films.take(np.flatnonzero(films.labels[:, 0]))
    document = cortex_numbers(films, patient_weights(films.patients, 5))
    assert set(document["cortices"]) == set(films.cortices["anteroposterior"])


def test_without_unreadable_films_nothing_is_said_of_finding_them():
    films = draw_films(5, 30)
    films = films.take(np.flatnonzero(readable(films) == 2))
    for of_cortex in cortex_numbers(films, patient_weights(films.patients, 5))["cortices"].values():
        assert of_cortex["readable"] == of_cortex["films"]
        assert of_cortex["model"]["unreadable_found"] == Estimate(None, None, None, 0)


def test_a_baseline_that_calls_all_films_alike_has_no_agreement():
    films = draw_films(6, 30)
    document = plain(cortex_numbers(films, patient_weights(films.patients, 50)))
    for scorer in ("frequencies", "view_only"):
        assert document["mean"][scorer]["quadratic_kappa"]["value"] == pytest.approx(0, abs=1e-12)
    assert document["mean"]["model"]["quadratic_kappa"]["low"] > 0.3
