from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rust_optuna.learn import fitting
from rust_optuna.learn.fitting import fit_fold, fit_whole, load_fold, load_head, save_fold, save_head
from rust_optuna.learn.head import keras_head
from rust_optuna.learn.training import FoldTrainer

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def fold(development, random_source, trial):
    def fit(number=1, seed=11, **changes):
        source = random_source(len(development.content))
        return fit_fold(development, source, replace(trial, **changes), fold=number, seed=seed)

    return fit


def test_a_fold_trains_all_its_epochs_on_the_other_folds_and_keeps_the_last(development, random_source, trial, fold):
    source = random_source(len(development.content))
    training = np.flatnonzero(development.folds != 1)
    trainer = FoldTrainer(source, development.labels, training, trial, 11)
    for epoch in range(1, trial.epochs + 1):
        trainer.train_epoch(epoch)
    fitted = fold()
    assert len(fitted.curve) == trial.epochs
    for kept, trained in zip(fitted.head.weights, trainer.weights, strict=True):
        np.testing.assert_array_equal(kept, trained)
    left_out = np.flatnonzero(development.folds == 1)
    assert fitted.films.tolist() == [development.content[row] for row in left_out]
    np.testing.assert_allclose(fitted.scores, trainer.predict(left_out), rtol=1e-5)
    columns = [c for c in range(18) if fitted.labels[:, c].any()]
    by_sklearn = [average_precision_score(fitted.labels[:, c], fitted.scores[:, c]) for c in columns]
    assert fitted.value == pytest.approx(np.mean(by_sklearn), abs=1e-12)
    assert fitted.curve[-1] == pytest.approx(fitted.value, abs=1e-6)


def test_the_last_epoch_counts_even_where_an_earlier_one_scored_higher(fold):
    fitted = fold(epochs=12, learning_rate=0.05)
    assert max(fitted.curve) > fitted.curve[-1]
    assert fitted.value == pytest.approx(fitted.curve[-1], abs=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
def test_a_head_scores_a_film_alike_whichever_films_are_beside_it(fold, standardize):
    head = fold(standardize=standardize).head
    features = np.random.default_rng(1).standard_normal((150, head.width)).astype(np.float32)
    together = head.scores(features)
    one_by_one = np.concatenate([head.scores(features[row : row + 1]) for row in range(len(features))])
    np.testing.assert_array_equal(one_by_one, together)
    by_keras = keras_head(head.width, head.hidden_units, 0.0, head.weights, head.standardisation)
    np.testing.assert_allclose(together, by_keras.predict(features, verbose=0), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
def test_what_is_kept_of_a_fold_is_what_was_fitted(fold, tmp_path, standardize):
    fitted = fold(standardize=standardize)
    save_fold(tmp_path / "fold.npz", fitted)
    kept = load_fold(tmp_path / "fold.npz")
    assert (kept.curve, kept.value, kept.head.sha256) == (fitted.curve, fitted.value, fitted.head.sha256)
    np.testing.assert_array_equal(kept.scores, fitted.scores)
    save_head(tmp_path / "head.npz", fitted.head)
    assert load_head(tmp_path / "head.npz").sha256 == fitted.head.sha256


def test_the_checksum_of_a_head_covers_all_that_its_scores_depend_on(fold):
    head = fold(standardize=True).head
    nudged = [array.copy() for array in head.weights]
    nudged[0][0, 0] += 1e-3
    others = [
        replace(head, weights=tuple(nudged)),
        replace(head, standardisation=None),
        replace(head, standardisation=replace(head.standardisation, scale=head.standardisation.scale * 2)),
        replace(head, precision="bfloat16"),
    ]
    assert len({head.sha256, *(other.sha256 for other in others)}) == 5


def test_another_seed_or_fold_gives_another_head(fold):
    assert len({fold().head.sha256, fold(seed=12).head.sha256, fold(number=2).head.sha256}) == 3
    assert fold().head.sha256 == fold().head.sha256


def test_the_head_of_all_films_is_trained_on_every_film(development, random_source, trial):
    source = random_source(len(development.content))
    trainer = FoldTrainer(source, development.labels, np.arange(len(development.content)), trial, 3)
    for epoch in range(1, trial.epochs + 1):
        trainer.train_epoch(epoch)
    epochs = []
    head = fit_whole(development, source, trial, seed=3, on_epoch=epochs.append)
    assert epochs == [1, 2, 3]
    for kept, trained in zip(head.weights, trainer.weights, strict=True):
        np.testing.assert_array_equal(kept, trained)


def test_training_that_diverges_gives_no_model(fold, development, random_source, trial):
    with pytest.raises(ValueError, match="training diverged in epoch"):
        fold(learning_rate=1e30)
    with pytest.raises(ValueError, match="training diverged in epoch"):
        fit_whole(development, random_source(41), replace(trial, learning_rate=1e30), seed=1)


def test_scores_of_a_fold_are_the_kept_head_s(fold, monkeypatch):
    monkeypatch.setattr(fitting.Head, "scores", lambda head, features: np.full((len(features), 18), 0.25, np.float32))
    assert (fold().scores == 0.25).all()
