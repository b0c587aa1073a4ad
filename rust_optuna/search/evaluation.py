"""The study that evaluates the best point of another study; its points are the folds of a fresh cross-validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rust_optuna.config import Range, StudyConfiguration, StudyKind
from rust_optuna.errors import StudyError
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.search.results import best_point
from rust_optuna.search.studies import Study, complete_rows
from rust_optuna.storage.database import Database
from rust_optuna.study_file import LONGEST_STUDY_NAME

SUFFIXES = {StudyKind.EVALUATION: "-evaluation", StudyKind.SOURCES: "-by-source"}
"""What the name of a study that evaluates another ends in, after the other's name."""
FRESH = 0x6576616C
"""The number that makes an evaluation's seed differ from that of the search, so that the two share neither folds nor
initial weights."""


def fresh_seed(seed: int) -> int:
    """Return the 32-bit seed of an evaluation's folds and training, given the seed of the search."""
    return int(np.random.SeedSequence((seed, FRESH)).generate_state(1, np.uint32)[0])


def evaluation_name(study: str, kind: StudyKind = StudyKind.EVALUATION) -> str:
    """Return the name of the study that evaluates another: at most as long as a study's name may be."""
    suffix = SUFFIXES[kind]
    if len(study) + len(suffix) > LONGEST_STUDY_NAME:
        digest = hashlib.sha256(study.encode()).hexdigest()[:8]
        study = f"{study[: LONGEST_STUDY_NAME - len(suffix) - len(digest) - 1]}-{digest}"
    return f"{study}{suffix}"


def refuse_evaluation(study: Study) -> None:
    """Refuse a study that is not a search: its points are folds, and none of them is the best of it.

    Raises:
        StudyError: with the command that shows its numbers.
    """
    if study.configuration.kind == StudyKind.COMPARISON:
        raise StudyError(
            f"{study.name} is a configuration that is compared with others, and its points are its folds: to see its "
            f"numbers, run rust-optuna compare {study.name}"
        )
    if not study.is_search:
        search = ", ".join(study.configuration.from_best_of)
        by_source = " --by-source" if study.configuration.kind == StudyKind.SOURCES else ""
        raise StudyError(
            f"{study.name} is an evaluation of {search}, and its points are folds of one model: to see its numbers, "
            f"run rust-optuna evaluate --study {search}{by_source}"
        )


def evaluation_of(
    database: Database,
    study: Study,
    manifest: str,
    *,
    folds: int,
    seeds: int,
    kind: StudyKind = StudyKind.EVALUATION,
) -> StudyConfiguration:
    """Return the configuration of the study that evaluates the best point of another.

    Everything that the best point was trained with is inherited except the number of epochs. That is the epoch at which
    the point scored best, and it is fixed here, before anything is trained.

    Args:
        database: the database of both studies.
        study: a search with a complete point.
        manifest: the path of the manifest of its films.
        folds: the number of folds.
        seeds: the number of heads that are trained for each fold.
        kind: how the folds are made: as in a search, or from the sources of the films.

    Raises:
        StudyError: the study is not a search, a stand-in computed its values, it trains end to end, or none of its
            points is complete.
    """
    refuse_evaluation(study)
    if study.stand_in:
        raise StudyError(f"{study.name} was run by {study.stand_in}: there is no model to evaluate")
    if study.end_to_end:
        raise StudyError(
            f'{study.name} trains its whole network (train = "all"), and a model directory holds heads only: it cannot '
            "be evaluated"
        )
    best = best_point(database, study)
    if best is None or best.report is None:
        raise StudyError(f"{study.name} has no complete point: there is nothing to evaluate")
    return StudyConfiguration(
        name=evaluation_name(study.name, kind),
        manifest=manifest,
        sampler="grid",
        sampler_seed=0,
        n_trials=None,
        search_space={
            "repeat": Range("categorical", choices=tuple(range(seeds))),
            "fold": Range("categorical", choices=tuple(range(folds))),
        },
        fixed={"epochs": best.report.epoch},
        from_best_of=(study.name,),
        folds=folds,
        seed=fresh_seed(study.configuration.seed),
        lease_seconds=study.configuration.lease_seconds,
        kind=kind,
        source=f"the evaluation of {study.name}",
    )


def study_to_evaluate(studies: Sequence[Study]) -> Study:
    """Return the search to evaluate by default: the one whose best point no other search has inherited.

    Searches that train end to end are not counted, because they cannot be evaluated.

    Raises:
        StudyError: there is no such search, or there are several.
    """
    searches = [study for study in studies if study.is_search and not study.end_to_end]
    sources = {study.source.study for study in searches if study.source is not None}
    final = [study.name for study in searches if study.name not in sources]
    if not final:
        raise StudyError("There is no search to evaluate yet: run one with rust-optuna search STUDY.toml")
    if len(final) > 1:
        raise StudyError(f"Several searches could be evaluated ({', '.join(final)}): name one with --study")
    return next(study for study in searches if study.name == final[0])


@dataclass(frozen=True)
class FoldPoint:
    """A fold of a final model that a worker has trained.

    Args:
        repeat: the number of the training seed.
        fold: the fold whose films its head did not see.
        report: the report of the fold.
    """

    repeat: int
    fold: int
    report: FoldReport


def fold_points(database: Database, study: Study) -> list[FoldPoint]:
    """Return the trained folds of an evaluation, in order of training seed and fold."""
    rows = database.transact(lambda connection: connection.execute(complete_rows(study)).all())
    points = []
    for row in rows:
        parameters = json.loads(row.parameters)
        points.append(FoldPoint(parameters["repeat"], parameters["fold"], FoldReport.from_json(json.loads(row.result))))
    return sorted(points, key=lambda point: (point.repeat, point.fold))
