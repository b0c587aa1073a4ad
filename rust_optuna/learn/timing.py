"""How long the steps of a trial and of extraction take on this machine: measured on the real code, never looked up."""

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
"""Sizes of which a step is timed where they lie between the smallest and the largest of the trials, which are timed
too, and so are all training films at once; between them a step's time is a straight line."""
FILMS_AN_EPOCH = 256
"""Or one batch, where that is more: an epoch's own cost must vanish beside its steps."""
SECONDS_A_SIZE = 0.5
ROUNDS = 3


def timed_sizes(batch_sizes: Sequence[int], films: int) -> list[int]:
    """Return the sizes of which a step is timed for trials of some batch sizes that train on that many films."""
    smallest, largest = (min(size, films) for size in (min(batch_sizes), max(batch_sizes)))
    return sorted({smallest, *(size for size in BATCH_SIZES if smallest < size < largest), largest})


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last of some jobs ends if each of some workers takes the next as soon as it is free."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


@dataclass(frozen=True)
class TrainingTimes:
    """The parts that a trial's time is made of, in seconds.

    Args:
        steps: (batch size, seconds of one optimizer step while as many folds train at once), sizes ascending.
        scoring: of one fold's validation films after one epoch, metric included.
        overhead: of a trial outside its epochs: initial weights, metrics of the best epoch, the stored scores.
        artifact_bytes: size of a trial's stored scores.
        memory_bytes: the most that the measuring process took, with features of true size.
        threads: how many folds train at once.
    """

    steps: tuple[tuple[int, float], ...]
    scoring: float
    overhead: float
    artifact_bytes: int
    memory_bytes: int
    threads: int = 1

    def step(self, batch_size: int) -> float:
        """Return the seconds of one step, on the straight line through the two nearest measured sizes."""
        sizes, seconds = zip(*self.steps, strict=True)
        return float(np.interp(batch_size, sizes, seconds))

    def epoch(self, films: int, batch_size: int) -> float:
        """Return the seconds of training on that many films once; the last batch may be short."""
        whole, rest = divmod(films, min(batch_size, films))
        return whole * self.step(min(batch_size, films)) + (self.step(rest) if rest else 0.0)

    def trial(self, training_films: Sequence[int], batch_size: int, epochs: int) -> float:
        """Return the seconds of a cross-validation.

        Args:
            training_films: how many each fold trains on.
            batch_size: of the trial.
            epochs: of the trial.
        """
        folds = [self.epoch(films, batch_size) + self.scoring for films in training_films]
        return self.overhead + epochs * makespan(folds, self.threads)


class TrainingTimer:
    """Times training on made-up features of true size, which take as long as real ones.

    Args:
        development: the study's films, with their labels and folds.
        width: features of a film.
        trial: any trial of the kind to be timed; its batch size and epochs do not matter.
        batch_sizes: of the trials that are to be run.
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
        # What is no step is found by trials with all films in a batch.
        self.sizes = sorted({*timed_sizes(batch_sizes, films), films})
        # One call of each program, so that none is traced while the clock runs.
        self._cross_validate()

    def measure(self) -> TrainingTimes:
        """Time a step of each size, the scoring of a fold and the overhead, each several times; take medians."""
        seconds: dict[int, list[float]] = {size: [] for size in self.sizes}
        for _ in range(ROUNDS):
            for size in self.sizes:
                seconds[size].append(self._step(size))
        steps = tuple((size, float(np.median(found))) for size, found in seconds.items())
        bare = TrainingTimes(steps, scoring=0.0, overhead=0.0, artifact_bytes=0, memory_bytes=0, threads=self._threads)
        trials = {epochs: [self._cross_validate(epochs)[0] for _ in range(ROUNDS)] for epochs in (1, 2)}
        whole = {epochs: float(np.median(found)) for epochs, found in trials.items()}
        folds = [int((self._development.folds != fold).sum()) for fold in np.unique(self._development.folds)]
        training = makespan([bare.epoch(films, max(self.sizes)) for films in folds], self._threads)
        return replace(
            bare,
            scoring=max(0.0, whole[2] - whole[1] - training) / self._rounds,
            overhead=max(0.0, 2 * whole[1] - whole[2]),
            artifact_bytes=self._cross_validate()[1],
            memory_bytes=_peak_memory(),
        )

    def _step(self, batch_size: int) -> float:
        """Return the mean seconds of a step of full batches, over at least `SECONDS_A_SIZE`."""
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
        """Run a short trial with all films in a batch; return its seconds and the bytes of its stored scores."""
        trial = replace(self._trial, batch_size=len(self._training), epochs=epochs, features="cached")
        began = time.perf_counter()
        found = cross_validate(
            self._development, self._source, trial, seed=0, point=0, on_epoch=lambda epoch, value: None
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scores.npz"
            save_out_of_fold(path, found)
            return time.perf_counter() - began, path.stat().st_size


@dataclass(frozen=True)
class ExtractionTimes:
    """What extraction costs.

    Args:
        kind: of arithmetic, by which features are kept.
        width: features of a film.
        reading: seconds to read and resize one film.
        flip: seconds of the backbone, for one film in one flip, with as many micro-batches at once as there will be.
    """

    kind: str
    width: int
    reading: float
    flip: float

    @property
    def film(self) -> float:
        """Seconds for one film in all four flips."""
        return self.reading + FLIPS * self.flip


class ExtractionTimer:
    """Times the backbone on real films.

    Args:
        backbone: whose features.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """

    def __init__(self, backbone: BackboneConfiguration) -> None:
        self._backbone = backbone
        self._extractor = Extractor(backbone)

    def measure(self, contents: Sequence[str], read: Callable[[str], bytes]) -> ExtractionTimes:
        """Read these films and run the backbone on them a few times, on whole micro-batches.

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


def _peak_memory() -> int:
    """Return the most memory this process has taken, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
