"""One trial: the folds of a development set, trained and scored epoch by epoch.

**This is where a trial is scored.** After each epoch, every fold scores its validation films by average precision,
macro over the labels that have positives. The mean over the folds is the epoch's point on the trial's curve, and the
trial's value is the curve's highest point.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rust_optuna.config import TrialConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.manifest import LABELS, VIEWS
from rust_optuna.data.metrics import (
    labels_without_positives,
    macro_average_precision,
    summarise,
    summarise_untied,
    view_only_scores,
)
from rust_optuna.data.scores import AveragePrecisions, Scores
from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.runtime import KERNEL_THREADS, describe_device, versions
from rust_optuna.learn.threads import SideBySide
from rust_optuna.learn.trainers import Source, computed_at_a_time, folds_at_once, new_trainer
from rust_optuna.learn.trial_report import BatchSizes, Seeds, Threads, TrialReport
from rust_optuna.paths import atomic_write

SEED_BITS = 52
"""The number of bits of a fold's seed. Seeds are reported in JSON, whose readers keep only 53 bits of an integer."""


@dataclass(frozen=True)
class OutOfFold:
    """Each film's scores by the head that did not see its patient, from which every number of a trial is computed.

    Args:
        film: (films,) content hashes, ``U64``.
        fold: (films,) the fold whose validation films include the film.
        labels: (films, 18) uint8.
        scores: (films, 18) float32.
    """

    film: np.ndarray
    fold: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class CrossValidation:
    """The result of one trial.

    Args:
        report: every number that is stored with the trial, except those that the objective adds.
        out_of_fold: the scores at the report's epoch.
    """

    report: TrialReport
    out_of_fold: OutOfFold


def cross_validate(
    development: DevelopmentSet,
    source: Source,
    trial: TrialConfiguration,
    *,
    seed: int,
    point: int,
    on_epoch: Callable[[int, float], None],
    on_advance: Callable[[], None] = lambda: None,
    micro_batch: int | None = None,
    threads: int | None = None,
) -> CrossValidation:
    """Train and score all folds, epoch by epoch.

    Several folds train at once if the process has several cores. They share only the features, and meet at the end of
    each epoch. Each operation runs on one thread, so the bits do not depend on the number of cores.

    Args:
        development: films, labels and folds.
        source: the features of those films, in their order, or the films themselves for training end to end.
        trial: the hyperparameters.
        seed: the study's seed.
        point: the design point's number. The same (seed, point) gives the same bits, alone or after other trials.
        on_epoch: called after each epoch with its number, from 1, and the mean over the folds. An exception it raises
            (the trial is pruned, the lease lost) ends the trial and propagates.
        on_advance: called whenever the trial advances within an epoch: after each fold, with live features after each
            batch too, and in training end to end after each micro-batch, from the thread that trains the fold. An
            exception it raises propagates as well.
        micro_batch: the maximum number of films computed at a time if memory is short; None for whole batches. The
            steps agree up to rounding, so only the same micro-batch is guaranteed to give the same bits. Training end
            to end has a micro-batch of its own.
        threads: the number of folds that train at once; None for one per core of this process, or one on a GPU.

    Raises:
        ValueError: the source holds another number of films, or a fold leaves no films to train on.
    """
    if source.films != len(development.content):
        raise ValueError(
            f"the source has features of {source.films} films, the development set has {len(development.content)} films"
        )
    started = time.monotonic()
    numbers = [int(fold) for fold in np.unique(development.folds)]
    threads = min(threads or folds_at_once(trial), len(numbers))
    at_a_time = computed_at_a_time(trial, micro_batch)
    best = _Best(films=len(development.content))
    curve: list[float] = []
    with SideBySide(threads) as side_by_side:

        def advanced() -> None:
            side_by_side.check()
            on_advance()

        folds = [
            _Fold(development, source, trial, fold, fold_seed(seed, point, fold), micro_batch, advanced)
            for fold in numbers
        ]
        for epoch in range(1, trial.epochs + 1):
            values = side_by_side.map(functools.partial(_Fold.advance, epoch=epoch), folds)
            curve.append(float(np.mean(values)))
            best.offer(epoch, curve[-1], values, folds)
            on_epoch(epoch, curve[-1])
    scores, baseline, untied_baseline, left_out = scores_over_folds(development, best.scores)
    report = TrialReport(
        epoch=best.epoch,
        value=curve[best.epoch - 1],
        curve=tuple(curve),
        fold_values=best.fold_values,
        diverged_folds=tuple(fold.number for fold in folds if fold.diverged or not fold.trainer.finite),
        scores=scores,
        baseline=baseline,
        untied_baseline=untied_baseline,
        labels_left_out=left_out,
        batch_size=BatchSizes(trial.batch_size, tuple(fold.trainer.batch_size for fold in folds)),
        micro_batch=at_a_time if at_a_time and any(at_a_time < fold.at_once for fold in folds) else None,
        seeds=Seeds(seed, point, tuple(fold.trainer.seed for fold in folds)),
        features_sha256=source.sha256,
        arithmetic=arithmetic(trial.training_precision),
        threads=Threads(KERNEL_THREADS, threads),
        device=describe_device(),
        host=platform.node(),
        versions=versions(),
        seconds=round(time.monotonic() - started, 3),
    )
    films = np.array(development.content, dtype="U64")
    return CrossValidation(report, OutOfFold(films, development.folds, development.labels, best.scores))


