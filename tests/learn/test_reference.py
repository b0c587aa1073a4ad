"""The training loop against plain Keras: a model, an optimizer, `train_on_batch`. No speed from changed maths."""

import itertools
import tomllib

import numpy as np
import pytest

from rust_optuna.data.metrics import macro_average_precision
from rust_optuna.learn import program
from rust_optuna.learn.cross_validation import cross_validate, fold_seed
from rust_optuna.learn.head import initial_weights, keras_head
from rust_optuna.learn.training import FoldTrainer
from tests.learn.material import make_labels
from tests.studies import REPOSITORY

pytestmark = pytest.mark.tensorflow

WIDTH, UNITS, FILMS, BATCH = 24, (16, 8), 60, 15
with (REPOSITORY / "studies" / "regime_2.toml").open("rb") as file:
    SPACE = tomllib.load(file)["search_space"]
GRID = list(itertools.product(SPACE["learning_rate"], SPACE["epsilon"]))
ENDS = (min(SPACE["epsilon"]), max(SPACE["epsilon"]))


class Reference:
    """Plain Keras on made-up features."""

    def __init__(self, learning_rate, epsilon, seed=1, weights=None):
        import keras

        weights = initial_weights(WIDTH, UNITS, seed) if weights is None else weights
        self.model = keras_head(WIDTH, UNITS, 0.0, weights)
        self.optimizer = keras.optimizers.Adam(learning_rate, epsilon=epsilon)
        self.model.compile(self.optimizer, keras.losses.BinaryCrossentropy(), jit_compile=False)
        self.optimizer.build(self.model.trainable_variables)

    def step(self, x, y):
        self.model.train_on_batch(x, y)

    def state(self):
        """Return ours with the same weights, moments and number of steps."""
        state = program.new_state(self.model.get_weights())
        for slots, name in ((state.first_moments, "_momentums"), (state.second_moments, "_velocities")):
            for ours, theirs in zip(slots, getattr(self.optimizer, name), strict=True):
                ours.assign(theirs.numpy())
        state.steps.assign(int(self.optimizer.iterations.numpy()))
        return state


def batches(steps, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((FILMS, WIDTH)).astype(np.float32)
    y = make_labels(FILMS).astype(np.float32)
    for _ in range(steps):
        rows = generator.permutation(FILMS)[:BATCH]
        yield x, y, rows


def ours(state, settings, x, y, rows):
    import tensorflow as tf

    program.train(state, settings, tf.constant(x), rows, y[rows], BATCH)


def test_the_grid_is_the_published_one():
    assert len(GRID) == 32


@pytest.mark.parametrize(
    ("learning_rate", "epsilon"),
    [pytest.param(*point, marks=() if point[1] in ENDS else pytest.mark.long) for point in GRID],
)
def test_a_step_from_any_point_of_a_reference_run_is_keras_s(learning_rate, epsilon):
    """Weights differ by less than 1e-6 of the largest, every one of them.

    But 4e-6 at a learning rate of 0.1, where single steps move weights by 0.1 and a gradient that is nothing but
    rounding is divided by itself.
    """
    tolerance = max(1e-6, 4e-5 * learning_rate)
    reference = Reference(learning_rate, epsilon)
    settings = program.new_settings(learning_rate, epsilon, 0.0, seed=0)
    for step, (x, y, rows) in enumerate(batches(24)):
        state = reference.state() if step % 3 == 0 else None
        reference.step(x[rows], y[rows])
        if state is None:
            continue
        ours(state, settings, x, y, rows)
        for mine, theirs in zip(state.weights, reference.model.get_weights(), strict=True):
            scale = max(1.0, float(np.abs(theirs).max()))
            np.testing.assert_allclose(mine.numpy(), theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("learning_rate", SPACE["learning_rate"])
def test_fifty_free_steps_stay_together_where_epsilon_is_large(learning_rate):
    reference = Reference(learning_rate, 0.1)
    state = reference.state()
    settings = program.new_settings(learning_rate, 0.1, 0.0, seed=0)
    for x, y, rows in batches(50):
        reference.step(x[rows], y[rows])
        ours(state, settings, x, y, rows)
    for mine, theirs in zip(state.weights, reference.model.get_weights(), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=0, atol=1e-5)


def test_a_whole_trial_scores_as_keras_does_within_the_spread_of_seeds(random_source, development, trial):
    """The same order, flips and initial weights, no dropout: what is left is rounding, amplified by training."""
    from dataclasses import replace

    point = replace(trial, dropout_rate=0.0, epochs=12, batch_size=8, learning_rate=3e-3, hidden_units=UNITS)
    source = random_source(width=WIDTH)

    def value(seed):
        return cross_validate(development, source, point, seed=seed, point=0, on_epoch=lambda *_: None).report.value

    values = [value(seed) for seed in range(5)]
    assert abs(values[0] - keras_value(source, development, point, seed=0)) <= max(values) - min(values)


def keras_value(source, development, point, seed):
    """Return a trial's value by plain Keras, fold by fold."""
    curves = []
    for fold in np.unique(development.folds):
        training, validation = np.flatnonzero(development.folds != fold), np.flatnonzero(development.folds == fold)
        reference_seed = fold_seed(seed, 0, int(fold))
        order = FoldTrainer(source, development.labels, training, point, reference_seed).order
        model = Reference(point.learning_rate, point.epsilon, reference_seed)
        labels = development.labels.astype(np.float32)
        curve = []
        for epoch in range(1, point.epochs + 1):
            films, flips = order(epoch)
            table, rows = source.gather(films, flips)
            x = table.numpy()[rows]
            for start in range(0, len(films), point.batch_size):
                batch = slice(start, start + point.batch_size)
                model.step(x[batch], labels[films[batch]])
            scores = model.model.predict(source.unflipped(validation).numpy(), verbose=0)
            curve.append(macro_average_precision(development.labels[validation], scores))
        curves.append(curve)
    return float(np.mean(curves, axis=0).max())
