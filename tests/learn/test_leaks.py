"""Nothing of a fold's training comes from the films that validate it."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from rust_optuna.learn import trainers
from rust_optuna.learn.cross_validation import cross_validate
from rust_optuna.learn.training import FoldTrainer

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def trained(monkeypatch, development, trial):
    """Cross-validate on a table of features; return each fold's weights in the end, and all scores."""
    from rust_optuna.learn.features import Features
    from rust_optuna.learn.sources import CachedFeatures

    def run(table, **changes):
        folds = {}

        class Kept(FoldTrainer):
            def train_epoch(self, epoch):
                loss = super().train_epoch(epoch)
                folds[self.seed] = self.weights
                return loss

        monkeypatch.setattr(trainers, "FoldTrainer", Kept)
        source = CachedFeatures(Features(table, hashlib.sha256(table.data).hexdigest()))
        settings = replace(trial, **changes)
        found = cross_validate(development, source, settings, seed=1, point=0, on_epoch=lambda *_: None)
        return [folds[seed] for seed in found.report.seeds.folds], found.out_of_fold.scores

    return run


@pytest.mark.parametrize("standardize", [False, True])
def test_a_film_of_wild_features_changes_nothing_in_the_fold_that_it_validates(trained, development, standardize):
    table = np.random.default_rng(0).standard_normal((len(development.content), 4, 24)).astype(np.float32)
    wild, film = table.copy(), 11
    wild[film] = 1e4 * np.random.default_rng(1).standard_normal((4, 24))
    # One epoch, for whose scores are kept would depend on the fold's own.
    settings = {"standardize": standardize, "epochs": 1, "learning_rate": 1e-2}
    (weights, scores), (wild_weights, wild_scores) = trained(table, **settings), trained(wild, **settings)
    for fold in range(3):
        same = [(one == other).all() for one, other in zip(weights[fold], wild_weights[fold], strict=True)]
        assert all(same) == (fold == development.folds[film])
    others = (development.folds == development.folds[film]) & (np.arange(len(table)) != film)
    np.testing.assert_array_equal(scores[others], wild_scores[others])
    assert (scores[film] != wild_scores[film]).any()
