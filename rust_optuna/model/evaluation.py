"""The end of a study: its final models meet the hold-out.

**This is the only place that reads hold-out films.** `HoldOut` is the type that holds them; no search and no training
can make one. The opening is recorded before a film is scored (`rust_optuna.model.openings`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import VIEWS, Film, Manifest, split_problems
from rust_optuna.data.metrics import macro_average_precision
from rust_optuna.data.threads import Progress
from rust_optuna.errors import DataError, ManifestError, StudyError
from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.extraction import extraction_identity, extraction_versions
from rust_optuna.learn.runtime import versions
from rust_optuna.locks import locked
from rust_optuna.model import files
from rust_optuna.model.files import HeadRecord, ModelCard
from rust_optuna.model.films import UnseenFilms
from rust_optuna.model.fitted import FittedModels, out_of_fold
from rust_optuna.model.numbers import Calibration, measure, words
from rust_optuna.model.openings import Opening, Openings
from rust_optuna.model.scored import ScoredFilms, baselines
from rust_optuna.model.scoring import BEST_FOLD, WHOLE
from rust_optuna.paths import Home
from rust_optuna.search.results import best_point
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database

DEFINITION = (
    "average precision on the hold-out, macro over those of the 16 subscores that have positives, of the head with the "
    "highest average precision (18 labels) on its own left-out fold; 95% percentile interval over resampled patients, "
    "shifted so that the mean of the resamples is the value"
)
"""What the primary number is, fixed before any hold-out film is scored."""


class HoldOut(UnseenFilms):
    """The films that were set aside before the search, for one opening."""

    @property
    def definition(self) -> str:
        """What the primary number is, and against which labels: with others it would be another number."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels, dtype=np.uint8).tobytes())
        digest.update(json.dumps([self.patients, self.visits]).encode())
        return f"{DEFINITION}; SHA-256 of the films' labels, patients and visits: {digest.hexdigest()}"


def find_hold_out(
    manifest: Manifest, home: Home, searched: Sequence[DevelopmentSet], progress: Progress | None = None
) -> HoldOut:
    """Return the hold-out films of a manifest; their bytes are hashed, and nothing is scored.

    Args:
        manifest: split.
        home: where hold-out films are indexed, apart from those that search reads.
        searched: the films that the search has seen, and those of each search that it goes on from.
        progress: called while films are hashed.

    Raises:
        ManifestError: patients are on both sides of the split.
        DataError: there is no hold-out film, one cannot be read, two are the same, or a search has seen one.
    """
    if problems := split_problems(manifest.films):
        raise ManifestError(str(manifest.path), problems)
    rows = manifest.part("holdout")
    if not rows:
        raise DataError(f"{manifest.path} has no hold-out films: rust-optuna data split sets patients aside")
    index = FilmIndex(home.holdout / "films.json")
    hashes = index.add([film.image for film in rows], progress)
    by_content: dict[str, Film] = {}
    for film in rows:
        other = by_content.setdefault(hashes[film.image], film)
        if other is not film:
            raise DataError(f"{manifest.path}: rows {other.row} and {film.row} of the hold-out are the same film")
    seen = {film for development in searched for film in development.content}
    leaked = [film.row for content, film in by_content.items() if content in seen]
    if leaked:
        raise DataError(
            f"{manifest.path}: the search has seen the film in row {leaked[0]}, which is in the hold-out"
            + (f", and {len(leaked) - 1} others" if len(leaked) > 1 else "")
        )
    return HoldOut.of(by_content, index)


def scored_hold_out(models: FittedModels, holdout: HoldOut, scores: np.ndarray) -> ScoredFilms:
    """Return the hold-out films with their scores, beside the baselines of the development set."""
    development = models.development
    frequencies, view_only = baselines(development.labels, development.views, holdout.views)
    return holdout.scored(scores, frequencies, view_only, development.cortices)


