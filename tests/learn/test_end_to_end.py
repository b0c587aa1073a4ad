"""Training end to end, compared with plain Keras and with slow, obvious versions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.manifest import LABELS
from tests.learn.end_to_end_material import INCEPTION_SIZE, LENET_SIZE, inception, lenet, planted

pytestmark = pytest.mark.tensorflow


def make(trial, count=12, seed=7, films=None, noise=True, **options):
    from rust_optuna.learn.end_to_end import EndToEndTrainer

    pixels, labels = planted(count, trial.backbone.image_size, noise=noise)
    trainer = EndToEndTrainer(pixels, labels, np.arange(count) if films is None else films, trial, seed, **options)
    return trainer, pixels, labels


def batches(trainer, pixels, labels, epoch=1):
    """Return an epoch's films as floats in training order, flipped by NumPy, with their targets."""
    films, flips = trainer.order(epoch)
    grey = pixels.images[films].astype(np.float64) / 255 * 2 - 1
    grey = np.stack(
        [f[:: -1 if flip & 2 else 1, :: -1 if flip & 1 else 1] for f, flip in zip(grey, flips, strict=True)]
    )
    return grey.astype(np.float32)[..., None], labels[films].astype(np.float32)


def compiled(model, trial):
    """Return a Keras model with the optimizer and loss of a trial."""
    from rust_optuna.learn.runtime import load_keras

    adam = load_keras().optimizers.Adam(trial.learning_rate, epsilon=trial.epsilon)
    model.compile(adam, "binary_crossentropy", jit_compile=False)
    return model


def keras_lenet(size):
    from rust_optuna.learn.runtime import load_keras

    keras = load_keras()
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            layers.Conv2D(6, 5, activation="tanh", padding="same"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(1024, activation="relu"),
            layers.Dense(len(LABELS), activation="sigmoid"),
        ]
    )


def keras_inception(trial, weights):
    """Return an ordinary Keras model of InceptionV3 with a head, and its variables in the order of a trainer's."""
    from rust_optuna.learn.head import keras_head
    from rust_optuna.learn.runtime import load_keras

    keras = load_keras()
    size = trial.backbone.image_size
    whole = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(size, size, 3))
    backbone = keras.Model(whole.input, whole.get_layer(trial.backbone.output).output)
    pooled = keras.layers.GlobalMaxPooling2D()(backbone.output)
    head = keras_head(int(pooled.shape[-1]), trial.hidden_units, 0.0)
    model = keras.Model(backbone.input, head(pooled))
    variables = [*backbone.trainable_variables, *head.trainable_variables, *backbone.non_trainable_variables]
    for variable, array in zip(variables, weights, strict=True):
        variable.assign(array)
    return model, variables


def assert_steps_are_close(ours, theirs, before, learning_rate):
    """Adam's first step is about the learning rate wherever there is a gradient, so rounding is measured against it."""
    moved = 0
    for one, other, start in zip(ours, theirs, before, strict=True):
        far = np.abs(one - other) > 0.02 * learning_rate
        # Where a gradient is zero but for rounding, Adam's step has any size.
        assert far.mean() < 0.01, (one.shape, np.abs(one - other).max(), far.mean())
        moved += np.abs(other - start).max() > 0.3 * learning_rate
    assert moved > len(ours) / 2


def test_a_step_of_lenet_is_that_of_keras():
    trial = lenet(micro_batch=12)
    trainer, pixels, labels = make(trial)
    before = trainer.weights
    model = compiled(keras_lenet(LENET_SIZE), trial)
    model.set_weights(before)
    x, y = batches(trainer, pixels, labels)
    expected = model.train_on_batch(x, y)
    assert trainer.train_epoch(1) == pytest.approx(float(expected), rel=1e-5)
    assert_steps_are_close(trainer.weights, model.get_weights(), before, trial.learning_rate)
    assert trainer.steps == 1
    for one, other in zip(trainer.weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3 * trial.learning_rate, rtol=1e-4)


def test_scores_of_lenet_are_those_of_keras():
    trainer, pixels, _ = make(lenet())
    trainer.train_epoch(1)
    model = keras_lenet(LENET_SIZE)
    model.set_weights(trainer.weights)
    x = (pixels.images.astype(np.float32) / 127.5 - 1)[..., None]
    np.testing.assert_allclose(trainer.predict(np.arange(12)), model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.4])
