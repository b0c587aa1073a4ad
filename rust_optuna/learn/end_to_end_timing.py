"""Measurement of the time that end-to-end training takes on this machine, with the real code."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rust_optuna.config import TrialConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.manifest import LABELS
from rust_optuna.learn.end_to_end import EndToEndTrainer, network_bytes
from rust_optuna.learn.pixels import Pixels
from rust_optuna.learn.threads import SideBySide
from rust_optuna.learn.timing import TrainingTimes, peak_memory
from rust_optuna.learn.trainers import folds_at_once

SECONDS = 2.0
"""How long each kind of step is timed at least, after a first one that compiles it."""
FILMS_AT_MOST = 8
"""The films of a timed micro-batch of InceptionV3. A film takes about as long in a larger one, and on a processor a
larger one takes minutes. LeNet-1998 is timed with whole micro-batches: those are quick, and their time grows less than
their films."""
ARTIFACT_BYTES_A_FILM = 120
"""The stored scores of a film: 18 float32, a content hash and labels, compressed."""


class EndToEndTimer:
    """A timer of end-to-end training, on random films of real size, which take as long as real ones.

    A step of Adam is timed on one micro-batch and on two, which gives the seconds of a film and those of a step. A
    trial's time is added up from these: the first for each film, epoch and fold, the second for each batch. It is taken
    for granted that a film takes as long in a micro-batch of another size.

    Args:
        development: the study's films, with their labels and folds.
        trial: any trial of the kind to be timed; its hyperparameters and epochs do not matter.
    """

    def __init__(self, development: DevelopmentSet, trial: TrialConfiguration) -> None:
        self._development = development
        folds, counts = np.unique(development.folds, return_counts=True)
        self._folds, self._validation = len(folds), float(counts.mean())
        asked = max(1, min(trial.micro_batch, len(development.content) - int(counts.min())))
        self._films = min(asked, FILMS_AT_MOST) if trial.architecture == "inception_v3" else asked
        size = trial.backbone.image_size
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (2 * self._films, size, size), dtype=np.uint8)
        self._pixels = Pixels(images, "made up")
        self._labels = generator.integers(0, 2, (len(images), len(LABELS)), dtype=np.uint8)
        self._trial = replace(trial, batch_size=2 * self._films, micro_batch=self._films)
        whole = replace(trial, batch_size=2 * asked, micro_batch=asked)
        self._threads = min(folds_at_once(whole), self._folds)
        self._untimed_bytes = self._threads * (network_bytes(whole) - network_bytes(self._trial))
        self._trainers = {parts: [self._trainer(parts) for _ in range(self._threads)] for parts in (1, 2)}
        for parts in self._trainers:
            self._train(parts, epoch=1)
        self._score()
        self._epoch = 1

    def measure(self) -> TrainingTimes:
        """Time a step on one micro-batch and on two, and the scoring of a micro-batch."""
        one, two = (self._repeat(lambda parts=parts: self._train_next(parts)) for parts in (1, 2))  # type: ignore[misc]
        # On a busy machine, noise may be larger than the difference.
        film = max(two - one, one / 20) / self._films
        step = max(0.0, one - film * self._films)
        scored = self._repeat(self._score) / self._films
        largest = max(2, len(self._development.content))
        state = 3 * sum(array.nbytes for array in self._trainers[1][0].weights)
        return TrainingTimes(
            steps=((1, film + step), (largest, largest * film + step)),
            scoring=self._validation * scored,
            overhead=0.0,
            artifact_bytes=ARTIFACT_BYTES_A_FILM * len(self._development.content),
            # Every fold of a trial keeps its weights and their moments; the timer had two kinds of trainers instead.
            memory_bytes=peak_memory() + max(0, self._folds - 2 * self._threads) * state + self._untimed_bytes,
            threads=self._threads,
        )

    def _trainer(self, parts: int) -> EndToEndTrainer:
        films = np.arange(parts * self._films)
        return EndToEndTrainer(self._pixels, self._labels, films, self._trial, seed=0)

    def _train_next(self, parts: int) -> None:
        self._epoch += 1
        self._train(parts, self._epoch)

    def _train(self, parts: int, epoch: int) -> None:
        """Take one step in each of the trainers that train at once."""
        with SideBySide(self._threads) as side_by_side:
            side_by_side.map(lambda trainer: trainer.train_epoch(epoch), self._trainers[parts])

    def _score(self) -> None:
        with SideBySide(self._threads) as side_by_side:
            side_by_side.map(lambda trainer: trainer.predict(np.arange(self._films)), self._trainers[1])

    def _repeat(self, action: Callable[[], None]) -> float:
        """Return the mean seconds of an action, which is repeated for at least `SECONDS`."""
        began, runs = time.perf_counter(), 0
        while not runs or time.perf_counter() - began < SECONDS:
            action()
            runs += 1
        return (time.perf_counter() - began) / runs
