"""The numbers of configurations that were cross-validated on the same folds, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import plain_values
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.manifest import LABELS, VIEWS
from rust_optuna.data.metrics import deviation
from rust_optuna.errors import DataError, StudyError
from rust_optuna.learn.cross_validation import load_fold_curve, scores_over_folds, view_only_out_of_fold
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.model.bootstrap import RESAMPLES, SEED, Inflated, estimates, patient_weights
from rust_optuna.model.label_numbers import is_better, not_better
from rust_optuna.model.scored import plain
from rust_optuna.model.weighted import Counts, Ranking, mean_of_defined
from rust_optuna.paths import atomic_write
from rust_optuna.search.comparison import MeanCurve, mean_curve
from rust_optuna.search.studies import Study, load_development
from rust_optuna.storage.artifacts import ArtifactStore, download
from rust_optuna.storage.database import Database


@dataclass(frozen=True)
class Comparison:
    """How configurations compare.

    Args:
        folder: the report.
        numbers: what ``numbers.json`` holds.
    """

    folder: Path
    numbers: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ComparedConfiguration:
    """A configuration with the scores that each film got from the head that did not see its patient.

    Args:
        study: the configuration's study.
        validation: its cross-validation.
        development: its films, labels and folds.
        scores: (films, 18) float32, after the epoch of the mean curve's highest point.
        view_only: (films, 18) float64, by the label frequencies of the training films of the same view.
    """

    study: Study
    validation: MeanCurve
    development: DevelopmentSet
    scores: np.ndarray
    view_only: np.ndarray

    def save(self, path: Path) -> None:
        """Write the films with their scores as ``.npz``, whole or not at all; `numpy.load` reads it without pickle."""
        development = self.development
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                film=np.array(development.content, dtype="U64"),
                patient=np.array(development.patients, dtype=np.str_),
                fold=development.folds,
                labels=development.labels,
                scores=self.scores,
                view_only=self.view_only,
            )


def load_compared(database: Database, study: Study, store: ArtifactStore) -> ComparedConfiguration:
    """Return a configuration whose folds are all trained.

    Raises:
        StudyError: a fold is missing.
        DataError: the scores of a fold are not in the store, or are not those that were reported.
    """
    validation = mean_curve(database, study)
    if validation is None:
        raise StudyError(f"{study.name} lacks a fold: rust-optuna compare {study.name} goes on with it")
    development = load_development(database, study)
    row = {film: position for position, film in enumerate(development.content)}
    scores = np.empty(development.labels.shape, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for report in validation.folds:
            films, kept = _fetch(store, report, validation.epoch, Path(folder) / "fold.npz")
            scores[[row[film] for film in films]] = kept
    return ComparedConfiguration(study, validation, development, scores, view_only_out_of_fold(development))


def _fetch(store: ArtifactStore, report: FoldReport, epoch: int, path: Path) -> tuple[list[str], np.ndarray]:
    """Return the films that a fold left out, and their scores after an epoch."""
    download(store, report.artifact, path)
    fold = load_fold_curve(path)
    if fold.curve != report.curve:
        raise DataError(f"Artifact {report.artifact} does not hold the scores that its worker reported")
    return fold.films.tolist(), fold.scores[epoch - 1]


def measure_comparison(
    compared: Sequence[ComparedConfiguration], *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Any]:
    """Return the numbers of configurations side by side, and their differences to the first.

    Every number is a mean over the folds, since the films of different folds are scored by different heads. Intervals
    resample patients: all configurations score the same films, so that a resample is drawn for all of them at once, and
    differences are paired. The folds share most of their training films, so their values are not independent and no
    test over the folds is made.

    Args:
        compared: configurations on the same films, folds and seed.
        resamples: how many times patients are drawn.
        seed: of the draws.

    Returns:
        - ``reference``: the study to which differences are taken; ``folds``, ``seed``, ``films``, ``patients``;
          ``bootstrap``: ``resamples`` and ``seed``.
        - ``compared``: for each configuration ``study``, ``configuration`` (every trial key), ``epochs``, ``epoch``
          (of the highest point of ``curve``, the mean over the folds), ``fold_curves``, ``curve_16``, ``scores``,
          ``baseline_view_only`` and ``baseline_view_only_untied`` (as `TrialReport` has them), ``deviation`` and
          ``deviation_16`` (over the folds), ``average_precision``, ``average_precision_16`` and ``lift`` (over the
          untied baseline, on the 16 subscores) with their intervals, ``difference`` (to the reference; None for the
          reference itself) of the two average precisions, ``seconds`` of all folds and ``fold_seconds``,
          ``diverged_folds``, ``weights``, ``arithmetic``.
        - ``words``: sentences on what not to overlook.
    """
    development = compared[0].development
    weights = patient_weights(development.patients, resamples, seed)
    baseline = _over_folds(development, compared[0].view_only, Counts.expected_average_precision)
    rankings = {each.study.name: _over_folds(development, each.scores, Counts.average_precision) for each in compared}
    first = compared[0].study.name

    def statistics(weights: np.ndarray) -> dict[str, Any]:
        untied = baseline(weights)[1]
        values = {name: precisions(weights) for name, precisions in rankings.items()}
        return {
            "untied": Inflated(untied),
            "compared": {
                name: {
                    "average_precision": Inflated(all_labels),
                    "average_precision_16": Inflated(subscores),
                    "lift": Inflated(subscores - untied, limits=(-1.0, 1.0)),
                    "difference": {
                        "average_precision": Inflated(all_labels - values[first][0], limits=(-1.0, 1.0)),
                        "average_precision_16": Inflated(subscores - values[first][1], limits=(-1.0, 1.0)),
                    },
                }
                for name, (all_labels, subscores) in values.items()
            },
        }

    found = plain(estimates(statistics, weights))
    numbers = [_numbers_of(each, found["compared"][each.study.name], is_first=each is compared[0]) for each in compared]
    return {
        "reference": first,
        "folds": compared[0].study.configuration.folds,
        "seed": compared[0].study.configuration.seed,
        "films": len(development.content),
        "patients": len(set(development.patients)),
        "bootstrap": {"resamples": resamples, "seed": seed},
        "compared": numbers,
        "words": [words for each in numbers for words in _words(each, found["untied"])],
    }


def _over_folds(
    development: DevelopmentSet, scores: np.ndarray, precision: Callable[[Counts], np.ndarray]
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function from weights to average precision over the 18 labels and the 16 subscores, mean over folds."""
    folds = [development.folds == fold for fold in np.unique(development.folds)]
    ranked = [
        [Ranking.of(*column) for column in zip(development.labels[here].T, scores[here].T, strict=True)]
        for here in folds
    ]

    def statistics(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_fold = []
        for here, rankings in zip(folds, ranked, strict=True):
            of_films = weights.T[here].T
            of_labels = np.stack([precision(ranking.counts(of_films)) for ranking in rankings], axis=1)
            by_fold.append((mean_of_defined(of_labels), mean_of_defined(of_labels[:, len(VIEWS) : len(LABELS)])))
        all_labels, subscores = (mean_of_defined(np.stack(each, axis=1)) for each in zip(*by_fold, strict=True))
        return all_labels, subscores

    return statistics


def _numbers_of(each: ComparedConfiguration, found: Mapping[str, Any], *, is_first: bool) -> dict[str, Any]:
    """Return what ``numbers.json`` says of one configuration, given its estimates."""
    validation, study = each.validation, each.study
    scores, baseline, untied, _ = scores_over_folds(each.development, each.scores)
    curves_16 = [fold.curve_16 for fold in validation.folds if fold.curve_16 is not None]
    return {
        "study": study.name,
        "configuration": plain_values({**study.configuration.fixed, **study.own_values}),
        "epochs": len(validation.curve),
        "epoch": validation.epoch,
        "curve": list(validation.curve),
        "fold_curves": [list(fold.curve) for fold in validation.folds],
        "curve_16": [float(np.mean(values)) for values in zip(*curves_16, strict=True)] if curves_16 else None,
        "scores": scores.to_json(),
        "baseline_view_only": baseline.to_json(),
        "baseline_view_only_untied": untied.to_json(),
        "deviation": deviation(validation.fold_values),
        "deviation_16": deviation(scores.average_precision_16.folds),
        "average_precision": found["average_precision"],
        "average_precision_16": found["average_precision_16"],
        "lift": found["lift"],
        "difference": None if is_first else found["difference"],
        "seconds": round(sum(fold.seconds for fold in validation.folds), 3),
        "fold_seconds": [fold.seconds for fold in validation.folds],
        "diverged_folds": [number for number, fold in enumerate(validation.folds) if fold.diverged],
        "weights": validation.folds[0].weights,
        "arithmetic": sorted({fold.arithmetic for fold in validation.folds}),
    }


def _words(numbers: Mapping[str, Any], untied: Mapping[str, Any]) -> list[str]:
    """Return, in sentences, what not to overlook in the numbers of one configuration."""
    found = []
    group = {
        "model": {"average_precision": numbers["average_precision_16"]},
        "view_only_untied": {"average_precision": untied},
        "lift": numbers["lift"],
    }
    if not is_better(group):
        found.append(f"{numbers['study']}: {not_better(group)}")
    if numbers["diverged_folds"]:
        diverged, folds = len(numbers["diverged_folds"]), len(numbers["fold_curves"])
        found.append(
            f"{numbers['study']}: Training diverged in {diverged} of {folds} folds; the scores of their last finite "
            "epoch are used."
        )
    if len(numbers["arithmetic"]) > 1:
        found.append(
            f"{numbers['study']}: Its folds were computed by several kinds of arithmetic, which round differently: "
            f"{', '.join(numbers['arithmetic'])}."
        )
    return found