def fold_seed(seed: int, point: int, fold: int) -> int:
    """Return a fold's seed: a hash of (study seed, design point, fold) with `SEED_BITS` bits."""
    state = np.random.SeedSequence((seed, point, fold)).generate_state(1, np.uint64)
    return int(state[0]) >> (64 - SEED_BITS)


def save_out_of_fold(path: Path, result: CrossValidation) -> None:
    """Write the out-of-fold scores atomically as ``.npz``, which `numpy.load` reads without pickle."""
    scores = result.out_of_fold
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, allow_pickle=False, film=scores.film, fold=scores.fold, labels=scores.labels, scores=scores.scores
        )


def load_out_of_fold(path: Path) -> OutOfFold:
    """Read the scores that `save_out_of_fold` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return OutOfFold(arrays["film"], arrays["fold"], arrays["labels"], arrays["scores"])


@dataclass(frozen=True, eq=False)
class FoldCurve:
    """One fold of a configuration that is compared with others: what is needed to score it after any epoch.

    All folds of a configuration together are one trial's cross-validation. Which epoch counts is known once all are
    done, so the scores after each one are kept: 4 bytes a film, label and epoch.

    Args:
        films: (films,) content hashes of the films that were left out, ``U64``.
        labels: (films, 18) uint8, theirs.
        scores: (epochs, films, 18) float32, after each epoch; after a divergence, those of the last finite epoch.
        curve: after each epoch, the average precision on these films, macro over the labels that have positives.
        curve_16: the same over the 16 subscores; None where no film has one.
        diverged: whether loss, scores or weights stopped being finite.
    """

    films: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    curve: tuple[float, ...]
    curve_16: tuple[float, ...] | None
    diverged: bool

    @property
    def value(self) -> float:
        """Average precision after the last epoch, which nothing was chosen by."""
        return self.curve[-1]


def validate_fold(
    development: DevelopmentSet,
    source: Source,
    trial: TrialConfiguration,
    *,
    fold: int,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, value: None,
    on_advance: Callable[[], None] = lambda: None,
    micro_batch: int | None = None,
) -> FoldCurve:
    """Train and score one fold, epoch by epoch, to the same bits as `cross_validate` does among all folds.

    Args:
        development: films, labels and folds.
        source: the features of those films, in their order, or the films themselves for training end to end.
        trial: the hyperparameters.
        fold: the fold that is left out.
        seed: the seed of this fold's training.
        on_epoch: called after each epoch with its number, from 1, and the average precision on the films left out.
        on_advance: called whenever training got on within an epoch.
        micro_batch: the maximum number of films computed at a time if memory is short; None for whole batches.

    Raises:
        ValueError: the fold leaves no films to train on.
    """
    running = _Fold(development, source, trial, fold, seed, micro_batch, on_advance)
    labels = development.labels[running.validation]
    curve, scores = [], []
    for epoch in range(1, trial.epochs + 1):
        curve.append(running.advance(epoch))
        scores.append(running.scores)
        on_epoch(epoch, curve[-1])
    subscores = slice(len(VIEWS), len(LABELS))
    curve_16 = tuple(macro_average_precision(labels[:, subscores], each[:, subscores]) for each in scores)
    return FoldCurve(
        films=np.array(development.content, dtype="U64")[running.validation],
        labels=labels,
        scores=np.stack(scores),
        curve=tuple(curve),
        curve_16=None if np.isnan(curve_16).any() else curve_16,
        diverged=running.diverged or not running.trainer.finite,
    )


def save_fold_curve(path: Path, result: FoldCurve) -> None:
    """Write a fold's scores after each epoch atomically as ``.npz``, which `numpy.load` reads without pickle."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            film=result.films,
            labels=result.labels,
            scores=result.scores,
            curve=np.array(result.curve),
            curve_16=np.array(result.curve_16 or ()),
            diverged=np.array(result.diverged),
        )


