import gc
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rust_optuna.config import TrialConfiguration
from rust_optuna.learn import program
from rust_optuna.learn.features import Features
from rust_optuna.learn.head import Standardisation, initial_weights, keras_head
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.learn.training import FoldTrainer
from tests.learn.material import BACKBONE, make_labels

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).parents[2]
FILMS, WIDTH = 41, 24
LABELS = make_labels(FILMS)


@pytest.fixture
def trainer(random_source, trial):
    def make(films=30, seed=5, **changes):
        return FoldTrainer(random_source(), LABELS, np.arange(films), replace(trial, **changes), seed)

    return make


def run(trainer, epochs=3):
    losses = [trainer.train_epoch(epoch) for epoch in range(1, epochs + 1)]
    return losses, trainer.weights, trainer.predict(np.arange(FILMS))


def assert_equal(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    for first, second in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one[2], other[2])


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize(("learning_rate", "epsilon"), [(1e-3, 1e-7), (1e-1, 1e-1), (1e-4, 1e-8)])
def test_single_steps_are_those_of_keras(learning_rate, epsilon, standardised):
    import keras
    import tensorflow as tf

    generator = np.random.default_rng(0)
    table = generator.standard_normal((FILMS, 4, WIDTH)).astype(np.float32) + 2
    fitted = Standardisation.fit(table) if standardised else None
    weights = initial_weights(WIDTH, (16, 8), 1)
    state = program.new_state(weights)
    settings = program.new_settings(learning_rate, epsilon, 0.0, 0, fitted)
    model = keras_head(WIDTH, (16, 8), 0.0, weights, fitted)
    optimizer = keras.optimizers.Adam(learning_rate, epsilon=epsilon)
    model.compile(optimizer, keras.losses.BinaryCrossentropy(), jit_compile=False)
    for _ in range(3):
        rows = generator.permutation(FILMS)[:10]
        targets = LABELS[rows].astype(np.float32)
        done = program.train(state, settings, tf.constant(table[:, 0]), rows, targets, 10)
        expected = model.train_on_batch(table[rows, 0], targets)
        # Keras computes the loss from probabilities, clipped at 1e-7.
        assert done.loss == pytest.approx(float(np.ravel(expected)[0]), abs=1e-5)
        for ours, theirs in zip(state.weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6, atol=1e-6)
        # Rounding is amplified by training: each step starts from the same weights.
        for ours, theirs in zip(state.weights, model.get_weights(), strict=True):
            ours.assign(theirs)
        for slots, name in ((state.first_moments, "_momentums"), (state.second_moments, "_velocities")):
            for ours, theirs in zip(slots, getattr(optimizer, name), strict=True):
                ours.assign(theirs.numpy())


@pytest.mark.parametrize(
    ("films", "asked", "trained", "steps"),
    [(30, 7, 7, 5), (30, 10, 10, 3), (30, 30, 30, 1), (30, 31, 30, 1), (30, 2048, 30, 1), (1, 16, 1, 1), (9, 1, 1, 9)],
)
def test_the_batch_size_asked_for_is_the_one_trained(trainer, films, asked, trained, steps):
    made = trainer(films, batch_size=asked)
    assert made.batch_size == trained
    for epoch in (1, 2):
        made.train_epoch(epoch)
        assert made.steps == epoch * steps


