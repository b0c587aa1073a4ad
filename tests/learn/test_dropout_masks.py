"""Dropout drops other values at each step, in each layer, fold, epoch and film: seen through the compiled program.

What a step dropped shows in its gradients. The heads here have all their hidden units open and alike, so a row of a
kernel's gradient is zero exactly where the unit that feeds it was dropped.
"""

from dataclasses import replace

import numpy as np
import pytest

from rust_optuna.learn import program, training
from rust_optuna.learn.cross_validation import cross_validate
from rust_optuna.learn.runtime import load_tensorflow
from tests.learn.material import hashes, make_development

pytestmark = pytest.mark.tensorflow

UNITS, EPOCHS = 400, 2
LIMIT = 6 / np.sqrt(UNITS)
"""Six standard deviations of the correlation of two independent masks; there are 10,000 pairs."""


def open_weights(width, hidden_units, seed):
    """Return weights under which every hidden unit gives 1 whatever enters, and every error reaches it."""
    sizes = [width, *hidden_units]
    hidden = [each for pair in zip(sizes, hidden_units, strict=False) for each in (np.zeros(pair), np.ones(pair[1]))]
    last = [np.full((hidden_units[-1], 18), 1e-3), np.zeros(18)]
    return [array.astype(np.float32) for array in (*hidden, *last)]


def kept(state):
    """Return what each hidden layer kept in the step just taken: the first moments were zero before it."""
    return [(moment.numpy() != 0).any(axis=1) for moment in state.first_moments[2::2]]


@pytest.fixture
def masks(monkeypatch, random_source, trial):
    """(fold, epoch, step, layer) → ±1 for each unit, kept or dropped, as cross-validation trains."""
    seen = {}
    honest = program.train

    def watched(state, settings, table, rows, targets, batch_size, loss=0.0, *more, **others):
        assert batch_size == 1
        for row in range(len(rows)):
            for moment in state.first_moments:
                moment.assign(np.zeros(moment.shape, np.float32))
            one = slice(row, row + 1)
            done = honest(state, settings, table, rows[one], targets[one], 1, loss, *more, **others)
            loss = done.loss
            seen.setdefault(int(settings.seed.numpy()), []).append(kept(state))
        return program.Progress(loss, len(rows), 1)

    monkeypatch.setattr(program, "train", watched)
    monkeypatch.setattr(training, "initial_weights", open_weights)
    development = make_development(hashes(18))
    # Steps too small to move a weight.
    changes = {"dropout_rate": 0.5, "batch_size": 1, "learning_rate": 1e-30, "epochs": EPOCHS}
    settings = replace(trial, hidden_units=(UNITS, UNITS), **changes)
    source = random_source(18, width=3)
    cross_validate(development, source, settings, seed=1, point=0, on_epoch=lambda *_: None)
    folds = [np.array(steps).reshape(EPOCHS, -1, 2, UNITS) for steps in seen.values()]
    return np.where(folds, 1.0, -1.0)


def correlation(one, other):
    """Return the correlations of masks: each of ``one`` with that of ``other`` in its place."""
    return (one * other).mean(axis=-1)


def test_masks_of_two_steps_layers_folds_and_epochs_are_independent(masks):
    folds, epochs, steps, layers, _ = masks.shape
    assert (folds, epochs, steps, layers) == (3, EPOCHS, 12, 2)
    assert abs(masks.mean(axis=-1)).max() < LIMIT
    pairs = {
        "folds": correlation(masks[1:], masks[:-1]),
        "epochs": correlation(masks[:, 1:], masks[:, :-1]),
        "steps": correlation(masks[:, :, 1:], masks[:, :, :-1]),
        "layers": correlation(masks[:, :, :, 1:], masks[:, :, :, :-1]),
    }
    assert {name: float(abs(found).max()) for name, found in pairs.items() if abs(found).max() >= LIMIT} == {}
    # And of any two masks at all, whatever lies between them.
    every = masks.reshape(-1, UNITS)
    between = every @ every.T / UNITS
    assert abs(between[~np.eye(len(every), dtype=bool)]).max() < LIMIT


def test_masks_of_two_films_of_a_batch_are_independent():
    """A film with a label of its own, under a last layer that errs on it alone, is a column of the gradient."""
    import tensorflow as tf

    weights = open_weights(3, (UNITS,), 0)
    # Scores of zero: nothing is wrong but each film's own label.
    weights[-2][:], weights[-1][:] = 0, -200
    state, settings = program.new_state(weights), program.new_settings(1e-30, 1.0, 0.5, seed=1)
    program.train(state, settings, tf.ones((18, 3)), np.arange(18), np.eye(18, dtype=np.float32), 18)
    films = np.where(state.first_moments[-2].numpy().T != 0, 1.0, -1.0)
    assert abs(films.mean(axis=-1)).max() < LIMIT
    between = films @ films.T / UNITS
    assert abs(between[~np.eye(18, dtype=bool)]).max() < LIMIT


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.1, 0.25, 0.3, 0.5, 0.9, 0.99, 0.999999])
def test_of_all_draws_there_are_the_rates_share_is_dropped_and_the_mean_is_kept(monkeypatch, rate):
    """A draw is one of 65,536, so the share is the rate to half of one of them; 1 in 65,536 is always kept."""
    tf = load_tensorflow()
    every = np.arange(65536, dtype=np.uint16).view(np.uint32).reshape(64, 512)
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *_, **__: tf.constant(every))
    dropped = program.dropped(tf.ones((64, 1024)), tf.constant(rate, tf.float32), seed=None).numpy()
    share = (dropped == 0).mean()
    assert abs(share - min(rate, 1 - 1 / 65536)) <= 2**-17
    assert dropped.mean(dtype=np.float64) == pytest.approx(1, rel=1e-6)
