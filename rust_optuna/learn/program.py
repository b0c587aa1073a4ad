"""The compiled arithmetic of training: one program an epoch, the same for all folds and trials of a process.

Everything that differs between trials is an argument, variables too, so TensorFlow traces once for each shape of head
and a hundred trials take no more memory than one. Rows are gathered and Adam's update is one fused pass inside the
program: a plain Keras training step spends most of its time around the arithmetic.

Where memory is short, another program takes the same steps a few rows at a time (``micro_batch``).

This module is TensorFlow's; nothing above it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rust_optuna.learn.head import Standardisation
from rust_optuna.learn.runtime import load_tensorflow

BETA_1, BETA_2 = 0.9, 0.999


class State(NamedTuple):
    """What training changes: TensorFlow variables, of one head.

    Args:
        weights: kernel, bias, kernel, bias, ….
        first_moments: Adam's running means of the gradients.
        second_moments: Adam's running means of their squares.
        steps: optimizer steps taken, int64.
    """

    weights: tuple[Any, ...]
    first_moments: tuple[Any, ...]
    second_moments: tuple[Any, ...]
    steps: Any


class Settings(NamedTuple):
    """What a trial sets, as tensors, so that another value needs no other program.

    Args:
        learning_rate: Adam's.
        epsilon: Adam's.
        dropout_rate: share of a hidden layer's outputs that a step drops.
        seed: the fold's, int64; dropout is drawn from (seed, step, layer).
        standardisation: mean and scale, each (width,): features enter as ``(features − mean) · scale``; None for
            features as they are (another program, not one with zeros and ones: they cost two passes over the batch).
        precision: of the matrix products, ``float32`` or ``bfloat16``; weights, moments, loss and Adam's update are
            float32 in both (another program, too).
    """

    learning_rate: Any
    epsilon: Any
    dropout_rate: Any
    seed: Any
    standardisation: tuple[Any, Any] | None
    precision: str


@dataclass(frozen=True)
class Progress:
    """What a run of the program did.

    Args:
        loss: the sum over its steps of each batch's mean loss.
        steps: optimizer steps taken.
        first_batch: rows that the first step gathered.
    """

    loss: float
    steps: int
    first_batch: int


def new_state(weights: Sequence[np.ndarray]) -> State:
    """Return a head before its first step."""
    tf = load_tensorflow()
    zeros = [np.zeros_like(array) for array in weights]
    return State(
        weights=tuple(tf.Variable(array) for array in weights),
        first_moments=tuple(tf.Variable(array) for array in zeros),
        second_moments=tuple(tf.Variable(array) for array in zeros),
        steps=tf.Variable(0, dtype=tf.int64),
    )


def new_settings(
    learning_rate: float,
    epsilon: float,
    dropout_rate: float,
    seed: int,
    standardisation: Standardisation | None = None,
    precision: str = "float32",
) -> Settings:
    """Return a trial's settings as tensors."""
    tf = load_tensorflow()
    tensors = None
    if standardisation is not None:
        tensors = tf.constant(standardisation.mean, tf.float32), tf.constant(standardisation.scale, tf.float32)
    return Settings(
        learning_rate=tf.constant(learning_rate, tf.float32),
        epsilon=tf.constant(epsilon, tf.float32),
        dropout_rate=tf.constant(dropout_rate, tf.float32),
        seed=tf.constant(seed, tf.int64),
        standardisation=tensors,
        precision=precision,
    )


def train(
    state: State,
    settings: Settings,
    table: Any,
    rows: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    loss: float = 0.0,
    micro_batch: int | None = None,
) -> Progress:
    """Take one optimizer step for each batch of rows, in order; the last batch may be short.

    This is the one place that batches. A micro-batch does not change what a step is, but how many rows of it are
    computed at a time: the parts' gradients are summed and the weights change once, with dropout as for the whole
    batch. Only rounding differs.

    Args:
        state: changed in place.
        settings: the trial's.
        table: (any, width) float32 tensor of features.
        rows: (films,) rows of the table, in the order in which they are trained.
        targets: (films, 18) float32, in the same order.
        batch_size: at least 1; more than ``films`` is one batch of all.
        loss: what the epoch has summed up before.
        micro_batch: the most rows computed at a time, at least 1; None, or ``batch_size`` and more, for whole batches.
    """
    tf = load_tensorflow()
    given = [
        state,
        settings,
        table,
        tf.constant(rows, tf.int32),
        tf.constant(targets, tf.float32),
        tf.constant(min(batch_size, len(rows)), tf.int32),
        tf.constant(loss, tf.float32),
    ]
    programs = _programs_for(state)
    # By the size asked for, not by the rows given: an epoch's short last batch comes alone from live features, with
    # all others from cached ones, and must go through the same program.
    if micro_batch is None or micro_batch >= batch_size:
        total, steps, first = programs.train(*given)
    else:
        total, steps, first = programs.train_in_parts(*given, tf.constant(micro_batch, tf.int32))
    return Progress(float(total), int(steps), int(first))


