"""What a study has found so far, read from the ledger alone: no Optuna, no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from rust_optuna.config import StudyKind, plain_values
from rust_optuna.learn.trial_report import TrialReport
from rust_optuna.search.foreign import ForeignTrials, foreign_trials
from rust_optuna.search.studies import Study, find_study
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import AttemptState, PointState
from rust_optuna.storage.tables import attempt, point


@dataclass(frozen=True)
class Point:
    """A complete point.

    Args:
        number: its number in the design, from 0.
        trial: the number of the Optuna trial that shows it.
        parameters: the point itself.
        value: the highest mean average precision over its epochs.
        report: every number kept with it; None for a stand-in objective.
        artifact: the identifier of its out-of-fold scores, or None.
        seconds: how long its last attempt took, by the database's clock.
        worker: who ran it.
    """

    number: int
    trial: int
    parameters: Mapping[str, Any]
    value: float
    report: TrialReport | None
    artifact: str | None
    seconds: float
    worker: str

    @property
    def baseline(self) -> float | None:
        """The view-only baseline of its value; None for a stand-in's, which has none."""
        return self.report.baseline.average_precision.mean if self.report else None

    @property
    def warnings(self) -> list[str]:
        """Why it is not to be used as it is, in words; an empty list where nothing speaks against it.

        It is compared with the baseline over the 16 subscores, with that baseline's ties broken at random, as the lift
        is; where no subscore is defined, its value with the view-only baseline.
        """
        report = self.report
        if report is None:
            return []
        words = []
        if report.diverged:
            words.append(
                f"training diverged in {len(report.diverged_folds)} of its {len(report.fold_values)} folds: the loss, "
                "the scores or the weights were no longer finite numbers, and those of the last finite epoch are used; "
                "a lower learning rate may help"
            )
        ours = report.scores.average_precision_16.mean
        baseline = report.untied_baseline.average_precision_16.mean if report.untied_baseline else None
        what, how = "on the 16 subscores ", " (ties broken at random)"
        if ours is None or baseline is None:
            what, how, ours, baseline = "", "", self.value, self.baseline
        if baseline is not None and ours <= baseline:
            words.append(
                f"{what}{ours:.4f} is no better than the view-only baseline's {baseline:.4f}{how}: a model that sees "
                "nothing but the view of a film does as well"
            )
            curve = report.curve
            if len(curve) > 1 and min(curve) == max(curve):
                words.append(
                    f"its value is the same after each of its {len(curve)} epochs: training did not change the order "
                    "in which films are scored, as with a learning rate that is far too high or far too low"
                )
        return words


@dataclass(frozen=True)
class Caveats:
    """What a reader must know before believing a study's values.

    Args:
        study: the study.
        stale: the study that ``from_best_of`` names has a better point by now than the one taken.
        foreign: the trials in Optuna that somebody else finished.
        arithmetic: complete points by the kind of arithmetic that computed them.
    """

    study: Study
    stale: bool
    foreign: ForeignTrials = field(default_factory=ForeignTrials)
    arithmetic: Mapping[str, int] = field(default_factory=dict)

    def arithmetic_words(self) -> str | None:
        """Say that the values are of several kinds of arithmetic, in one sentence without its stop, or None."""
        if len(self.arithmetic) < 2:
            return None
        counts = (f"{count} {'point' if count == 1 else 'points'} by {kind}" for kind, count in self.arithmetic.items())
        return f"its values mix kinds of arithmetic, which round differently: {', '.join(counts)}"

    def as_json(self) -> dict[str, Any]:
        """Return it as a part of what ``status --json`` and ``best --json`` print."""
        source = self.study.source
        document: dict[str, Any] = {
            "stale": self.stale,
            "source": source.study if source else None,
            "differences": [each.as_json() for each in source.differences] if source else [],
            **self.foreign.as_json(),
            "arithmetic": dict(self.arithmetic),
        }
        if self.study.stand_in:
            document["objective"] = self.study.stand_in
        return document


