"""The heads of a final model: those that workers trained on the folds, and the one fitted on all development films."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rust_optuna.config import TrialConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.threads import Progress
from rust_optuna.errors import DataError, StudyError
from rust_optuna.learn.cross_validation import fold_seed
from rust_optuna.learn.features import FeatureCache
from rust_optuna.learn.fitting import FittedFold, Head, fit_whole, load_fold, load_head, save_head
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.locks import locked
from rust_optuna.model.files import HeadRecord
from rust_optuna.model.scored import ScoredFilms, baselines
from rust_optuna.model.scoring import WHOLE, scores_by_model
from rust_optuna.paths import Home, remove_leftovers
from rust_optuna.search.evaluation import FoldPoint, fold_points
from rust_optuna.search.studies import Study, load_development, load_study
from rust_optuna.storage.artifacts import ArtifactStore, download
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import StudyState

WHOLE_FOLD = 2**31 - 1
"""Stands for a fold's number in the seed of the head that is fitted on the whole development set."""


@dataclass(frozen=True, eq=False)
class FittedModels:
    """All heads of a final model.

    Args:
        study: the evaluation.
        source: the search that it evaluates.
        development: the films that the heads were trained on.
        trial: what they were trained with.
        points: the folds' points, by training seed and fold.
        folds: each point's head and the scores of the films that it did not see.
        whole: the head that was fitted on the whole development set.
    """

    study: Study
    source: Study
    development: DevelopmentSet
    trial: TrialConfiguration
    points: tuple[FoldPoint, ...]
    folds: tuple[FittedFold, ...]
    whole: Head

    @property
    def best(self) -> int:
        """The position of the fold whose head scored highest on its own films; the first of equals."""
        return max(range(len(self.folds)), key=lambda position: (self.folds[position].value, -position))

    @property
    def heads(self) -> dict[str, Head]:
        """Every head, by name."""
        names = [self.record(position).name for position in range(len(self.folds))]
        return {**{name: fold.head for name, fold in zip(names, self.folds, strict=True)}, WHOLE: self.whole}

    def record(self, position: int) -> HeadRecord:
        """Return what is kept of the head of one fold."""
        point, fold = self.points[position], self.folds[position]
        name = f"repeat-{point.repeat}-fold-{point.fold}"
        return HeadRecord(name, fold.head.sha256, fold.head.precision, point.fold, point.repeat, fold.value)

    def models(self) -> dict[str, str]:
        """Return the SHA-256 of each head, by name."""
        return {name: head.sha256 for name, head in self.heads.items()}

    def scores(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores of films by each model.

        Args:
            table: (films, 4, width) float32, their features in all flips.
        """
        return scores_by_model([fold.head for fold in self.folds], self.best, self.whole, table)


def fitted_models(
    database: Database,
    study: Study,
    home: Home,
    store: ArtifactStore,
    *,
    read: Callable[[str], bytes],
    progress: Progress | None = None,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> FittedModels:
    """Collect the heads that workers trained, and fit one on the whole development set.

    Args:
        database: the study's.
        study: a finished evaluation.
        home: where the cache of features lies.
        store: holds the folds' heads.
        read: returns a development film's bytes, where its features are not cached here.
        progress: called while features are computed.
        on_epoch: called after each epoch of the fit with its number and how many there are.

    Raises:
        StudyError: the evaluation is not done.
        DataError: a head is not in the store, or is not the one that was reported.
    """
    if study.state != StudyState.DONE:
        raise StudyError(f"{study.name} is not done yet: rust-optuna evaluate goes on with it")
    development = load_development(database, study)
    points, folds = fitted_folds(database, study, store)
    trial = study.trial_configuration({}, home)
    whole = _whole(study, development, trial, home, read, progress, on_epoch)
    source = load_study(database, study.source.study if study.source else "")
    return FittedModels(study, source, development, trial, points, folds, whole)


def fitted_folds(
    database: Database, study: Study, store: ArtifactStore
) -> tuple[tuple[FoldPoint, ...], tuple[FittedFold, ...]]:
    """Return the folds that workers trained, by training seed and fold, each with its head.

    Raises:
        DataError: a head is not in the store, or is not the one that was reported.
    """
    points = fold_points(database, study)
    with tempfile.TemporaryDirectory() as folder:
        folds = tuple(_fetch(store, point.report, Path(folder) / "fold.npz") for point in points)
    return tuple(points), folds


def _whole(
    study: Study,
    development: DevelopmentSet,
    trial: TrialConfiguration,
    home: Home,
    read: Callable[[str], bytes],
    progress: Progress | None,
    on_epoch: Callable[[int, int], None],
) -> Head:
    """Return the head that is fitted on the whole development set, fitted once for each evaluation.

    It is kept, for on a GPU a second fit has other bits, and an evaluation that was killed must go on with the models
    that the record of the opening names. Of two evaluations at once, the second waits for the head of the first.
    """
    kept = home.fits / f"{study.name}-{study.created_at:.6f}.npz"
    home.fits.mkdir(parents=True, exist_ok=True)
    with locked(home.fits / ".lock"):
        if kept.exists():
            return load_head(kept)
        remove_leftovers(kept)
        cache = FeatureCache(home.features, trial.backbone)
        cache.build(development.content, read, progress)
        source = CachedFeatures(cache.load(development.content))
        seed = fold_seed(study.configuration.seed, 0, WHOLE_FOLD)
        head = fit_whole(development, source, trial, seed=seed, on_epoch=lambda epoch: on_epoch(epoch, trial.epochs))
        save_head(kept, head)
        return load_head(kept)


def _fetch(store: ArtifactStore, report: FoldReport, path: Path) -> FittedFold:
    """Return a fold's head from the artifact store.

    Raises:
        DataError: it is not there, or not the one that the worker reported.
    """
    download(store, report.artifact, path)
    fold = load_fold(path)
    if fold.head.sha256 != report.head_sha256:
        raise DataError(f"Artifact {report.artifact} does not hold the head that its worker reported")
    return fold


def out_of_fold(
    development: DevelopmentSet,
    points: Sequence[FoldPoint],
    folds: Sequence[FittedFold],
    visits: Mapping[str, str],
    sources: Mapping[str, str] | None = None,
) -> ScoredFilms:
    """Return the development films with the scores by the heads of the first training seed that did not see them.

    Args:
        development: the films.
        points: the folds' points.
        folds: each point's head and scores.
        visits: content hash → pseudonym of the visit.
        sources: content hash → hospital or study; None if they are of no interest.
    """
    row = {film: position for position, film in enumerate(development.content)}
    scores = np.empty(development.labels.shape, dtype=np.float32)
    frequencies, view_only = (np.empty(scores.shape) for _ in range(2))
    for point, fold in zip(points, folds, strict=True):
        if point.repeat != 0:
            continue
        rows = [row[str(film)] for film in fold.films]
        scores[rows] = fold.scores
        training = np.flatnonzero(development.folds != point.fold)
        views = [development.views[position] for position in training]
        left_out = [development.views[position] for position in rows]
        frequencies[rows], view_only[rows] = baselines(development.labels[training], views, left_out)
    return ScoredFilms(
        content=development.content,
        patients=development.patients,
        visits=tuple(visits[film] for film in development.content),
        labels=development.labels,
        scores=scores,
        frequencies=frequencies,
        view_only=view_only,
        cortices=development.cortices,
        sources=None if sources is None else tuple(sources[film] for film in development.content),
    )
