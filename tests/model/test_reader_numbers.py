import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from rust_optuna.data.manifest import CORTICES
from rust_optuna.model.agreement import intraclass_correlation, krippendorff_alpha
from rust_optuna.model.bootstrap import patient_weights
from rust_optuna.model.cortex_numbers import subscore_distribution
from rust_optuna.model.reader_numbers import reader_numbers
from rust_optuna.model.scored import UNREADABLE, plain
from tests.model.films import draw_films, draw_readers
from tests.model.slow import assert_bootstrapped


def slow_numbers(films):
    """Return the agreement, from tables of ratings that are put together film by film."""
    called = subscore_distribution(films.scores)[:, :, :4].argmax(axis=2) + 1
    found = {}
    for position, cortex in enumerate(CORTICES):
        rows = []
        for film in range(len(films)):
            label, others = films.classes[film, position], films.readers[:, film, position]
            if label != UNREADABLE and not np.isnan(others).all():
                rows.append([label + 1.0, *others, called[film, position]])
        table = np.array(rows).T if rows else np.full((len(films.readers) + 2, 0), np.nan)
        for who, ratings in (("readers", table[:-1]), ("model", table[[0, -1]])):
            once = np.ones((1, ratings.shape[1]))
            pairs = [(a, b) for a in range(len(ratings)) for b in range(a)]
            kappas = [kappa(ratings[a], ratings[b]) for a, b in pairs]
            found["cortices", cortex, "quadratic_kappa", who] = mean(kappas)
            found["cortices", cortex, "intraclass_correlation", who] = intraclass_correlation(ratings, once)[0]
            found["cortices", cortex, "krippendorff_alpha", who] = krippendorff_alpha(ratings, once)[0]
    for name in ("quadratic_kappa", "intraclass_correlation", "krippendorff_alpha"):
        for who in ("readers", "model"):
            found["mean", name, who] = mean([found["cortices", cortex, name, who] for cortex in CORTICES])
    return found


def kappa(first, second):
    both = ~np.isnan(first) & ~np.isnan(second)
    if len(np.unique([first[both], second[both]])) < 2:
        return np.nan
    # Named, or a subscore that nobody gave would bring its neighbours closer together.
    return cohen_kappa_score(first[both], second[both], labels=range(1, 5), weights="quadratic")


def mean(values):
    defined = [value for value in values if not np.isnan(value)]
    return np.mean(defined) if defined else np.nan


def test_agreement_and_its_intervals_are_those_of_films_that_are_really_repeated():
    assert_bootstrapped(reader_numbers, slow_numbers, draw_readers(draw_films(1, 25, skill=1.0)))


def test_a_reader_who_gives_the_labels_agrees_wholly():
    films = draw_films(2, 20)
    labels = np.where(films.classes == UNREADABLE, np.nan, films.classes + 1)
    films = dataclasses.replace(films, readers=np.stack([labels, labels]))
    found = plain(reader_numbers(films, patient_weights(films.patients, 20)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for metric in found["mean"].values():
        assert metric["readers"]["value"] == pytest.approx(1)
        assert metric["readers"]["low"] == pytest.approx(1)
        assert metric["model"]["value"] < 0.99
    for position, cortex in enumerate(CORTICES):
        assert found["cortices"][cortex]["films"] == (films.classes[:, position] != UNREADABLE).sum()


def test_a_cortex_that_no_further_reader_scored_is_left_out():
    films = draw_readers(draw_films(3, 10))
    readers = films.readers.copy()
    readers[:, :, 1:] = np.nan
    weights = patient_weights(films.patients, 5)
    assert list(reader_numbers(dataclasses.replace(films, readers=readers), weights)["cortices"]) == [CORTICES[0]]
    nobody = dataclasses.replace(films, readers=np.full_like(readers, np.nan))
    assert reader_numbers(nobody, weights) == {"cortices": {}, "mean": {}}


def test_films_without_readers_are_refused():
    films = draw_films(4, 3)
    with pytest.raises(ValueError, match="no readers"):
        reader_numbers(films, patient_weights(films.patients, 2))