def predict(state: State, settings: Settings, features: Any) -> np.ndarray:
    """Return the scores of (films, width) features: (films, 18) float32 probabilities."""
    scores: np.ndarray = _programs_for(state).predict(state.weights, settings, features).numpy()
    return scores


def traces() -> int:
    """Return how many programs this process has traced so far."""
    every = [program for programs in _PROGRAMS.values() for program in programs]
    return sum(int(program.experimental_get_tracing_count()) for program in every)


class _Programs(NamedTuple):
    train: Any
    train_in_parts: Any
    predict: Any


_PROGRAMS: dict[tuple[tuple[int, ...], ...], _Programs] = {}
_MAKING = threading.Lock()


def _programs_for(state: State) -> _Programs:
    """Return the programs for heads of these shapes, each traced at its first call.

    Not through XLA, which compiles anew for each size of the last batch. One function for all shapes would not do:
    where TensorFlow has seen two, it traces a third program for any, in which no shape can be relied upon.
    """
    shapes = tuple(tuple(variable.shape) for variable in state.weights)
    with _MAKING:
        if shapes not in _PROGRAMS:
            tf = load_tensorflow()
            compiled = functools.partial(tf.function, reduce_retracing=True, jit_compile=False, autograph=False)
            _PROGRAMS[shapes] = _Programs(*map(compiled, (_train, _train_in_parts, _predict)))
        return _PROGRAMS[shapes]


def _train(
    state: State, settings: Settings, table: Any, rows: Any, targets: Any, batch_size: Any, loss: Any
) -> tuple[Any, Any, Any]:
    tf = load_tensorflow()
    table, rows, targets = map(_of_any_length, (table, rows, targets))

    def step(rows: Any, targets: Any) -> tuple[Any, Any]:
        batch = tf.gather(table, rows)
        return _step(state, settings, batch, targets), tf.shape(batch)[0]

    return _for_each_batch(step, rows, targets, batch_size, loss)


def _train_in_parts(
    state: State, settings: Settings, table: Any, rows: Any, targets: Any, batch_size: Any, loss: Any, micro_batch: Any
) -> tuple[Any, Any, Any]:
    table, rows, targets = map(_of_any_length, (table, rows, targets))

    def step(rows: Any, targets: Any) -> tuple[Any, Any]:
        return _step_in_parts(state, settings, table, rows, targets, micro_batch)

    return _for_each_batch(step, rows, targets, batch_size, loss)


def _for_each_batch(
    step: Callable[[Any, Any], tuple[Any, Any]], rows: Any, targets: Any, batch_size: Any, loss: Any
) -> tuple[Any, Any, Any]:
    """Take a step for each batch; return the summed losses, the steps and the rows that the first one gathered.

    ``step`` makes of a batch's rows and targets its loss and the rows gathered.
    """
    tf = load_tensorflow()
    count = tf.shape(rows)[0]

    def more(start: Any, *_: Any) -> Any:
        return start < count

    def one(start: Any, loss: Any, steps: Any, first: Any) -> tuple[Any, Any, Any, Any]:
        stop = tf.minimum(start + batch_size, count)
        added, gathered = step(rows[start:stop], targets[start:stop])
        first = tf.where(start == 0, gathered, first)
        return stop, loss + added, steps + 1, first

    _, loss, steps, first = tf.while_loop(more, one, [0, loss, 0, 0], parallel_iterations=1)
    return loss, steps, first


def _step(state: State, settings: Settings, batch: Any, targets: Any) -> Any:
    """Take one optimizer step and return the batch's loss before it."""
    tf = load_tensorflow()

    def drop(layer: int, x: Any) -> Any:
        return dropped(x, settings.dropout_rate, _dropout_seed(state, settings, layer))

    with tf.GradientTape() as tape:
        logits = _forward(state.weights, settings, batch, drop)
        each = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        loss = tf.reduce_mean(each)
    gradients = tape.gradient(loss, state.weights)
    state.steps.assign_add(1)
    _update(state, settings, gradients)
    return loss


def _step_in_parts(
    state: State, settings: Settings, table: Any, rows: Any, targets: Any, micro_batch: Any
) -> tuple[Any, Any]:
    """Take the step that `_step` takes, a part of the batch at a time; return its loss and the rows gathered."""
    tf = load_tensorflow()
    count, values = tf.shape(rows)[0], tf.cast(tf.size(targets), tf.float32)
    threshold = _threshold(settings.dropout_rate)
    # For the whole batch at once: a part's own draw would not be the rows that the whole batch's draw has there.
    masks = [
        _kept(count, bias.shape[0], threshold, _dropout_seed(state, settings, layer))
        for layer, bias in enumerate(state.weights[1:-2:2])
    ]

    def more(start: Any, *_: Any) -> Any:
        return start < count

    def part(start: Any, loss: Any, gathered: Any, *gradients: Any) -> tuple[Any, ...]:
        stop = tf.minimum(start + micro_batch, count)
        batch = tf.gather(table, rows[start:stop])
        with tf.GradientTape() as tape:
            logits = _forward(
                state.weights, settings, batch, lambda layer, x: _scaled(x, masks[layer][start:stop], threshold)
            )
            each = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets[start:stop], logits=logits)
            share = tf.reduce_sum(each) / values
        added = tape.gradient(share, state.weights)
        summed = [gradient + more for gradient, more in zip(gradients, added, strict=True)]
        return stop, loss + share, gathered + tf.shape(batch)[0], *summed

    nothing = [tf.zeros_like(weight) for weight in state.weights]
    _, loss, gathered, *gradients = tf.while_loop(more, part, [0, 0.0, 0, *nothing], parallel_iterations=1)
    state.steps.assign_add(1)
    _update(state, settings, gradients)
    return loss, gathered


