"""The results of a study so far, read from the ledger alone, without Optuna or TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from rust_optuna.config import misfit, plain_values
from rust_optuna.learn.trial_report import TrialReport
from rust_optuna.search.comparison import best_compared, compared_values
from rust_optuna.search.foreign import ForeignTrials, foreign_trials
from rust_optuna.search.studies import Study, complete_rows, find_study
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import AttemptState, FaultKind, PointState
from rust_optuna.storage.tables import attempt, point


@dataclass(frozen=True)
class Point:
    """A complete point.

    Args:
        number: its number in the design, from 0.
        trial: the number of the Optuna trial that shows it.
        parameters: its hyperparameters.
        value: its highest mean average precision over the epochs.
        report: the report of its trial; None for a stand-in objective.
        artifact: the identifier of its out-of-fold scores, or None.
        seconds: how long its last attempt took, by the database's clock.
        worker: the worker that ran it.
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
        """The view-only baseline of its value; None for a stand-in objective, which has none."""
        return self.report.baseline.average_precision.mean if self.report else None

    @property
    def warnings(self) -> list[str]:
        """The reasons not to use this point as it is, one clause each; an empty list if there are none.

        Like the lift, the point's average precision over the 16 subscores is compared with that of the baseline, whose
        ties are broken at random. If no subscore is defined, its value is compared with the view-only baseline.
        """
        report = self.report
        if report is None:
            return []
        reasons = []
        if report.diverged:
            reasons.append(
                f"training diverged in {len(report.diverged_folds)} of its {len(report.fold_values)} folds: the loss, "
                "the scores or the weights were no longer finite numbers, and those of the last finite epoch are used; "
                "a lower learning rate may help"
            )
        value = report.scores.average_precision_16.mean
        baseline = report.untied_baseline.average_precision_16.mean if report.untied_baseline else None
        scope, ties = "on the 16 subscores ", " (ties broken at random)"
        if value is None or baseline is None:
            scope, ties, value, baseline = "", "", self.value, self.baseline
        if baseline is not None and value <= baseline:
            reasons.append(
                f"{scope}{value:.4f} is no better than the view-only baseline's {baseline:.4f}{ties}: a model that "
                "sees nothing but the view of a film does as well"
            )
            curve = report.curve
            if len(curve) > 1 and min(curve) == max(curve):
                reasons.append(
                    f"its value is the same after each of its {len(curve)} epochs: training did not change the order "
                    "in which films are ranked, as happens if the learning rate is far too high or far too low"
                )
        return reasons


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that ended without a result.

    Args:
        point: the number of its point.
        attempt: its own number among the attempts at that point.
        outcome: how it ended.
        fault: the kind of trouble that ended it, or None where nobody could say.
        reason: the same in words.
        worker: the worker that ran it.
    """

    point: int
    attempt: int
    outcome: AttemptState
    fault: FaultKind | None
    reason: str | None
    worker: str

    def to_json(self) -> dict[str, Any]:
        """Return the attempt as ``study show --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Caveats:
    """What a reader must know before believing a study's values.

    Args:
        study: the study.
        stale: whether the best point of the study that ``from_best_of`` names is no longer the one that was taken.
        foreign: the trials in Optuna that somebody else finished.
        arithmetic: the number of complete points that each kind of arithmetic computed.
    """

    study: Study
    stale: bool
    foreign: ForeignTrials = field(default_factory=ForeignTrials)
    arithmetic: Mapping[str, int] = field(default_factory=dict)

    def arithmetic_words(self) -> str | None:
        """Return a sentence, without its full stop, if several kinds of arithmetic computed the values; else None."""
        if len(self.arithmetic) < 2:
            return None
        counts = (f"{count} {'point' if count == 1 else 'points'} by {kind}" for kind, count in self.arithmetic.items())
        return f"its values mix kinds of arithmetic, which round differently: {', '.join(counts)}"

    def to_json(self) -> dict[str, Any]:
        """Return the caveats' part of what ``status --json`` and ``best --json`` print."""
        source = self.study.source
        document: dict[str, Any] = {
            "stale": self.stale,
            "source": source.study if source else None,
            "differences": [difference.to_json() for difference in source.differences] if source else [],
            **self.foreign.to_json(),
            "arithmetic": dict(self.arithmetic),
        }
        if self.study.stand_in:
            document["objective"] = self.study.stand_in
        return document


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    Args:
        study: the study.
        counts: the number of points in each state.
        caveats: what a reader must know before believing its values.
        accepted: the number of holes that the user accepted for good.
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
        """The view-only baseline of the best value, or None."""
        return self.best.baseline if self.best else None

    @property
    def best_words(self) -> list[str]:
        """The reasons not to use the best point as it is, one clause each."""
        return self.best.warnings if self.best else []

    @property
    def open_holes(self) -> int:
        """The number of holes that nobody accepted."""
        return self.counts[PointState.HOLE] - self.accepted

    @property
    def points(self) -> int:
        """The number of points of the design."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
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
            **self.caveats.to_json(),
        }


@dataclass(frozen=True)
class BestTrial:
    """The best trial of a study, as ``rust-optuna best`` shows it.

    Args:
        study: the study.
        point: its complete point of the highest value.
        caveats: what a reader must know before believing the value.
        pruned: the number of points that were pruned, and so were not compared.
    """

    study: Study
    point: Point
    caveats: Caveats
    pruned: int = 0

    @property
    def weights(self) -> str:
        """The backbone's weights, as the study names them; LeNet-1998 starts from random ones."""
        values = self.study.configuration.values(self.point.parameters, self.study.inherited)
        return "random" if misfit("weights", values["architecture"], values["train"]) else str(values["weights"])

    def to_json(self) -> dict[str, Any]:
        """Return what ``rust-optuna best --json`` prints; None for each number that a stand-in does not report."""
        study, point, report = self.study, self.point, self.point.report
        on_16 = report.scores.average_precision_16 if report else None
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
            "average_precision_16": on_16.mean if on_16 else None,
            "fold_values_16": list(on_16.folds) if on_16 else None,
            "baseline_view_only_16": baseline.mean if baseline else None,
            "baseline_view_only_untied_16": untied.mean if untied else None,
            "baseline_view_only_untied_fold_values_16": list(untied.folds) if untied else None,
            "weights": self.weights,
            "computed_with": report.arithmetic if report else None,
            "pruned": self.pruned,
            **self.caveats.to_json(),
        }