def load_fold_curve(path: Path) -> FoldCurve:
    """Read what `save_fold_curve` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return FoldCurve(
            films=arrays["film"],
            labels=arrays["labels"],
            scores=arrays["scores"],
            curve=tuple(arrays["curve"].tolist()),
            curve_16=tuple(arrays["curve_16"].tolist()) or None,
            diverged=bool(arrays["diverged"]),
        )


class _Fold:
    """One fold of a running trial: its trainer, and its scores after the last finite epoch."""

    def __init__(
        self,
        development: DevelopmentSet,
        source: Source,
        trial: TrialConfiguration,
        number: int,
        seed: int,
        micro_batch: int | None,
        on_advance: Callable[[], None],
    ) -> None:
        self.number = number
        self.diverged = False
        self._on_advance = on_advance
        self.validation = np.flatnonzero(development.folds == number)
        self._labels = development.labels[self.validation]
        # One half for every film, so that average precision is the prevalence until there are scores.
        self.scores = np.full(self._labels.shape, 0.5, dtype=np.float32)
        training = np.flatnonzero(development.folds != number)
        self.trainer = new_trainer(
            source, development.labels, training, trial, seed, micro_batch=micro_batch, on_advance=on_advance
        )

    @property
    def at_once(self) -> int:
        """The maximum number of films that are computed at a time without a micro-batch."""
        return max(self.trainer.batch_size, len(self.validation))

    def advance(self, epoch: int) -> float:
        """Train one epoch, unless the fold has diverged, and return its average precision."""
        if not self.diverged:
            loss = self.trainer.train_epoch(epoch)
            scores = self.trainer.predict(self.validation)
            if np.isfinite(loss) and np.isfinite(scores).all():
                self.scores = scores
            else:
                self.diverged = True
        self._on_advance()
        return macro_average_precision(self._labels, self.scores)


class _Best:
    """The highest point of the curve so far, with its epoch, fold values and scores."""

    def __init__(self, films: int) -> None:
        self.epoch = 0
        self.fold_values: tuple[float, ...] = ()
        self.scores = np.empty((films, len(LABELS)), dtype=np.float32)
        self._value = -np.inf

    def offer(self, epoch: int, value: float, fold_values: list[float], folds: list[_Fold]) -> None:
        """Keep this epoch if its value is higher than all before."""
        if value <= self._value:
            return
        self._value, self.epoch, self.fold_values = value, epoch, tuple(fold_values)
        for fold in folds:
            self.scores[fold.validation] = fold.scores


def view_only_out_of_fold(development: DevelopmentSet) -> np.ndarray:
    """Return the scores of the view-only baseline, (films, 18) float64: each film's from the films of other folds."""
    views = np.asarray(development.views)
    scores = np.empty(development.labels.shape)
    for fold in np.unique(development.folds):
        inside = development.folds == fold
        scores[inside] = view_only_scores(list(views[~inside]), development.labels[~inside], list(views[inside]))
    return scores


def scores_over_folds(
    development: DevelopmentSet, scores: np.ndarray
) -> tuple[Scores, Scores, AveragePrecisions, tuple[tuple[str, ...], ...]]:
    """Return the numbers of out-of-fold scores, in each fold and as means over the folds.

    Args:
        development: films, labels and folds.
        scores: (films, 18), each film's by the head that did not see its patient.

    Returns:
        The scores' numbers, those of the view-only baseline, tied and untied, and the labels left out of each fold's.
    """
    trivial = view_only_out_of_fold(development)
    model, baseline, untied, left_out = [], [], [], []
    for fold in np.unique(development.folds):
        inside = development.folds == fold
        labels = development.labels[inside]
        model.append(summarise(labels, scores[inside], development.cortices))
        baseline.append(summarise(labels, trivial[inside], development.cortices))
        untied.append(summarise_untied(labels, trivial[inside]))
        left_out.append(tuple(labels_without_positives(labels)))
    return (
        Scores.over_folds(model),
        Scores.over_folds(baseline),
        AveragePrecisions.over_folds(untied),
        tuple(left_out),
    )
