"""The compiled arithmetic of end-to-end training: micro-batches, and one step of Adam for each batch.

A batch is computed in micro-batches, whose gradients are added up, so that memory depends on the micro-batch alone.
Each film has the same share of the gradient, however short its micro-batch is. Batch normalisation takes its statistics
from the micro-batch, and moves its averages after each as Keras does. So the size of the micro-batch belongs to the
numerics of a network with batch normalisation; in one without, it changes nothing but rounding.

The weights are arguments: all folds and trials with equal networks share one program.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rust_optuna.data.manifest import LABELS
from rust_optuna.learn import program
from rust_optuna.learn.extraction import flipped
from rust_optuna.learn.network import Network, Start
from rust_optuna.learn.runtime import load_tensorflow

WHITE = 255


class State(NamedTuple):
    """The state of one network that training changes, as TensorFlow variables.

    Args:
        optimised: the weights, Adam's moments of them, and the number of steps.
        averages: the moving averages of batch normalisation.
        gradients: the gradients that the batch's micro-batches have added up so far; empty if each batch is one
            micro-batch.
    """

    optimised: program.State
    averages: tuple[Any, ...]
    gradients: tuple[Any, ...]


@dataclass(frozen=True)
class MicroBatch:
    """The films that are computed at a time.

    Args:
        images: (capacity, size, size) uint8, where the films come first. The capacity is the same in all calls, so that
            the program is compiled once.
        flips: (films,) the flip of each film.
        targets: (films, 18) float32.
        start: the place of the first film in its batch.
        batch: the number of films of the batch.
    """

    images: np.ndarray
    flips: np.ndarray
    targets: np.ndarray
    start: int
    batch: int

    @property
    def films(self) -> int:
        """The number of films."""
        return len(self.flips)

    @property
    def last(self) -> bool:
        """Whether the batch ends with it."""
        return self.start + self.films == self.batch


def new_state(start: Start, *, accumulate: bool) -> State:
    """Return a network before its first step.

    Args:
        start: its weights and averages.
        accumulate: whether batches consist of several micro-batches.
    """
    tf = load_tensorflow()

    def zeros() -> tuple[Any, ...]:
        # Not by way of NumPy: a copy of LeNet-1998's weights takes 340 MB.
        return tuple(tf.Variable(tf.zeros(array.shape, tf.float32), trainable=False) for array in start.weights)

    weights = tuple(tf.Variable(array) for array in start.weights)
    steps = tf.Variable(0, dtype=tf.int64, trainable=False)
    averages = tuple(tf.Variable(array, trainable=False) for array in start.averages)
    return State(program.State(weights, zeros(), zeros(), steps), averages, zeros() if accumulate else ())


class Program:
    """The functions of one network, each compiled at its first call. Any number of threads may call them.

    Args:
        network: the network.
    """

    def __init__(self, network: Network) -> None:
        tf = load_tensorflow()
        self._network = network
        compiled = functools.partial(tf.function, jit_compile=False, autograph=False, reduce_retracing=True)
        self._step = compiled(self._take_step)
        self._add = compiled(self._add_gradients)
        self._end = compiled(self._end_batch)
        self._scores = compiled(self._score)

    def train(self, state: State, settings: program.Settings, part: MicroBatch) -> float:
        """Train on a micro-batch, and take the batch's step of Adam after the last one.

        Args:
            state: changed in place.
            settings: the trial's settings.
            part: the micro-batch. Those of a batch come in order, and end before the next batch begins.

        Returns:
            The micro-batch's share of the batch's mean loss, before the step.
        """
        tf = load_tensorflow()
        arguments = [
            tf.constant(part.images),
            tf.constant(_padded(part.flips.astype(np.int32), part.images)),
            tf.constant(_padded(part.targets, part.images)),
            *(tf.constant(number, tf.int32) for number in (part.films, part.start, part.batch)),
        ]
        if part.films == part.batch:
            return float(self._step(state.optimised, state.averages, settings, *arguments))
        loss = self._add(
            state.optimised.weights,
            state.optimised.steps,
            state.averages,
            state.gradients,
            settings,
            *arguments,
        )
        if part.last:
            self._end(state.optimised, state.gradients, settings)
        return float(loss)

    def predict(self, state: State, images: np.ndarray, films: int) -> np.ndarray:
        """Return the scores of films by the moving averages: (films, 18) float32 probabilities.

        Args:
            state: the network's state.
            images: as in `MicroBatch`.
            films: how many of them are films.
        """
        tf = load_tensorflow()
        count = tf.constant(films, tf.int32)
        scores: np.ndarray = self._scores(state.optimised.weights, state.averages, tf.constant(images), count).numpy()
        return scores

    def _take_step(self, optimised: program.State, averages: Any, settings: program.Settings, *part: Any) -> Any:
        loss, gradients = self._gradients(optimised.weights, optimised.steps, averages, settings, *part)
        _update(optimised, settings, gradients)
        return loss

    def _add_gradients(
        self, weights: Any, steps: Any, averages: Any, gradients: Any, settings: program.Settings, *part: Any
    ) -> Any:
        loss, added = self._gradients(weights, steps, averages, settings, *part)
        for total, gradient in zip(gradients, added, strict=True):
            total.assign_add(gradient)
        return loss

    def _end_batch(self, optimised: program.State, gradients: Any, settings: program.Settings) -> None:
        tf = load_tensorflow()
        _update(optimised, settings, [total.read_value() for total in gradients])
        for total in gradients:
            total.assign(tf.zeros_like(total))

    def _gradients(
        self,
        weights: Any,
        steps: Any,
        averages: Any,
        settings: program.Settings,
        images: Any,
        flips: Any,
        targets: Any,
        films: Any,
        start: Any,
        batch: Any,
    ) -> tuple[Any, Any]:
        """Return a micro-batch's shares of the batch's mean loss and of its gradients, and move the averages."""
        tf = load_tensorflow()

        def drop(layer: int, x: Any) -> Any:
            # Drawn for the whole batch, so that dropout does not depend on the micro-batches.
            seed = tf.stack([settings.seed, steps * self._network.dropouts + layer])
            return program.dropped_part(x, settings.dropout_rate, seed, batch, start)

        x = self._films(images[:films], flips[:films])
        values = tf.cast(batch * len(LABELS), tf.float32)
        with tf.GradientTape() as tape:
            logits, changed = self._network.logits(weights, averages, x, drop)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets[:films], logits=logits)
            share = tf.reduce_sum(losses) / values
        gradients = tape.gradient(share, list(weights))
        for average, value in zip(averages, changed, strict=True):
            average.assign(value)
        return share, gradients

    def _score(self, weights: Any, averages: Any, images: Any, films: Any) -> Any:
        tf = load_tensorflow()
        unflipped = tf.zeros([films], tf.int32)
        logits, _ = self._network.logits(weights, averages, self._films(images[:films], unflipped))
        return tf.sigmoid(logits)

    def _films(self, images: Any, flips: Any) -> Any:
        """Return films as they enter the network: (films, size, size, channels) float32 in [−1, 1]."""
        tf = load_tensorflow()
        grey = tf.cast(flipped(images, flips), tf.float32) * (2 / WHITE) - 1
        return tf.repeat(grey[..., tf.newaxis], self._network.channels, axis=-1)


def _update(optimised: program.State, settings: program.Settings, gradients: Any) -> None:
    optimised.steps.assign_add(1)
    program.update(optimised, settings, gradients)


def _padded(array: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return an array with as many rows as there are places for films."""
    padded = np.zeros((len(images), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


_PROGRAMS: dict[Network, Program] = {}
_MAKING = threading.Lock()
MOST_PROGRAMS = 4
"""How many programs a process keeps: a study has one, and a worker serves few studies at a time."""


def program_of(network: Network) -> Program:
    """Return the program of a network, the same for equal networks."""
    with _MAKING:
        if network not in _PROGRAMS:
            while len(_PROGRAMS) >= MOST_PROGRAMS:
                del _PROGRAMS[next(iter(_PROGRAMS))]
            _PROGRAMS[network] = Program(network)
        return _PROGRAMS[network]