def arithmetic_of(database: Database, study: Study) -> dict[str, int]:
    """Return how many complete points each kind of arithmetic computed.

    Points of a stand-in objective or of an earlier version report no kind, and are left out.
    """
    newest = sa.and_(attempt.c.point_id == point.c.id, attempt.c.number == point.c.attempt)
    reported = sa.and_(
        point.c.study_id == study.id, point.c.state == PointState.COMPLETE, attempt.c.arithmetic.is_not(None)
    )
    query = sa.select(attempt.c.arithmetic, sa.func.count()).join(point, newest).where(reported)
    query = query.group_by(attempt.c.arithmetic).order_by(sa.func.count().desc(), attempt.c.arithmetic)
    return {row[0]: row[1] for row in database.transact(lambda connection: connection.execute(query).all())}


def status(database: Database, study: Study, *, foreign: bool = True) -> Status:
    """Return the progress of a study.

    Args:
        database: its database.
        study: the study.
        foreign: whether to look for trials in Optuna that somebody else finished, and for kinds of arithmetic. Both
            take longer the more trials there are, so callers that poll leave them out.
    """
    query = sa.select(point.c.state, sa.func.count(), sa.func.sum(point.c.accepted))
    query = query.where(point.c.study_id == study.id).group_by(point.c.state)
    rows = database.transact(lambda connection: connection.execute(query).all())
    counts = dict.fromkeys(PointState, 0) | {row[0]: row[1] for row in rows}
    # The highest value of an evaluation's folds is not the best of anything.
    searched = study.is_search
    best = best_point(database, study) if searched and counts[PointState.COMPLETE] else None
    accepted = next((int(row[2]) for row in rows if row[0] == PointState.HOLE), 0)
    study_caveats = caveats(database, study) if foreign else Caveats(study, is_stale(database, study))
    return Status(study, counts, study_caveats, accepted, best)


def caveats(database: Database, study: Study) -> Caveats:
    """Return what a reader must know before believing a study's values."""
    foreign = foreign_trials(database, study.name, study.key, adaptive=study.configuration.adaptive)
    return Caveats(study, is_stale(database, study), foreign, arithmetic_of(database, study))


def is_stale(database: Database, study: Study) -> bool:
    """Return whether the study that this one took its fixed parameters from has another best point by now."""
    if study.source is None:
        return False
    if study.source.point is None:
        values = compared_values(database, [*study.source.candidates])
        if values is None:
            return True
        name = best_compared(values)
        return (name, values[name]) != (study.source.study, study.source.value)
    origin = find_study(database, study.source.study)
    best = best_point(database, origin) if origin else None
    return best is None or (best.number, best.value) != (study.source.point, study.source.value)


def best_point(database: Database, study: Study) -> Point | None:
    """Return the complete point of the highest value, or None; among equals, the one of the lowest number."""
    query = complete_rows(study).order_by(point.c.value.desc(), point.c.number).limit(1)
    row = database.transact(lambda connection: connection.execute(query).first())
    return None if row is None else _point(row)


def complete_points(database: Database, study: Study) -> list[Point]:
    """Return all complete points, in order of their numbers."""
    query = complete_rows(study).order_by(point.c.number)
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [_point(row) for row in rows]


def failed_attempts(database: Database, study: Study) -> list[FailedAttempt]:
    """Return each attempt that ended without a result, by point and number."""
    ended = attempt.c.outcome.in_((AttemptState.FAILED, AttemptState.LOST, AttemptState.RELEASED))
    query = (
        sa.select(point.c.number.label("point"), attempt.c.number.label("attempt"), attempt.c.outcome)
        .add_columns(attempt.c.fault, attempt.c.reason, attempt.c.worker)
        .join(attempt, attempt.c.point_id == point.c.id)
        .where(point.c.study_id == study.id, ended)
        .order_by(point.c.number, attempt.c.number)
    )
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [FailedAttempt(**row._mapping) for row in rows]


def hole_numbers(database: Database, study: Study) -> list[int]:
    """Return the numbers of the holes in order, accepted ones included."""
    query = sa.select(point.c.number).where(point.c.study_id == study.id, point.c.state == PointState.HOLE)
    rows = database.transact(lambda connection: connection.execute(query.order_by(point.c.number)).all())
    return [row.number for row in rows]


def best_trial(database: Database, study: Study) -> BestTrial | None:
    """Return the best trial of a study, or None while nothing is complete."""
    best = best_point(database, study)
    if best is None:
        return None
    pruned = sa.select(sa.func.count()).where(point.c.study_id == study.id, point.c.state == PointState.PRUNED)
    count = database.transact(lambda connection: int(connection.execute(pruned).scalar_one()))
    return BestTrial(study, best, caveats(database, study), count)


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