def test_a_batch_in_parts_is_the_step_of_the_whole_batch(dropout_rate):
    """LeNet has no batch normalisation: even a short last micro-batch changes nothing but rounding.

    Three steps show that each begins with gradients of zero; the last batch is short.
    """
    trial = lenet(batch_size=7, dropout_rate=dropout_rate, epsilon=1e-3)
    whole, *_ = make(replace(trial, micro_batch=7), count=18)
    parts, *_ = make(replace(trial, micro_batch=3), count=18)
    before = whole.weights
    losses = [trainer.train_epoch(1) for trainer in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (whole.steps, parts.steps) == (3, 3)
    for one, other, start in zip(parts.weights, whole.weights, before, strict=True):
        moved = np.abs(other - start).max()
        assert moved > 1e-5
        np.testing.assert_allclose(one, other, atol=5e-3 * moved)


def test_dropout_drops():
    losses = [make(lenet(micro_batch=12, dropout_rate=rate))[0].train_epoch(1) for rate in (0.0, 0.4)]
    assert losses[0] != losses[1]


def test_a_batch_in_parts_has_the_gradient_of_the_slow_way_with_batch_normalisation():
    """Each micro-batch has statistics of its own, and each film the same share of the gradient."""
    from rust_optuna.learn.runtime import load_tensorflow

    tf = load_tensorflow()
    trial = inception(batch_size=6, micro_batch=4, epsilon=1.0, learning_rate=1.0, flips="both")
    trainer, pixels, labels = make(trial, count=6)
    before = trainer.weights
    model, variables = keras_inception(trial, before)
    x, y = batches(trainer, pixels, labels)
    x = np.repeat(x, 3, axis=-1)
    trained = [variable for variable in variables if variable.trainable]
    total = [np.zeros(variable.shape) for variable in trained]
    for part in (slice(0, 4), slice(4, 6)):
        with tf.GradientTape() as tape:
            scores = model(x[part], training=True)
            loss = tf.reduce_sum(tf.keras.losses.binary_crossentropy(y[part], scores)) / 6
        for sum_, gradient in zip(total, tape.gradient(loss, [v.value for v in trained]), strict=True):
            sum_ += gradient.numpy()
    trainer.train_epoch(1)
    assert trainer.steps == 1
    after = trainer.weights
    # By hand, from moments of zero: α·√(1−β₂)/(1−β₁) · m/(√v + ε) with m = (1−β₁)g and v = (1−β₂)g².
    for one, start, gradient in zip(after, before, total, strict=False):
        step = math.sqrt(1 - 0.999) * gradient / (math.sqrt(1 - 0.999) * np.abs(gradient) + 1.0)
        np.testing.assert_allclose(start - one, step, atol=1e-4 * np.abs(step).max() + 1e-7)
    # Both have seen the two micro-batches in order.
    for one, variable in zip(after[len(trained) :], variables[len(trained) :], strict=True):
        np.testing.assert_allclose(one, variable.numpy(), rtol=1e-5, atol=1e-6)
        assert not variable.trainable


def test_a_step_of_inception_is_that_of_keras_with_its_moving_averages():
    trial = inception(batch_size=6, micro_batch=8, epsilon=1e-3)
    trainer, pixels, labels = make(trial, count=6)
    before = trainer.weights
    model, variables = keras_inception(trial, before)
    x, y = batches(trainer, pixels, labels)
    loss = compiled(model, trial).train_on_batch(np.repeat(x, 3, axis=-1), y)
    assert trainer.train_epoch(1) == pytest.approx(float(loss), rel=1e-5)
    for one, variable, start in zip(trainer.weights, variables, before, strict=True):
        moved = np.abs(variable.numpy() - start).max()
        assert moved > 0, variable.path
        np.testing.assert_allclose(one, variable.numpy(), atol=5e-3 * moved, err_msg=variable.path)
    colours = np.repeat((pixels.images.astype(np.float32) / 127.5 - 1)[..., None], 3, axis=-1)
    np.testing.assert_allclose(trainer.predict(np.arange(6)), model.predict(colours, verbose=0), atol=1e-3)


@pytest.mark.parametrize(
    ("trial", "epochs"),
    [(lenet(), 6), (inception(learning_rate=3e-3, batch_size=16, micro_batch=8), 24)],
    ids=["LeNet", "InceptionV3"],
)
def test_it_learns_to_see_a_square_on_films_that_it_was_not_trained_on(trial, epochs):
    trainer, _, labels = make(trial, count=48, films=np.arange(32), noise=False)
    for epoch in range(1, epochs + 1):
        trainer.train_epoch(epoch)
    scores = trainer.predict(np.arange(32, 48))
    assert average_precision_score(labels[32:, 0], scores[:, 0]) >= 0.95


def test_the_seed_decides_everything_and_nothing_else_does():
    def after(seed):
        trainer, *_ = make(lenet(dropout_rate=0.3, flips="both"), seed=seed)
        for epoch in (1, 2):
            trainer.train_epoch(epoch)
        return trainer.sha256

    assert after(3) == after(3) != after(4)


def test_training_changes_nothing_that_the_next_fold_starts_from():
    from rust_optuna.learn.end_to_end import network_of

    trial = inception(batch_size=6, micro_batch=8, epsilon=1e-3)
    network = network_of(trial)
    before = network.start(7)
    trainer, *_ = make(trial, count=6)
    trainer.train_epoch(1)
    after = network.start(7)
    for one, other in zip([*before.weights, *before.averages], [*after.weights, *after.averages], strict=True):
        np.testing.assert_array_equal(one, other)
    assert make(trial, count=6)[0].sha256 != trainer.sha256


def test_random_weights_differ_from_fold_to_fold_and_those_of_a_file_do_not(tmp_path):
    from rust_optuna.learn.end_to_end import network_of
    from rust_optuna.learn.runtime import load_keras

    random = network_of(inception())
    first, other = random.start(1).weights, random.start(2).weights
    assert (first[0] != other[0]).any()
    assert float(np.std(first[0])) == pytest.approx(math.sqrt(2 / 27), rel=0.1)
    shape = (INCEPTION_SIZE, INCEPTION_SIZE, 3)
    whole = load_keras().applications.InceptionV3(include_top=False, weights=None, input_shape=shape)
    whole.save_weights(tmp_path / "some.weights.h5")
    backbone = BackboneConfiguration(str(tmp_path / "some.weights.h5"), output="mixed0", image_size=INCEPTION_SIZE)
    given = network_of(inception(backbone=backbone))
    first, other = given.start(1).weights, given.start(2).weights
    np.testing.assert_array_equal(first[0], other[0])
    np.testing.assert_array_equal(first[0], whole.layers[1].kernel.numpy())
    assert (first[-2] != other[-2]).any(), "the head starts from the fold's seed"


def test_bfloat16_rounds_and_float32_does_not():
    scores = {}
    for precision in ("float32", "bfloat16"):
        trainer, *_ = make(lenet(training_precision=precision))
        trainer.train_epoch(1)
        scores[precision] = trainer.predict(np.arange(12))
    difference = np.abs(scores["float32"] - scores["bfloat16"]).max()
    assert 1e-4 < difference < 0.1


def test_inception_is_computed_in_the_precision_of_training_from_the_same_weights():
    trainers = {precision: make(inception(training_precision=precision))[0] for precision in ("float32", "bfloat16")}
    for one, other in zip(*(trainer.weights for trainer in trainers.values()), strict=True):
        np.testing.assert_array_equal(one, other)
    scores = [trainer.predict(np.arange(4)) for trainer in trainers.values()]
    assert 1e-5 < np.abs(scores[0] - scores[1]).max() < 0.1


def test_every_micro_batch_of_training_and_scoring_is_a_sign_of_life():
    seen = []
    trainer, *_ = make(lenet(batch_size=7, micro_batch=3), on_advance=lambda: seen.append(1))
    trainer.train_epoch(1)
    assert len(seen) == 3 + 2  # batches of 7 and 5
    trainer.predict(np.arange(10))
    assert len(seen) == 5 + 4


def test_what_a_sign_of_life_raises_ends_the_epoch():
    def stop():
        raise InterruptedError

    trainer, *_ = make(lenet(), on_advance=stop)
    with pytest.raises(InterruptedError):
        trainer.train_epoch(1)


def test_a_batch_that_is_lost_is_noticed(monkeypatch):
    from rust_optuna.learn.end_to_end import EndToEndTrainer

    trainer, *_ = make(lenet())
    monkeypatch.setattr(EndToEndTrainer, "_parts", lambda self, count: [(slice(0, 5), 0, 12)])
    with pytest.raises(RuntimeError, match="took 0 steps"):
        trainer.train_epoch(1)
    with pytest.raises(ValueError, match="no training films"):
        make(lenet(), films=np.array([], dtype=int))


def test_trials_of_one_network_share_its_program():
    from rust_optuna.learn.end_to_end import network_of
    from rust_optuna.learn.end_to_end_program import program_of

    one, other = lenet(), lenet(learning_rate=1e-2, batch_size=3, dropout_rate=0.1)
    assert program_of(network_of(one)) is program_of(network_of(other))
    seeds = [inception(backbone=replace(inception().backbone, weights_seed=seed, bits=12)) for seed in (1, 2)]
    assert network_of(seeds[0]) == network_of(seeds[1])
    larger = replace(one, backbone=replace(one.backbone, image_size=44))
    assert program_of(network_of(one)) is not program_of(network_of(larger))


def test_lenet_at_full_size_has_85_million_weights():
    from rust_optuna.learn.end_to_end import network_bytes
    from rust_optuna.learn.lenet import LeNet

    assert LeNet(299, "float32").flattened * 1024 == 72 * 72 * 16 * 1024 == 84_934_656
    full = lenet(backbone=BackboneConfiguration("imagenet"), batch_size=32, micro_batch=32)
    assert 1.4e9 < network_bytes(full) < 2.2e9
    assert network_bytes(replace(full, batch_size=64)) - network_bytes(full) == 84_934_656 * 4
