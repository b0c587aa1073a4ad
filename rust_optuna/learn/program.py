"""The compiled arithmetic of training: one program per epoch, the same for all folds and trials of a process.

Everything that differs between trials is an argument, including the variables. So TensorFlow traces once for each shape
of head, and a hundred trials take no more memory than one. The program gathers the rows and updates Adam in one fused
pass, because a plain Keras training step spends most of its time around the arithmetic.

If memory is short, another program takes the same steps a few rows at a time (``micro_batch``).

This module is written in TensorFlow; the training loop above it is not.
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
    """The state of one head that training changes, as TensorFlow variables.

    Args:
        weights: kernel, bias, kernel, bias, ….
        first_moments: Adam's running means of the gradients.
        second_moments: Adam's running means of the squared gradients.
        steps: the number of optimizer steps taken, int64.
    """

    weights: tuple[Any, ...]
    first_moments: tuple[Any, ...]
    second_moments: tuple[Any, ...]
    steps: Any


class Settings(NamedTuple):
    """The settings of a trial, as tensors, so that another value does not need another program.

    Args:
        learning_rate: Adam's learning rate.
        epsilon: Adam's epsilon.
        dropout_rate: the share of a hidden layer's outputs that a step drops.
        seed: the fold's seed, int64; dropout is drawn from (seed, step, layer).
        standardisation: mean and scale, each (width,): features enter as ``(features − mean) · scale``. None for
            unchanged features, which is a program of its own: mean 0 and scale 1 would cost two passes over the batch.
        precision: the precision of the matrix products, ``float32`` or ``bfloat16``, each with its own program;
            weights, moments, loss and Adam's update are float32 in both.
    """

    learning_rate: Any
    epsilon: Any
    dropout_rate: Any
    seed: Any
    standardisation: tuple[Any, Any] | None
    precision: str


@dataclass(frozen=True)
class Progress:
    """The outcome of a run of the program.

    Args:
        loss: the sum over the steps of each batch's mean loss.
        steps: the number of optimizer steps taken.
        first_batch: the number of rows that the first step gathered.
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

    This is the only place that forms batches. A micro-batch does not change the step, only the number of rows computed
    at a time: the gradients of the parts are summed and the weights change once, with the dropout of the whole batch.
    Only rounding differs.

    Args:
        state: the head's state, changed in place.
        settings: the trial's settings.
        table: (any, width) float32 tensor of features.
        rows: (films,) rows of the table, in training order.
        targets: (films, 18) float32, in the same order.
        batch_size: at least 1; a size above ``films`` is one batch of all films.
        loss: the loss that the epoch has summed so far.
        micro_batch: the maximum number of rows computed at a time, at least 1; None, or at least ``batch_size``, for
            whole batches.
    """
    tf = load_tensorflow()
    arguments = [
        state,
        settings,
        table,
        tf.constant(rows, tf.int32),
        tf.constant(targets, tf.float32),
        tf.constant(min(batch_size, len(rows)), tf.int32),
        tf.constant(loss, tf.float32),
    ]
    programs = _programs_for(state)
    # Choose by the batch size, not by the number of rows: an epoch's short last batch arrives alone from live features
    # and with all others from cached ones, and must go through the same program.
    if micro_batch is None or micro_batch >= batch_size:
        total, steps, first = programs.train(*arguments)
    else:
        total, steps, first = programs.train_in_parts(*arguments, tf.constant(micro_batch, tf.int32))
    return Progress(float(total), int(steps), int(first))


def predict(state: State, settings: Settings, features: Any) -> np.ndarray:
    """Return the scores of (films, width) features: (films, 18) float32 probabilities."""
    scores: np.ndarray = _programs_for(state).predict(state.weights, settings, features).numpy()
    return scores


def traces() -> int:
    """Return how often this process has traced a program so far."""
    all_programs = [program for programs in _PROGRAMS.values() for program in programs]
    return sum(int(program.experimental_get_tracing_count()) for program in all_programs)


class _Programs(NamedTuple):
    train: Any
    train_in_parts: Any
    predict: Any


_PROGRAMS: dict[tuple[tuple[int, ...], ...], _Programs] = {}
_MAKING = threading.Lock()


def _programs_for(state: State) -> _Programs:
    """Return the programs for heads of these shapes, each traced at its first call.

    XLA is not used, because it compiles anew for each size of the last batch. One function for all shapes would not
    work: after two shapes, TensorFlow traces a third program for any shape, in which no shape is known.
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
    """Take a step for each batch; return the summed losses, the steps and the number of rows that the first gathered.

    ``step`` maps a batch's rows and targets to its loss and the number of rows gathered.
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
    """Take one optimizer step and return the batch's loss before the step."""
    tf = load_tensorflow()

    def drop(layer: int, x: Any) -> Any:
        return dropped(x, settings.dropout_rate, _dropout_seed(state, settings, layer))

    with tf.GradientTape() as tape:
        logits = forward(state.weights, settings, batch, drop)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, state.weights)
    state.steps.assign_add(1)
    update(state, settings, gradients)
    return loss


