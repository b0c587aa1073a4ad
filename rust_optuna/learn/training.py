"""One head, trained epoch by epoch on one fold's training films."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rust_optuna.config import TrialConfiguration
from rust_optuna.learn import program
from rust_optuna.learn.extraction import HORIZONTAL, VERTICAL
from rust_optuna.learn.head import initial_weights
from rust_optuna.learn.sources import FeatureSource

FLIP_BITS = {"both": HORIZONTAL | VERTICAL, "horizontal": HORIZONTAL, "vertical": VERTICAL, "none": 0}


def epoch_order(seed: int, epoch: int, films: np.ndarray, flip_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an epoch's films in training order, and the flip of each film.

    Args:
        seed: the fold's seed.
        epoch: the epoch's number, from 1.
        films: (training films,) their numbers.
        flip_bits: the bits that a flip may have, see `FLIP_BITS`.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(films)
    flips = generator.integers(0, HORIZONTAL | VERTICAL, size=len(order), endpoint=True)
    return order, flips & flip_bits


class EpochTrainer:
    """What the trainers of a head and of a whole network have in common: the fold's films, their labels and order.

    Args:
        labels: (all films, 18) of 0 and 1.
        films: (training films,) the numbers of the films to train on.
        trial: the hyperparameters.
        seed: the fold's seed, at least 0.
        on_advance: called whenever training got on within an epoch.

    Raises:
        ValueError: there is no film to train on.
    """

    def __init__(
        self,
        labels: np.ndarray,
        films: np.ndarray,
        trial: TrialConfiguration,
        seed: int,
        on_advance: Callable[[], None],
    ) -> None:
        if not len(films):
            raise ValueError("the fold has no training films")
        self.seed = seed
        self.batch_size = min(trial.batch_size, len(films))
        """The size of the training batches; the last batch of an epoch may be short."""
        self._on_advance = on_advance
        self._targets = labels.astype(np.float32)
        self._films = np.asarray(films)
        self._flip_bits = FLIP_BITS[trial.flips]

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an epoch's films in training order, and the flip of each film.

        Args:
            epoch: the epoch's number, from 1.
        """
        return epoch_order(self.seed, epoch, self._films, self._flip_bits)


class FoldTrainer(EpochTrainer):
    """The state of one fold's training: weights, optimizer, steps.

    The seed alone decides initial weights, order, flips and dropout. So the same features give the same bits whatever
    ran before or runs at the same time, in other threads too. Only one thread at a time may use a trainer.

    Args:
        source: the features.
        labels: (all films, 18) of 0 and 1, in the order of the source.
        films: (training films,) the numbers of the films to train on.
        trial: the hyperparameters.
        seed: the fold's seed, at least 0.
        micro_batch: the maximum number of films computed at a time if memory is short; None for whole batches. Values
            then agree up to rounding, not to the bit.
        on_advance: called after each chunk of batches: every batch with live features, else the whole epoch.

    Raises:
        ValueError: there is no film to train on.
    """

    def __init__(
        self,
        source: FeatureSource,
        labels: np.ndarray,
        films: np.ndarray,
        trial: TrialConfiguration,
        seed: int,
        *,
        micro_batch: int | None = None,
        on_advance: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(labels, films, trial, seed, on_advance)
        self._source = source
        self._micro_batch = micro_batch
        self._state = program.new_state(initial_weights(source.width, trial.hidden_units, seed))
        self._settings = program.new_settings(
            learning_rate=trial.learning_rate,
            epsilon=trial.epsilon,
            dropout_rate=trial.dropout_rate,
            seed=seed,
            standardisation=source.standardisation(films) if trial.standardize else None,
            precision=trial.training_precision,
        )

    @property
    def steps(self) -> int:
        """The number of optimizer steps so far, as counted by the program that takes them."""
        return int(self._state.steps.numpy())

    @property
    def weights(self) -> list[np.ndarray]:
        """Copies of the current kernel, bias, kernel, bias, …."""
        return [variable.numpy().copy() for variable in self._state.weights]

    @property
    def finite(self) -> bool:
        """Whether all weights are finite. With dead units, loss and scores may be finite while some weights are not."""
        return all(np.isfinite(array).all() for array in self.weights)

    def train_epoch(self, epoch: int) -> float:
        """Train on every film once and return the mean of the batches' losses (not finite once training diverged).

        Args:
            epoch: the epoch's number, from 1. Each epoch is trained at most once, in order.

        Raises:
            RuntimeError: the first batch, as gathered, does not have the requested size, or a batch was left out.
        """
        films, flips = self.order(epoch)
        at_once = self._source.batches_at_once
        stride = len(films) if at_once is None else at_once * self.batch_size
        loss, steps = 0.0, 0
        for start in range(0, len(films), stride):
            chunk = films[start : start + stride]
            table, rows = self._source.gather(chunk, flips[start : start + stride])
            targets = self._targets[chunk]
            progress = program.train(
                self._state, self._settings, table, rows, targets, self.batch_size, loss, self._micro_batch
            )
            loss, steps = progress.loss, steps + progress.steps
            if start == 0 and progress.first_batch != self.batch_size:
                raise RuntimeError(
                    f"the batch size is {self.batch_size}, but the first batch had {progress.first_batch}"
                )
            self._on_advance()
        if steps != math.ceil(len(films) / self.batch_size):
            raise RuntimeError(f"took {steps} steps for {len(films)} films in batches of {self.batch_size}")
        return loss / steps

    def predict(self, films: np.ndarray) -> np.ndarray:
        """Return the scores of the unflipped films: (films, 18) float32."""
        at_once = self._micro_batch
        if at_once is None or at_once >= len(films):
            return self._predict(films)
        parts = [films[start : start + at_once] for start in range(0, len(films), at_once)]
        return np.concatenate([self._predict(part) for part in parts])

    def _predict(self, films: np.ndarray) -> np.ndarray:
        return program.predict(self._state, self._settings, self._source.unflipped(films))