def _dropout_seed(state: State, settings: Settings, layer: int) -> Any:
    """Return what a hidden layer's dropout is drawn from in the step about to be taken."""
    tf = load_tensorflow()
    hidden = len(state.weights) // 2 - 1
    return tf.stack([settings.seed, state.steps * hidden + layer])


def _update(state: State, settings: Settings, gradients: Sequence[Any]) -> None:
    """Apply Adam (Kingma and Ba 2015, arXiv:1412.6980) in Keras's form: ε is added to √v, not to √v̂."""
    tf = load_tensorflow()
    taken = tf.cast(state.steps, tf.float32)
    power_1, power_2 = tf.pow(BETA_1, taken), tf.pow(BETA_2, taken)
    slots = zip(state.weights, state.first_moments, state.second_moments, gradients, strict=True)
    for weight, first, second, gradient in slots:
        tf.raw_ops.ResourceApplyAdam(
            var=weight.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=settings.learning_rate,
            beta1=BETA_1,
            beta2=BETA_2,
            epsilon=settings.epsilon,
            grad=gradient,
        )


def _predict(weights: tuple[Any, ...], settings: Settings, features: Any) -> Any:
    tf = load_tensorflow()
    return tf.sigmoid(_forward(weights, settings, _of_any_length(features)))


def _of_any_length(tensor: Any) -> Any:
    """Hide how many rows there are.

    TensorFlow traces for the first length it meets and once more, for any length, at the second. Both must be the
    same program, or a point's bits could depend on what its process ran before.
    """
    tf = load_tensorflow()
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=[None, *tensor.shape[1:]])


def _forward(
    weights: tuple[Any, ...], settings: Settings, features: Any, drop: Callable[[int, Any], Any] | None = None
) -> Any:
    """Return the logits, float32; ``drop``, if given, is applied to each hidden layer's number and outputs."""
    tf = load_tensorflow()
    x = features
    if settings.standardisation is not None:
        mean, scale = settings.standardisation
        x = (x - mean) * scale
    x, *rounded = (tf.cast(tensor, settings.precision) for tensor in (x, *weights))
    kernels, biases = rounded[0::2], rounded[1::2]
    for layer, (kernel, bias) in enumerate(zip(kernels[:-1], biases[:-1], strict=True)):
        x = tf.nn.relu(tf.nn.bias_add(tf.matmul(x, kernel), bias))
        if drop is not None:
            x = drop(layer, x)
    return tf.cast(tf.nn.bias_add(tf.matmul(x, kernels[-1]), biases[-1]), tf.float32)


def dropped(x: Any, rate: Any, seed: Any) -> Any:
    """Return ``x`` with a share of its values zeroed and the others divided by the share kept (inverted dropout).

    A value is dropped where a 16-bit random integer is below 65536 · rate, rounded. The share dropped is thus the rate
    to within 2⁻¹⁷, and the kept are divided by one less that very share (a factor that bfloat16 rounds to its eight
    bits). Drawing 32 bits a value, only to compare them with a rate, was the largest cost of a step after the matrix
    products.

    Args:
        x: (rows, units).
        rate: scalar float32 tensor, 0 ≤ rate < 1.
        seed: (2,) int64; the same seed drops the same values on every device.
    """
    tf = load_tensorflow()
    threshold = _threshold(rate)
    return _scaled(x, _kept(tf.shape(x)[0], x.shape[1], threshold, seed), threshold)


def _threshold(rate: Any) -> Any:
    """Return how many of the 65536 values of a 16-bit integer mean that a value is dropped, as a float32."""
    tf = load_tensorflow()
    return tf.minimum(tf.round(rate * 65536.0), 65535.0)


def _kept(rows: Any, units: int, threshold: Any, seed: Any) -> Any:
    """Draw which values dropout keeps: (rows, units) of bool."""
    tf = load_tensorflow()
    words = [rows, (units + 1) // 2]
    bits = tf.random.stateless_uniform(words, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    draws = tf.reshape(tf.bitcast(bits, tf.int16), [-1, 2 * words[1]])[:, :units]
    return draws >= tf.cast(threshold - 32768.0, tf.int16)


def _scaled(x: Any, kept: Any, threshold: Any) -> Any:
    """Zero what is not kept and divide the rest by the share kept."""
    tf = load_tensorflow()
    factor = tf.cast(65536.0 / (65536.0 - threshold), x.dtype)
    return x * tf.where(kept, factor, tf.zeros([], x.dtype))
