"""Trials in micro-batches: the same training, a few films at a time."""

from dataclasses import replace

import numpy as np
import pytest

from rust_optuna.learn import program
from rust_optuna.learn.cross_validation import cross_validate
from rust_optuna.learn.head import Standardisation, initial_weights
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.learn.training import FoldTrainer
from tests.learn.material import hashes, make_development, make_labels

pytestmark = pytest.mark.tensorflow

FILMS, WIDTH = 41, 24
LABELS = make_labels(FILMS).astype(np.float32)


@pytest.fixture(scope="module")
def table():
    import tensorflow as tf

    return tf.constant(np.random.default_rng(0).standard_normal((FILMS, WIDTH)).astype(np.float32))


def settings_of(precision="float32", *, standardised=False, dropout=0.4):
    fitted = Standardisation(np.full(WIDTH, 0.1, np.float32), np.full(WIDTH, 1.1, np.float32)) if standardised else None
    return program.new_settings(1e-3, 1e-3, dropout, 5, fitted, precision)


def copy(state):
    """Return a state that can be changed alone."""
    made = program.new_state([variable.numpy() for variable in state.weights])
    for mine, theirs in zip(variables(made), variables(state), strict=True):
        mine.assign(theirs)
    return made


def variables(state):
    return [*state.weights, *state.first_moments, *state.second_moments, state.steps]


def trained_state(table, settings):
    """Return a head in the middle of its training, whose moments are not zero."""
    state = program.new_state(initial_weights(WIDTH, (16, 9), 1))
    for _ in range(3):
        program.train(state, settings, table, np.arange(FILMS), LABELS, 16)
    return state


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize(
    ("batch", "micro"), [(40, 20), (40, 8), (40, 7), (40, 39), (12, 5), (12, 1), (2, 1), (41, 16), (41, 40)]
)
def test_a_step_in_micro_batches_is_the_step_of_the_whole_batch(table, batch, micro, standardised):
    settings = settings_of(standardised=standardised)
    whole = trained_state(table, settings)
    parts = copy(whole)
    order = np.random.default_rng(batch).permutation(FILMS)
    # Every step starts from the same state; the last batch of the films is a short one.
    for start in range(0, FILMS, batch):
        rows = order[start : start + batch]
        one = program.train(whole, settings, table, rows, LABELS[rows], batch)
        other = program.train(parts, settings, table, rows, LABELS[rows], batch, 0.0, micro)
        assert (other.steps, other.first_batch) == (one.steps, one.first_batch) == (1, len(rows))
        assert other.loss == pytest.approx(one.loss, abs=1e-6)
        for ours, theirs in zip(variables(parts), variables(whole), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=1e-6)
            ours.assign(theirs)


@pytest.mark.parametrize("hidden", [(), (16,), (5, 4, 3)])
def test_heads_of_any_depth_are_trained_in_micro_batches(table, hidden):
    settings = settings_of()
    whole = program.new_state(initial_weights(WIDTH, hidden, 1))
    parts = copy(whole)
    program.train(whole, settings, table, np.arange(FILMS), LABELS, FILMS)
    program.train(parts, settings, table, np.arange(FILMS), LABELS, FILMS, 0.0, 6)
    for ours, theirs in zip(variables(parts), variables(whole), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=1e-6)


def test_dropout_drops_the_same_values_in_micro_batches(table):
    """Other masks change a step by far more than rounding does."""
    settings = settings_of(dropout=0.5)
    states = [program.new_state(initial_weights(WIDTH, (16, 9), 1)) for _ in range(3)]
    other_masks = settings._replace(seed=settings.seed + 1)
    for state, given, micro in zip(states, (settings, settings, other_masks), (None, 7, 7), strict=True):
        program.train(state, given, table, np.arange(FILMS), LABELS, FILMS, 0.0, micro)
    whole, parts, other = (np.concatenate([m.numpy().ravel() for m in state.first_moments]) for state in states)
    assert np.abs(parts - whole).max() < 1e-7
    assert np.abs(other - whole).max() > 1e-4