@dataclass(frozen=True)
class Evaluation:
    """An evaluated model.

    Args:
        folder: the model directory.
        opening: of the hold-out.
        openings: all openings of these films, oldest first.
        record: the file that records them.
        metrics: every number, as ``metrics.json`` holds them.
    """

    folder: Path
    opening: Opening
    openings: tuple[Opening, ...]
    record: Path
    metrics: Mapping[str, Any]


def meet_hold_out(
    database: Database,
    models: FittedModels,
    holdout: HoldOut,
    visits: Mapping[str, str],
    openings: Openings,
    home: Home,
    *,
    name: str,
    asked_by: str,
    again: bool = False,
    threshold: int | None = None,
    resamples: int = 2000,
    progress: Progress | None = None,
) -> Evaluation:
    """Record the opening, score the hold-out, and write the model directory.

    Killed anywhere, the same call finishes it: that is the same opening.

    Args:
        database: where openings and models are recorded.
        models: all heads.
        holdout: the films.
        visits: content hash of each development film → pseudonym of its visit.
        openings: the record.
        home: where the hold-out's features and the model directory go.
        name: of the model.
        asked_by: who asked.
        again: open the hold-out although other models have met it.
        threshold: the total from which a fracture counts as united; None for the scale's own.
        resamples: of the patients, for the intervals.
        progress: called while features are computed.

    Raises:
        OpenedBeforeError: other models have met these films, and ``again`` is not set.
        DataError: the record cannot be written, or a directory of that name is there already.
    """
    opening = Opening(
        study=models.source.name,
        films=holdout.content,
        models=models.models(),
        definition=holdout.definition,
        asked_by=asked_by,
        opened_at=0.0,
    )
    folder = home.models / name
    calibrating = out_of_fold(models.development, models.points, models.folds, visits)
    calibration = Calibration.fit(calibrating, threshold=threshold)
    home.holdout.mkdir(parents=True, exist_ok=True)
    with locked(home.holdout / ".lock"):
        _refuse_taken(folder, opening, calibration if threshold is not None else None)
        opening = openings.begin(opening, again=again)
        if not folder.exists():
            # A cache apart from the one that search reads.
            features = holdout.features(models.trial.backbone, home.holdout / "features", progress)
            scored = {
                model: scored_hold_out(models, holdout, scores)
                for model, scores in models.scores(features.table).items()
            }
            metrics = _metrics(database, models, opening, scored, calibration, resamples)
            _write(folder, models, opening, calibration, metrics, {"out_of_fold": calibrating, **scored})
        # A directory that is there holds the numbers: they are not made anew from what may have changed since.
        metrics = files.read_json(folder / "metrics.json")
        opening = openings.complete(opening, _in_short(metrics))
        _register(database, folder, opening, metrics)
    return Evaluation(folder, opening, tuple(openings.of_films(holdout.content)), openings.file, metrics)


def _metrics(
    database: Database,
    models: FittedModels,
    opening: Opening,
    scored: Mapping[str, ScoredFilms],
    calibration: Calibration,
    resamples: int,
) -> dict[str, Any]:
    """Return every number of an evaluation."""
    metrics: dict[str, Any] = {
        "study": models.source.name,
        "primary": {"model": BEST_FOLD, "definition": opening.definition},
        "selection": _selection(database, models),
        "fresh": _fresh(models),
        "holdout": {model: measure(films, calibration, resamples=resamples) for model, films in scored.items()},
    }
    metrics["words"] = words(metrics["holdout"][BEST_FOLD])
    return metrics


def _register(database: Database, folder: Path, opening: Opening, metrics: Mapping[str, Any]) -> None:
    """Name a model directory in the database, once."""
    row = {
        "name": folder.name,
        "opening": opening.id,
        "sha256": files.directory_sha256(folder),
        "document": json.dumps(metrics),
        "created_at": tables.database_now(),
    }

    def enter(connection: sa.Connection) -> None:
        connection.execute(tables.model.delete().where(tables.model.c.name == folder.name))
        connection.execute(tables.model.insert().values(**row))

    database.transact(enter)


