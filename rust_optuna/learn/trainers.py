"""What trains a fold: a head on features, or a whole network on films. Nothing else in a trial differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from rust_optuna.config import TrialConfiguration
from rust_optuna.learn.end_to_end import EndToEndTrainer, network_bytes
from rust_optuna.learn.pixels import Pixels
from rust_optuna.learn.runtime import side_by_side_threads
from rust_optuna.learn.sources import FeatureSource
from rust_optuna.learn.training import FoldTrainer
from rust_optuna.machine import memory_available

Source = FeatureSource | Pixels
"""What a trial is trained on: features for ``train = "head"``, films for ``train = "all"``."""


class Trainer(Protocol):
    """The state of one fold's training. Only one thread at a time may use it."""

    seed: int
    batch_size: int

    @property
    def finite(self) -> bool:
        """Whether all weights are finite."""

    def train_epoch(self, epoch: int) -> float:
        """Train on every film once and return the mean of the batches' losses (not finite once training diverged)."""

    def predict(self, films: np.ndarray) -> np.ndarray:
        """Return the scores of the unflipped films: (films, 18) float32."""


def new_trainer(
    source: Source,
    labels: np.ndarray,
    films: np.ndarray,
    trial: TrialConfiguration,
    seed: int,
    *,
    micro_batch: int | None = None,
    on_advance: Callable[[], None] = lambda: None,
) -> Trainer:
    """Return the trainer of one fold.

    Args:
        source: the features or films.
        labels: (all films, 18) of 0 and 1, in the order of the source.
        films: (training films,) the numbers of the films to train on.
        trial: the hyperparameters.
        seed: the fold's seed, at least 0.
        micro_batch: the maximum number of films computed at a time if memory is short. A network that is trained end to
            end has a micro-batch of its own, which is part of its numerics.
        on_advance: called whenever training or scoring advances.

    Raises:
        ValueError: there is no film to train on.
        WeightsError: the weights to start from are missing or do not fit.
    """
    if isinstance(source, Pixels):
        return EndToEndTrainer(source, labels, films, trial, seed, on_advance=on_advance)
    return FoldTrainer(source, labels, films, trial, seed, micro_batch=micro_batch, on_advance=on_advance)


def computed_at_a_time(trial: TrialConfiguration, limit: int | None) -> int | None:
    """Return the maximum number of films that a trial computes at a time; None for whole batches.

    Args:
        trial: the trial.
        limit: the maximum that memory allows for the training of heads; None for no limit.
    """
    return trial.micro_batch if trial.end_to_end else limit


def folds_at_once(trial: TrialConfiguration) -> int:
    """Return how many folds train at once: one per core of this process as far as memory allows, or one on a GPU."""
    threads = side_by_side_threads()
    if not trial.end_to_end or threads == 1:
        return threads
    return max(1, min(threads, memory_available() // network_bytes(trial)))