def _step_in_parts(
    state: State, settings: Settings, table: Any, rows: Any, targets: Any, micro_batch: Any
) -> tuple[Any, Any]:
    """Take the step of `_step` in parts of the batch; return its loss and the number of rows gathered."""
    tf = load_tensorflow()
    count, values = tf.shape(rows)[0], tf.cast(tf.size(targets), tf.float32)
    threshold = _threshold(settings.dropout_rate)
    # Drawn for the whole batch at once: a part's own draw would differ from the whole batch's in the same rows.
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
            logits = forward(
                state.weights, settings, batch, lambda layer, x: _scaled(x, masks[layer][start:stop], threshold)
            )
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets[start:stop], logits=logits)
            share = tf.reduce_sum(losses) / values
        added = tape.gradient(share, state.weights)
        summed = [gradient + addend for gradient, addend in zip(gradients, added, strict=True)]
        return stop, loss + share, gathered + tf.shape(batch)[0], *summed

    zeros = [tf.zeros_like(weight) for weight in state.weights]
    _, loss, gathered, *gradients = tf.while_loop(more, part, [0, 0.0, 0, *zeros], parallel_iterations=1)
    state.steps.assign_add(1)
    update(state, settings, gradients)
    return loss, gathered


def _dropout_seed(state: State, settings: Settings, layer: int) -> Any:
    """Return the seed of a hidden layer's dropout in the next step."""
    tf = load_tensorflow()
    hidden = len(state.weights) // 2 - 1
    return tf.stack([settings.seed, state.steps * hidden + layer])


def update(state: State, settings: Settings, gradients: Sequence[Any]) -> None:
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
    return tf.sigmoid(forward(weights, settings, _of_any_length(features)))


def _of_any_length(tensor: Any) -> Any:
    """Return the tensor with an unknown number of rows.

    TensorFlow traces once for the first length that it meets, and once more for any length at the second. Both must be
    the same program, or a point's bits could depend on what its process ran before.
    """
    tf = load_tensorflow()
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=[None, *tensor.shape[1:]])


def forward(
    weights: tuple[Any, ...], settings: Settings, features: Any, drop: Callable[[int, Any], Any] | None = None
) -> Any:
    """Return the logits, float32; ``drop`` is called with each hidden layer's number and outputs."""
    x = features
    if settings.standardisation is not None:
        mean, scale = settings.standardisation
        x = (x - mean) * scale
    return dense_layers(weights, x, settings.precision, drop)


def dense_layers(weights: Sequence[Any], x: Any, precision: str, drop: Callable[[int, Any], Any] | None = None) -> Any:
    """Return the logits of dense layers with ReLU between them, float32.

    Args:
        weights: kernel, bias, kernel, bias, ….
        x: (rows, width) tensor.
        precision: of the matrix products.
        drop: called with each hidden layer's number and outputs; None to drop nothing.
    """
    tf = load_tensorflow()
    x, *rounded = (tf.cast(tensor, precision) for tensor in (x, *weights))
    kernels, biases = rounded[0::2], rounded[1::2]
    for layer, (kernel, bias) in enumerate(zip(kernels[:-1], biases[:-1], strict=True)):
        x = tf.nn.relu(tf.nn.bias_add(tf.matmul(x, kernel), bias))
        if drop is not None:
            x = drop(layer, x)
    return tf.cast(tf.nn.bias_add(tf.matmul(x, kernels[-1]), biases[-1]), tf.float32)


def dropped(x: Any, rate: Any, seed: Any) -> Any:
    """Return ``x`` with a share of its values set to zero and the others divided by the share kept (inverted dropout).

    A value is dropped if a 16-bit random integer is below 65536 · rate, rounded. The share dropped thus equals the rate
    to within 2⁻¹⁷, and the kept values are divided by one minus exactly that share (a factor that bfloat16 rounds to
    its eight bits). Drawing 32 bits per value only to compare them with a rate was the largest cost of a step after the
    matrix products.

    Args:
        x: (rows, units).
        rate: scalar float32 tensor, 0 ≤ rate < 1.
        seed: (2,) int64; the same seed drops the same values on every device.
    """
    return dropped_part(x, rate, seed, load_tensorflow().shape(x)[0], 0)


def dropped_part(x: Any, rate: Any, seed: Any, rows: Any, start: Any) -> Any:
    """Return what `dropped` returns for the rows of ``x``, which are only a part of those of a batch.

    Args:
        x: (part, units).
        rate: as in `dropped`.
        seed: as in `dropped`.
        rows: the number of rows of the batch.
        start: the first of the batch's rows that ``x`` holds.
    """
    tf = load_tensorflow()
    threshold = _threshold(rate)
    mask = _kept(rows, x.shape[1], threshold, seed)[start : start + tf.shape(x)[0]]
    return _scaled(x, mask, threshold)


def _threshold(rate: Any) -> Any:
    """Return how many of the 65536 values of a 16-bit integer drop a value, as a float32."""
    tf = load_tensorflow()
    return tf.minimum(tf.round(rate * 65536.0), 65535.0)


def _kept(rows: Any, units: int, threshold: Any, seed: Any) -> Any:
    """Draw the values that dropout keeps: (rows, units) of bool."""
    tf = load_tensorflow()
    words = [rows, (units + 1) // 2]
    bits = tf.random.stateless_uniform(words, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    draws = tf.reshape(tf.bitcast(bits, tf.int16), [-1, 2 * words[1]])[:, :units]
    return draws >= tf.cast(threshold - 32768.0, tf.int16)


def _scaled(x: Any, mask: Any, threshold: Any) -> Any:
    """Return ``x`` with the dropped values set to zero and the others divided by the share kept."""
    tf = load_tensorflow()
    factor = tf.cast(65536.0 / (65536.0 - threshold), x.dtype)
    return x * tf.where(mask, factor, tf.zeros([], x.dtype))
