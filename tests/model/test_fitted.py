import dataclasses

import numpy as np
import pytest

from rust_optuna.learn.fitting import FittedFold
from rust_optuna.model.fitted import out_of_fold
from rust_optuna.search.evaluation import FoldPoint
from tests.learn.material import hashes, make_development


@pytest.fixture
def development():
    return make_development(hashes(12))


def fold_of(development, fold, score):
    rows = np.flatnonzero(development.folds == fold)
    labels = development.labels[rows]
    films = np.array(development.content, dtype="U64")[rows]
    return FittedFold((0.5,), films, labels, np.full(labels.shape, score, dtype=np.float32), head=None)


@pytest.mark.parametrize("order", [1, -1])
def test_out_of_fold_scores_are_by_the_first_training_seed_alone(development, order):
    trained = [(repeat, fold) for repeat in (0, 1) for fold in range(3)][::order]
    points = [FoldPoint(repeat, fold, report=None) for repeat, fold in trained]
    folds = [fold_of(development, fold, (1 + fold + 3 * repeat) / 10) for repeat, fold in trained]
    films = out_of_fold(development, points, folds, {film: film[:8] for film in development.content})
    expected = np.repeat((1 + development.folds[:, np.newaxis]) / 10, 18, axis=1)
    np.testing.assert_allclose(films.scores, expected, rtol=1e-6)


def test_out_of_fold_films_keep_the_order_of_the_development_set(development):
    points = [FoldPoint(0, fold, report=None) for fold in range(3)]
    folds = [fold_of(development, fold, 0.5) for fold in range(3)]
    backwards = [dataclasses.replace(fold, films=fold.films[::-1], scores=fold.scores[::-1]) for fold in folds]
    visits = {film: f"visit-{film[:4]}" for film in development.content}
    films = out_of_fold(development, points, backwards, visits)
    assert films.content == development.content
    assert films.visits == tuple(visits[film] for film in development.content)
    np.testing.assert_array_equal(films.labels, development.labels)