@dataclass(frozen=True)
class Status:
    """How far a study is; counts are of points.

    Args:
        study: the study.
        counts: points by state.
        caveats: what a reader must know before believing its values.
        accepted: holes that the user accepted for good.
        best: the complete point of the highest value so far, or None.
    """

    study: Study
    counts: Mapping[str, int]
    caveats: Caveats
    accepted: int = 0
    best: Point | None = None

    @property
    def best_value(self) -> float | None:
        """The highest value so far, or None."""
        return self.best.value if self.best else None

    @property
    def best_baseline(self) -> float | None:
        """The view-only baseline of the best value; None where there is none."""
        return self.best.baseline if self.best else None

    @property
    def best_words(self) -> list[str]:
        """Why the best point is not to be used as it is, in words."""
        return self.best.warnings if self.best else []

    @property
    def open_holes(self) -> int:
        """Holes that nobody accepted."""
        return self.counts[PointState.HOLE] - self.accepted

    @property
    def points(self) -> int:
        """All points of the design."""
        return sum(self.counts.values())

    def as_json(self) -> dict[str, Any]:
        """Return what ``rust-optuna status --json`` prints."""
        named = {PointState.HOLE: "holes"}
        return {
            "study": self.study.name,
            "sampler": self.study.configuration.sampler,
            "state": self.study.state,
            "points": self.points,
            **{
                named.get(state, state): self.counts[state]
                for state in (PointState.COMPLETE, PointState.PRUNED, PointState.RUNNING, PointState.WAITING)
            },
            "holes": self.counts[PointState.HOLE],
            "accepted_holes": self.accepted,
            "best_value": self.best_value,
            "best_baseline_view_only": self.best_baseline,
            "best_warnings": self.best_words,
            **self.caveats.as_json(),
        }


@dataclass(frozen=True)
class BestTrial:
    """The best trial of a study, as ``rust-optuna best`` shows it.

    Args:
        study: the study.
        point: its complete point of the highest value.
        caveats: what a reader must know before believing the value.
    """

    study: Study
    point: Point
    caveats: Caveats

    @property
    def weights(self) -> str:
        """The backbone's weights, as the study names them."""
        return str(self.study.configuration.values(self.point.parameters, self.study.inherited)["weights"])

    def as_json(self) -> dict[str, Any]:
        """Return what ``rust-optuna best --json`` prints; None for each number that a stand-in does not report."""
        study, point, report = self.study, self.point, self.point.report
        ours = report.scores.average_precision_16 if report else None
        baseline = report.baseline.average_precision_16 if report else None
        untied = report.untied_baseline.average_precision_16 if report and report.untied_baseline else None
        return {
            "study": study.name,
            "number": point.trial,
            "point": point.number,
            "value": point.value,
            "epoch": report.epoch if report else None,
            "params": dict(point.parameters),
            "fixed": plain_values(study.configuration.fixed),
            "inherited": plain_values(study.inherited),
            "model": plain_values(study.own_values),
            "warnings": point.warnings,
            "diverged_folds": list(report.diverged_folds) if report else None,
            "fold_values": list(report.fold_values) if report else None,
            "baseline_view_only": point.baseline,
            "average_precision_16": ours.mean if ours else None,
            "fold_values_16": list(ours.folds) if ours else None,
            "baseline_view_only_16": baseline.mean if baseline else None,
            "baseline_view_only_untied_16": untied.mean if untied else None,
            "baseline_view_only_untied_fold_values_16": list(untied.folds) if untied else None,
            "weights": self.weights,
            "computed_with": report.arithmetic if report else None,
            **self.caveats.as_json(),
        }


def arithmetic_of(database: Database, study: Study) -> dict[str, int]:
    """Return how many complete points each kind of arithmetic computed; stand-ins and earlier versions tell none."""
    newest = sa.and_(attempt.c.point_id == point.c.id, attempt.c.number == point.c.attempt)
    mine = sa.and_(
        point.c.study_id == study.id, point.c.state == PointState.COMPLETE, attempt.c.arithmetic.is_not(None)
    )
    query = sa.select(attempt.c.arithmetic, sa.func.count()).join(point, newest).where(mine)
    query = query.group_by(attempt.c.arithmetic).order_by(sa.func.count().desc(), attempt.c.arithmetic)
    return {row[0]: row[1] for row in database.transact(lambda connection: connection.execute(query).all())}


