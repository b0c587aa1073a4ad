"""Measurement of the time that the steps of a trial and of extraction take on this machine, with the real code."""

from __future__ import annotations

import functools
import heapq
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rust_optuna.config import BackboneConfiguration, TrialConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.cross_validation import cross_validate, save_out_of_fold
from rust_optuna.learn.extraction import FLIPS, Extractor, read_film
from rust_optuna.learn.features import Features
from rust_optuna.learn.runtime import side_by_side_threads
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.learn.threads import SideBySide
from rust_optuna.learn.training import FoldTrainer

BATCH_SIZES = (4, 16, 64, 256, 1024)
"""The batch sizes at which a step is timed, if they lie between the trials' smallest and largest. Those two and the
full training set are timed too. Between timed sizes, the time of a step is interpolated linearly."""
FILMS_AN_EPOCH = 256
"""The films in a timed epoch, or one batch if that is more, so that the epoch's own cost is small beside its steps."""
SECONDS_A_SIZE = 0.5
ROUNDS = 3


def timed_sizes(batch_sizes: Sequence[int], films: int) -> list[int]:
    """Return the batch sizes at which a step is timed, for trials of these batch sizes on this many training films."""
    smallest, largest = (min(size, films) for size in (min(batch_sizes), max(batch_sizes)))
    return sorted({smallest, *(size for size in BATCH_SIZES if smallest < size < largest), largest})


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last job ends if each worker takes the next job as soon as it is free."""
    ends = [0.0] * workers
    for duration in seconds:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


@dataclass(frozen=True)
class TrainingTimes:
    """The parts of a trial's time, in seconds.

    Args:
        steps: (batch size, seconds of one optimizer step while ``threads`` folds train at once), sizes ascending.
        scoring: the scoring of one fold's validation films after one epoch, including the metric.
        overhead: a trial's time outside its epochs: initial weights, metrics of the best epoch, storing the scores.
        artifact_bytes: the size of a trial's stored scores.
        memory_bytes: the peak memory of the measuring process, with features of real size.
        threads: the number of folds that train at once.
    """

    steps: tuple[tuple[int, float], ...]
    scoring: float
    overhead: float
    artifact_bytes: int
    memory_bytes: int
    threads: int = 1

    def step(self, batch_size: int) -> float:
        """Return the seconds of one step, interpolated between the two nearest measured sizes."""
        sizes, seconds = zip(*self.steps, strict=True)
        return float(np.interp(batch_size, sizes, seconds))

    def epoch(self, films: int, batch_size: int) -> float:
        """Return the seconds of training once on this many films; the last batch may be short."""
        whole, rest = divmod(films, min(batch_size, films))
        return whole * self.step(min(batch_size, films)) + (self.step(rest) if rest else 0.0)

    def trial(self, training_films: Sequence[int], batch_size: int, epochs: int) -> float:
        """Return the seconds of a cross-validation.

        Args:
            training_films: the number of training films of each fold.
            batch_size: the trial's batch size.
            epochs: the trial's number of epochs.
        """
        folds = [self.epoch(films, batch_size) + self.scoring for films in training_films]
        return self.overhead + epochs * makespan(folds, self.threads)


class TrainingTimer:
    """A timer of training, on random features of real size, which take as long as real ones.

    Args:
        development: the study's films, with their labels and folds.
        width: the number of features of a film.
        trial: any trial of the kind to be timed; its batch size and epochs do not matter.
        batch_sizes: the batch sizes of the trials that are to be run.
    """

    def __init__(
        self, development: DevelopmentSet, width: int, trial: TrialConfiguration, batch_sizes: Sequence[int]
    ) -> None:
        self._development = development
        generator = np.random.default_rng(0)
        table = generator.random((len(development.content), FLIPS, width), dtype=np.float32)
        self._source = CachedFeatures(Features(table, "made up"))
        self._trial = trial
        self._training = np.flatnonzero(development.folds != 0)
        folds = len(np.unique(development.folds))
        self._threads = min(side_by_side_threads(), folds)
        self._rounds = math.ceil(folds / self._threads)
        films = len(self._training)
        # Trials with all films in one batch reveal the time outside steps.
        self.sizes = sorted({*timed_sizes(batch_sizes, films), films})
        # Call each program once, so that none is traced while the clock runs.
        self._cross_validate()

    def measure(self) -> TrainingTimes:
        """Time a step of each size, a fold's scoring and the overhead; return medians of several runs."""
        seconds: dict[int, list[float]] = {size: [] for size in self.sizes}
        for _ in range(ROUNDS):
            for size in self.sizes:
                seconds[size].append(self._step(size))
        steps = tuple((size, float(np.median(times))) for size, times in seconds.items())
        bare = TrainingTimes(steps, scoring=0.0, overhead=0.0, artifact_bytes=0, memory_bytes=0, threads=self._threads)
        trials = {epochs: [self._cross_validate(epochs)[0] for _ in range(ROUNDS)] for epochs in (1, 2)}
        whole = {epochs: float(np.median(times)) for epochs, times in trials.items()}
        folds = [int((self._development.folds != fold).sum()) for fold in np.unique(self._development.folds)]
        training = makespan([bare.epoch(films, max(self.sizes)) for films in folds], self._threads)
        return replace(
            bare,
            scoring=max(0.0, whole[2] - whole[1] - training) / self._rounds,
            overhead=max(0.0, 2 * whole[1] - whole[2]),
            artifact_bytes=self._cross_validate()[1],
            memory_bytes=peak_memory(),
        )

    def _step(self, batch_size: int) -> float:
        """Return the mean seconds of a step with a full batch, measured for at least `SECONDS_A_SIZE`."""
        steps = max(1, min(FILMS_AN_EPOCH, len(self._training)) // batch_size)
        films = self._training[: steps * batch_size]
        trainers = [self._trainer(films, batch_size) for _ in range(self._threads)]
        with SideBySide(self._threads) as side_by_side:
            side_by_side.map(lambda trainer: trainer.train_epoch(1), trainers)
            began, epoch = time.perf_counter(), 1
            while time.perf_counter() - began < SECONDS_A_SIZE:
                epoch += 1
                side_by_side.map(functools.partial(_train, epoch), trainers)
            return (time.perf_counter() - began) / (epoch - 1) / steps

    def _trainer(self, films: np.ndarray, batch_size: int) -> FoldTrainer:
        trial = replace(self._trial, batch_size=batch_size, features="cached")
        return FoldTrainer(self._source, self._development.labels, films, trial, seed=0)

    def _cross_validate(self, epochs: int = 1) -> tuple[float, int]:
        """Run a short trial with all films in one batch; return its seconds and the bytes of its stored scores."""
        trial = replace(self._trial, batch_size=len(self._training), epochs=epochs, features="cached")
        began = time.perf_counter()
        result = cross_validate(
            self._development, self._source, trial, seed=0, point=0, on_epoch=lambda epoch, value: None
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scores.npz"
            save_out_of_fold(path, result)
            return time.perf_counter() - began, path.stat().st_size


@dataclass(frozen=True)
class ExtractionTimes:
    """The cost of extraction.

    Args:
        kind: the kind of arithmetic, by which features are kept.
        width: the number of features of a film.
        reading: the seconds to read and resize one film.
        flip: the seconds of the backbone for one film in one flip, with as many micro-batches at once as in extraction.
    """

    kind: str
    width: int
    reading: float
    flip: float

    @property
    def film(self) -> float:
        """The seconds for one film in all four flips."""
        return self.reading + FLIPS * self.flip


class ExtractionTimer:
    """A timer of the backbone, on real films.

    Args:
        backbone: the backbone to time.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """

    def __init__(self, backbone: BackboneConfiguration) -> None:
        self._backbone = backbone
        self._extractor = Extractor(backbone)

    def measure(self, contents: Sequence[str], read: Callable[[str], bytes]) -> ExtractionTimes:
        """Time the reading of these films and a few runs of the backbone on whole micro-batches of them.

        Raises:
            DataError: a film cannot be read.
        """
        began = time.perf_counter()
        images = [read_film(self._backbone, content, read) for content in contents]
        reading = (time.perf_counter() - began) / len(images)
        films = np.arange(self._extractor.slots * self._extractor.threads)
        batch = np.stack([images[film % len(images)] for film in films])
        self._extractor.extract(batch, films % FLIPS)
        runs = []
        for _ in range(2 * ROUNDS):
            began = time.perf_counter()
            self._extractor.extract(batch, films % FLIPS)
            runs.append(time.perf_counter() - began)
        kind = arithmetic(self._backbone.extraction_precision)
        return ExtractionTimes(kind, self._extractor.width, reading, float(np.median(runs)) / len(films))


def _train(epoch: int, trainer: FoldTrainer) -> None:
    trainer.train_epoch(epoch)


def peak_memory() -> int:
    """Return the peak memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