def _refuse_taken(folder: Path, opening: Opening, calibration: Calibration | None) -> None:
    """Refuse a name that another model has, before the hold-out is opened.

    Args:
        folder: of that name.
        opening: the model's own.
        calibration: the model's own, where the user asked for a threshold; None for any.

    Raises:
        DataError: another model has it, or this one with another threshold.
    """
    if not folder.exists():
        return
    files.check_directory(folder)
    if files.read_json(folder / "provenance.json")["opening"] != opening.id:
        raise DataError(f"{folder} holds another model: give this one another name with --name")
    there = Calibration.from_json(files.read_json(folder / "calibration.json")).totals["model"].threshold
    if calibration is not None and (asked := calibration.totals["model"].threshold) != there:
        raise DataError(
            f"{folder} counts a fracture as united from a total of {there:g}, not {asked:g}: give the model with "
            "--united-from another name with --name"
        )


def _selection(database: Database, models: FittedModels) -> dict[str, Any]:
    """Return the score by which the hyperparameters were chosen."""
    best = best_point(database, models.source)
    if best is None or best.report is None:
        raise StudyError(f"{models.source.name} has no complete point")
    return {
        "trial": best.trial,
        "epoch": best.report.epoch,
        "folds": models.source.configuration.folds,
        "average_precision": best.value,
        "average_precision_16": best.report.scores.average_precision_16.mean,
    }


def _fresh(models: FittedModels) -> dict[str, Any]:
    """Return the scores of the fresh cross-validation: means over folds and training seeds."""
    of_18 = [fold.value for fold in models.folds]
    of_16 = [macro_average_precision(f.labels[:, len(VIEWS) :], f.scores[:, len(VIEWS) :]) for f in models.folds]
    return {
        "folds": models.study.configuration.folds,
        "seeds": len({point.repeat for point in models.points}),
        "epochs": models.trial.epochs,
        "average_precision": float(np.mean(of_18)),
        "average_precision_16": float(np.mean(of_16)),
        "fold_values": of_18,
        "fold_values_16": of_16,
    }


def _in_short(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record of an opening keeps of its numbers: the primary one, beside its baseline."""
    macro = metrics["holdout"][BEST_FOLD]["labels"]["macro_16"]
    scorers = {"average_precision_16": "model", "view_only": "view_only"}
    return {name: macro[scorer]["average_precision"] for name, scorer in scorers.items()}


def _write(
    folder: Path,
    models: FittedModels,
    opening: Opening,
    calibration: Calibration,
    metrics: Mapping[str, Any],
    arrays: Mapping[str, ScoredFilms],
) -> None:
    """Write the model directory."""
    backbone = models.trial.backbone
    if backbone.weights not in ("imagenet", "random"):
        backbone = replace(backbone, weights=Path(backbone.weights).name)
    records = [models.record(position) for position in range(len(models.folds))]
    card = ModelCard(
        name=folder.name,
        backbone=backbone,
        features={**extraction_identity(models.trial.backbone), **extraction_versions()},
        cortices=models.development.cortices,
        heads=(*records, HeadRecord(WHOLE, models.whole.sha256, models.whole.precision)),
        primary=records[models.best].name,
    )
    provenance = {
        "opening": opening.id,
        "opened_at": opening.opened_at,
        "evaluation": models.study.name,
        "study": models.source.name,
        "inherited": models.study.source.to_json() if models.study.source else None,
        "fingerprint": models.study.fingerprint.to_json(),
        "seed": models.study.configuration.seed,
        "versions": versions(),
        "arithmetic": arithmetic(models.trial.training_precision),
    }
    with files.new_directory(folder) as temporary:
        files.write_json(temporary / "model.json", card.to_json())
        files.write_json(temporary / "calibration.json", calibration.to_json())
        files.write_json(temporary / "metrics.json", metrics)
        files.write_json(temporary / "provenance.json", provenance)
        for name, head in models.heads.items():
            files.save_head(temporary / "heads", name, head)
        (temporary / "arrays").mkdir()
        for name, films in arrays.items():
            films.save(temporary / "arrays" / f"{name}.npz")