def status(database: Database, study: Study, *, foreign: bool = True) -> Status:
    """Return how far a study is.

    Args:
        database: its database.
        study: the study.
        foreign: also look for trials in Optuna that somebody else finished, and for kinds of arithmetic, which takes
            longer the more trials there are: not for who asks twice a second.
    """
    query = sa.select(point.c.state, sa.func.count(), sa.func.sum(point.c.accepted))
    query = query.where(point.c.study_id == study.id).group_by(point.c.state)
    rows = database.transact(lambda connection: connection.execute(query).all())
    counts = dict.fromkeys(PointState, 0) | {row[0]: row[1] for row in rows}
    # The highest of an evaluation's folds is not the best of anything.
    searched = study.configuration.kind == StudyKind.SEARCH
    best = best_point(database, study) if searched and counts[PointState.COMPLETE] else None
    accepted = next((int(row[2]) for row in rows if row[0] == PointState.HOLE), 0)
    told = caveats(database, study) if foreign else Caveats(study, is_stale(database, study))
    return Status(study, counts, told, accepted, best)


def caveats(database: Database, study: Study) -> Caveats:
    """Return what a reader must know before believing a study's values."""
    others = foreign_trials(database, study.name, study.key)
    return Caveats(study, is_stale(database, study), others, arithmetic_of(database, study))


def is_stale(database: Database, study: Study) -> bool:
    """Say whether the study that this one took its fixed parameters from has another best point by now."""
    if study.source is None:
        return False
    origin = find_study(database, study.source.study)
    best = best_point(database, origin) if origin else None
    return best is None or (best.number, best.value) != (study.source.point, study.source.value)


def best_point(database: Database, study: Study) -> Point | None:
    """Return the complete point of the highest value, the lowest number among equals, or None."""
    query = complete_rows(study).order_by(point.c.value.desc(), point.c.number).limit(1)
    row = database.transact(lambda connection: connection.execute(query).first())
    return None if row is None else _point(row)


def complete_points(database: Database, study: Study) -> list[Point]:
    """Return all complete points, in order."""
    query = complete_rows(study).order_by(point.c.number)
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [_point(row) for row in rows]


def failed_attempts(database: Database, study: Study) -> list[dict[str, Any]]:
    """Return each attempt that ended without a result: its point, number, outcome, fault, reason and worker."""
    ended = attempt.c.outcome.in_((AttemptState.FAILED, AttemptState.LOST, AttemptState.RELEASED))
    query = (
        sa.select(point.c.number.label("point"), attempt.c.number.label("attempt"), attempt.c.outcome)
        .add_columns(attempt.c.fault, attempt.c.reason, attempt.c.worker)
        .join(attempt, attempt.c.point_id == point.c.id)
        .where(point.c.study_id == study.id, ended)
        .order_by(point.c.number, attempt.c.number)
    )
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [dict(row._mapping) for row in rows]


def hole_numbers(database: Database, study: Study) -> list[int]:
    """Return the numbers of the points that are holes, accepted ones too, in order."""
    query = sa.select(point.c.number).where(point.c.study_id == study.id, point.c.state == PointState.HOLE)
    rows = database.transact(lambda connection: connection.execute(query.order_by(point.c.number)).all())
    return [row.number for row in rows]


def best_trial(database: Database, study: Study) -> BestTrial | None:
    """Return the best trial of a study, or None while nothing is complete."""
    best = best_point(database, study)
    return None if best is None else BestTrial(study, best, caveats(database, study))


def complete_rows(study: Study) -> sa.Select[Any]:
    """Return the query of a study's complete points, each with the attempt that completed it."""
    columns = (attempt.c.result, attempt.c.artifact, attempt.c.started_at, attempt.c.ended_at, attempt.c.worker)
    newest = sa.and_(attempt.c.point_id == point.c.id, attempt.c.number == point.c.attempt)
    query = sa.select(point.c.number, point.c.trial, point.c.parameters, point.c.value, *columns).join(attempt, newest)
    return query.where(point.c.study_id == study.id, point.c.state == PointState.COMPLETE)


def _point(row: sa.Row[Any]) -> Point:
    return Point(
        number=row.number,
        trial=row.trial,
        parameters=json.loads(row.parameters),
        value=row.value,
        report=TrialReport.from_json(json.loads(row.result)) if row.result else None,
        artifact=row.artifact,
        seconds=row.ended_at - row.started_at,
        worker=row.worker,
    )