def test_the_short_last_batch_is_trained_with_the_mean_of_its_own_losses(random_source):
    """Batches of 4 over 10 films take the steps that 4, 4 and 2 films take one by one."""
    import tensorflow as tf

    table = tf.constant(np.random.default_rng(0).standard_normal((10, WIDTH)).astype(np.float32))
    rows, targets = np.random.default_rng(1).permutation(10), LABELS[:10].astype(np.float32)
    settings = program.new_settings(1e-2, 1e-3, 0.5, seed=3)
    weights = initial_weights(WIDTH, (16, 8), 1)
    at_once, one_by_one = program.new_state(weights), program.new_state(weights)
    together = program.train(at_once, settings, table, rows, targets, 4)
    loss, sizes = 0.0, []
    for batch in (slice(0, 4), slice(4, 8), slice(8, 10)):
        done = program.train(one_by_one, settings, table, rows[batch], targets[batch], 4, loss)
        loss = done.loss
        sizes.append(done.first_batch)
    assert (together.steps, together.first_batch, sizes) == (3, 4, [4, 4, 2])
    assert together.loss == loss
    for first, second in zip(at_once.weights, one_by_one.weights, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_a_wrong_first_batch_is_noticed(trainer, monkeypatch):
    made = trainer(batch_size=7)
    honest = program.train
    monkeypatch.setattr(program, "train", lambda *given: honest(*given[:5], 8, *given[6:]))
    with pytest.raises(RuntimeError, match="the batch size is 7, but the first batch had 8"):
        made.train_epoch(1)


def test_each_epoch_trains_every_film_once_in_a_new_order_and_flips_by_its_seed(trainer):
    made = trainer(30)
    epochs = [made.order(epoch) for epoch in range(1, 60)]
    for films, _ in epochs:
        np.testing.assert_array_equal(np.sort(films), np.arange(30))
    assert len({tuple(films) for films, _ in epochs}) == 59
    np.testing.assert_allclose(np.bincount(np.concatenate([flips for _, flips in epochs])) / (59 * 30), 0.25, atol=0.04)
    np.testing.assert_array_equal(made.order(7), trainer(30).order(7))
    assert (made.order(7)[0] != trainer(30, seed=6).order(7)[0]).any()


@pytest.mark.parametrize(
    ("flips", "found"), [("none", {0}), ("horizontal", {0, 1}), ("vertical", {0, 2}), ("both", {0, 1, 2, 3})]
)
def test_only_the_flips_asked_for_are_drawn_and_the_order_is_the_same(trainer, flips, found):
    films, drawn = trainer(flips=flips).order(1)
    assert set(drawn.tolist()) == found
    np.testing.assert_array_equal(films, trainer().order(1)[0])


@pytest.mark.parametrize("rate", [0.0, 0.2045, 0.5])
def test_dropout_drops_the_share_asked_for_and_keeps_the_mean(rate):
    import tensorflow as tf

    x = np.ones((500, 400), np.float32)
    kept = program.dropped(tf.constant(x), tf.constant(rate, tf.float32), tf.constant([3, 4], tf.int64)).numpy()
    assert (kept == 0).mean() == pytest.approx(rate, abs=0.004)
    assert kept.mean() == pytest.approx(1, abs=0.008)
    np.testing.assert_allclose(np.unique(kept[kept > 0]), [1 / (1 - round(rate * 65536) / 65536)], rtol=1e-7)


def test_each_layer_step_and_seed_drops_other_values():
    import tensorflow as tf

    masks = [
        program.dropped(tf.ones((20, 20)), tf.constant(0.5), tf.constant(seed, tf.int64)).numpy()
        for seed in ([1, 0], [1, 1], [2, 0], [1, 0])
    ]
    assert (masks[0] == masks[3]).all()
    assert all((masks[0] != mask).any() for mask in masks[1:3])


def test_prediction_drops_nothing(trainer):
    made = trainer(dropout_rate=0.9)
    np.testing.assert_array_equal(made.predict(np.arange(9)), made.predict(np.arange(9)))
    scores = trainer(dropout_rate=0.0).predict(np.arange(9))
    np.testing.assert_array_equal(made.predict(np.arange(9)), scores)
    assert scores.dtype == np.float32
    assert scores.shape == (9, 18)


def test_it_learns(trainer):
    losses, _, _ = run(trainer(dropout_rate=0.1, learning_rate=1e-2, flips="none"), epochs=60)
    assert losses[-1] < losses[0] / 4


def test_the_same_seed_gives_the_same_bits_alone_after_others_and_beside_them(trainer):
    alone = run(trainer())
    run(trainer(seed=9, batch_size=16, dropout_rate=0.5, hidden_units=(4,)))
    assert_equal(run(trainer()), alone)
    one, other = trainer(), trainer(seed=6)
    for epoch in (1, 2, 3):
        one.train_epoch(epoch)
        other.train_epoch(epoch)
    np.testing.assert_array_equal(one.predict(np.arange(FILMS)), alone[2])
    assert (other.predict(np.arange(FILMS)) != alone[2]).any()


def test_a_fresh_process_gives_the_same_bits_as_one_that_ran_other_trials(trainer):
    for films in (30, 29):
        run(trainer(films, batch_size=3))
    code = "from tests.learn.test_training import fresh_scores\nprint(fresh_scores())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.stdout.strip() == fresh_scores(), done.stderr


def fresh_scores():
    """Return a hash of the scores after three epochs of a trainer that needs no fixture."""
    table = np.random.default_rng(7).standard_normal((FILMS, 4, 300)).astype(np.float32)
    settings = TrialConfiguration(
        batch_size=16, dropout_rate=0.2, learning_rate=1e-3, epsilon=1e-7, backbone=BACKBONE, hidden_units=(128, 64)
    )
    made = FoldTrainer(CachedFeatures(Features(table, "of no file")), LABELS, np.arange(35), settings, seed=3)
    return hashlib.sha256(run(made)[2].tobytes()).hexdigest()


def test_another_trial_traces_no_other_program(trainer):
    for films in (30, 29):
        run(trainer(films))
    before = program.traces()
    run(trainer(28, batch_size=3, dropout_rate=0.1, learning_rate=1e-2, epsilon=1e-3, flips="none"))
    assert program.traces() == before


def test_bfloat16_steps_are_float32_steps_with_rounded_products():
    """The gradient of one step, seen through plain Adam at a large epsilon, differs by bfloat16's rounding alone."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    table = tf.constant(generator.standard_normal((FILMS, WIDTH)).astype(np.float32))
    rows, targets = np.arange(FILMS), LABELS.astype(np.float32)
    weights = initial_weights(WIDTH, (64, 32), 1)
    changes = {}
    for precision in ("float32", "bfloat16"):
        state = program.new_state(weights)
        settings = program.new_settings(1.0, 1e3, 0.0, seed=0, precision=precision)
        program.train(state, settings, table, rows, targets, FILMS)
        assert {tensor.dtype for tensor in (*state.weights, *state.first_moments)} == {tf.float32}
        changes[precision] = np.concatenate([m.numpy().ravel() for m in state.first_moments])
    exact, rough = changes["float32"], changes["bfloat16"]
    assert 0 < np.linalg.norm(rough - exact) < 0.03 * np.linalg.norm(exact)


def test_bfloat16_learns_and_drops_the_same_values(trainer):
    losses, weights, scores = run(trainer(learning_rate=1e-2, flips="none", training_precision="bfloat16"), epochs=60)
    assert losses[-1] < losses[0] / 3
    assert {array.dtype for array in (*weights, scores)} == {np.dtype(np.float32)}
    exact = run(trainer(), epochs=1)[2]
    rough = run(trainer(training_precision="bfloat16"), epochs=1)[2]
    # Another dropout mask would change the scores by ten times as much.
    assert 0 < np.abs(rough - exact).max() < 0.02


def test_memory_stays_flat_over_trials(trainer):
    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 2**20

    def one_trial(seed):
        # 2 MB of weights and as much again twice.
        run(trainer(seed=seed, hidden_units=(2048, 256)), epochs=1)

    for seed in range(5):
        one_trial(seed)
    before = resident()
    for seed in range(30):
        one_trial(seed)
    assert resident() < before + 40


def test_a_fold_without_training_films_is_refused(trainer):
    with pytest.raises(ValueError, match="no training films"):
        trainer(0)