def test_an_epoch_in_micro_batches_takes_the_steps_of_whole_batches(table):
    """Batches of 16 over 41 films in parts of 5: three steps, the last of 9 films."""
    settings = settings_of()
    at_once, one_by_one = (program.new_state(initial_weights(WIDTH, (16, 9), 1)) for _ in range(2))
    rows = np.random.default_rng(1).permutation(FILMS)
    together = program.train(at_once, settings, table, rows, LABELS[rows], 16, 0.0, 5)
    loss = 0.0
    for batch in (slice(0, 16), slice(16, 32), slice(32, 41)):
        loss = program.train(one_by_one, settings, table, rows[batch], LABELS[rows[batch]], 16, loss, 5).loss
    assert (together.steps, together.first_batch, together.loss) == (3, 16, loss)
    for ours, theirs in zip(variables(at_once), variables(one_by_one), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_bfloat16_micro_batches_differ_by_bfloat16s_rounding_alone(table):
    gradients = {}
    for name, precision, micro in (("exact", "float32", None), ("whole", "bfloat16", None), ("parts", "bfloat16", 7)):
        state = program.new_state(initial_weights(WIDTH, (64, 32), 1))
        program.train(state, settings_of(precision), table, np.arange(FILMS), LABELS, FILMS, 0.0, micro)
        gradients[name] = np.concatenate([m.numpy().ravel() for m in state.first_moments])
    size = np.linalg.norm(gradients["exact"])
    rounding = np.linalg.norm(gradients["whole"] - gradients["exact"])
    assert 0 < rounding < 0.1 * size
    assert np.linalg.norm(gradients["parts"] - gradients["exact"]) < 1.1 * rounding
    assert np.linalg.norm(gradients["parts"] - gradients["whole"]) < 0.01 * size


def test_a_micro_batch_of_the_whole_batch_changes_no_bit(random_source, trial):
    def scores(micro):
        made = FoldTrainer(random_source(), LABELS, np.arange(30), trial, 5, micro_batch=micro)
        losses = [made.train_epoch(epoch) for epoch in (1, 2)]
        return losses, made.predict(np.arange(7))

    for micro in (trial.batch_size, 2048):
        one, other = scores(None), scores(micro)
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


def test_films_are_scored_in_micro_batches_too(random_source, trial, monkeypatch):
    made = FoldTrainer(random_source(), LABELS, np.arange(30), trial, 5)
    limited = FoldTrainer(random_source(), LABELS, np.arange(30), trial, 5, micro_batch=4)
    whole = made.predict(np.arange(11))
    honest, sizes = program.predict, []
    monkeypatch.setattr(program, "predict", lambda s, t, x: sizes.append(len(x)) or honest(s, t, x))
    np.testing.assert_allclose(limited.predict(np.arange(11)), whole, rtol=0, atol=1e-6)
    assert sizes == [4, 4, 3]


def test_another_micro_batch_traces_no_other_program(random_source, trial):
    def train(micro):
        made = FoldTrainer(random_source(), LABELS, np.arange(30), trial, 5, micro_batch=micro)
        made.train_epoch(1)
        made.predict(np.arange(9))

    train(5)
    train(4)
    before = program.traces()
    train(3)
    train(1)
    assert program.traces() == before


def test_a_trial_in_micro_batches_agrees_with_the_plain_one_within_the_noise_of_seeds(random_source, trial):
    development = make_development(hashes(90))
    labels = development.labels[:, None].astype(np.float32)
    noise = np.random.default_rng(0).standard_normal((90, 4, 18)).astype(np.float32)
    source = random_source(90, 18)
    source._features.table[:] = labels + noise

    def curve(seed, micro=None):
        settings = replace(trial, batch_size=16, epochs=5, learning_rate=1e-2)
        return cross_validate(
            development, source, settings, seed=seed, point=0, on_epoch=lambda *_: None, micro_batch=micro
        )

    plain, parts = curve(1), curve(1, micro=5)
    assert (plain.report.micro_batch, parts.report.micro_batch) == (None, 5)
    seeds = np.std([curve(seed).report.value for seed in (1, 2, 3, 4)])
    assert abs(parts.report.value - plain.report.value) < seeds
    assert np.abs(parts.out_of_fold.scores - plain.out_of_fold.scores).max() < 1e-3


class OneBatchAtATime(CachedFeatures):
    """Cached features that are asked for as live ones are."""

    batches_at_once = 1

    def gather(self, films, flips):
        table, rows = super().gather(films, flips)
        return np.asarray(table)[rows], np.arange(len(films))


def test_a_batch_at_a_time_trains_to_the_bits_of_a_whole_epoch_in_micro_batches(random_source, trial):
    """Batches of 20 in parts of 15: the short last batch, 2 films, is smaller than a part and comes alone."""
    whole = random_source()
    settings = replace(trial, batch_size=20)
    one, other = (
        FoldTrainer(source, LABELS, np.arange(22), settings, 3, micro_batch=15)
        for source in (whole, OneBatchAtATime(whole._features))
    )
    assert one.train_epoch(1) == other.train_epoch(1)
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("kind", "chunks"), [(CachedFeatures, 3), (OneBatchAtATime, 3 * 4)])
def test_training_says_that_it_advances_after_every_chunk_and_fold(random_source, trial, kind, chunks):
    development = make_development(hashes(FILMS))
    source, said = kind(random_source()._features), []
    cross_validate(
        development,
        source,
        replace(trial, epochs=2),
        seed=1,
        point=0,
        on_epoch=lambda epoch, value: said.append(epoch),
        on_advance=lambda: said.append("advance"),
    )
    epoch = ["advance"] * (chunks + 3)
    assert said == [*epoch, 1, *epoch, 2]
