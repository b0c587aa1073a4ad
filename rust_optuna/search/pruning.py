"""Pruning: ending a trial early whose curve falls behind those of the points that have ended.

The rules are those of Optuna's ``MedianPruner`` (Golovin et al. 2017, Google Vizier, section 3.2.2) and
``HyperbandPruner`` (Li et al. 2018, JMLR 18:185, with the asynchronous halving of Li et al. 2020, MLSys 2), for values
that are maximised. They are written out here because Optuna's own pruners read all trials of a study at each epoch. A
trial is compared with points that have ended, which the ledger holds, and not with those that run.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sqlalchemy as sa

from rust_optuna.config import Pruner
from rust_optuna.learn.pruned_report import curve_of
from rust_optuna.search.studies import Study
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import PointState

AT_ONCE = 500
"""The number of points that one query names: SQLite takes a limited number of values."""


@dataclass(frozen=True)
class EndedPoint:
    """A point that has ended with a curve.

    Args:
        complete: whether it is complete; otherwise it was pruned.
        curve: its value after each epoch.
    """

    complete: bool
    curve: Sequence[float]


@dataclass(frozen=True)
class PruningRule:
    """A study's rule, which needs no database.

    Args:
        pruner: its type and options.
        study: the study's name. It decides with a point's number which bracket of ``hyperband`` the point is in.
        epochs: the largest number of epochs of a trial.
    """

    pruner: Pruner
    study: str
    epochs: int

    def prunes(self, number: int, curve: Sequence[float], ended: Mapping[int, EndedPoint]) -> bool:
        """Return whether a trial ends after the last epoch of its curve.

        Args:
            number: the number of its point.
            curve: its value after each epoch so far, of which there is at least one.
            ended: the points of the study that have ended, by their numbers.
        """
        judge = self._below_median if self.pruner.type == "median" else self._not_promoted
        return judge(number, curve, ended)

    def _below_median(self, number: int, curve: Sequence[float], ended: Mapping[int, EndedPoint]) -> bool:
        """Return whether the curve's best value is below the median of the complete points at this epoch."""
        pruner, epoch = self.pruner, len(curve)
        complete = [point.curve for point in ended.values() if point.complete]
        if len(complete) < pruner.n_startup_trials or epoch < pruner.n_warmup_steps:
            return False
        # The first epoch is always judged, as Optuna does.
        if epoch > 1 and (epoch - pruner.n_warmup_steps) % pruner.interval_steps:
            return False
        here = [other[epoch - 1] for other in complete if len(other) >= epoch]
        return bool(here) and max(curve) < float(np.median(here))

    def _not_promoted(self, number: int, curve: Sequence[float], ended: Mapping[int, EndedPoint]) -> bool:
        """Return whether the last value is not among the best that the points of its bracket had at this epoch."""
        bracket, epoch, factor = self._bracket(number), len(curve), self.pruner.reduction_factor
        if bracket is None or epoch not in self._rungs(bracket):
            return False
        others = [point.curve for key, point in ended.items() if key != number and self._bracket(key) == bracket]
        values = sorted([*(other[epoch - 1] for other in others if len(other) >= epoch), curve[-1]], reverse=True)
        promoted = max(len(values) // factor, 1)
        return curve[-1] < values[promoted - 1]

    def _rungs(self, bracket: int) -> list[int]:
        """Return the epochs after which trials of a bracket are judged: a geometric series."""
        rungs, rung = [], self.pruner.min_resource * self.pruner.reduction_factor**bracket
        while rung <= self.epochs:
            rungs.append(rung)
            rung *= self.pruner.reduction_factor
        return rungs

    def _bracket(self, number: int) -> int | None:
        """Return the bracket of a point; None if a trial has so few epochs that there is no bracket."""
        budgets = self._budgets
        if not budgets:
            return None
        # Optuna's own assignment.
        left = zlib.crc32(f"{self.study}_{number}".encode()) % sum(budgets)
        for bracket, budget in enumerate(budgets):
            left -= budget
            if left < 0:
                return bracket
        raise AssertionError("the remainder is below the sum")

    @cached_property
    def _budgets(self) -> list[int]:
        """The shares of the points that the brackets get."""
        factor = self.pruner.reduction_factor
        count = math.floor(math.log(self.epochs / self.pruner.min_resource, factor)) + 1
        return [math.ceil(count * factor ** (count - 1 - b) / (count - b)) for b in range(count)]


class Pruning:
    """The points of one study that have ended, as this process knows them, and the study's rule.

    A judgement waits for nothing. `refresh` reads what has ended since; another thread may call it meanwhile.

    Args:
        database: the study's database.
        study: the study.
        pruner: its pruner.
    """

    def __init__(self, database: Database, study: Study, pruner: Pruner) -> None:
        self._database = database
        self._study = study
        epochs = int(study.configuration.largest("epochs", study.inherited))
        self._rule = PruningRule(pruner, study.name, epochs)
        self._ended: Mapping[int, EndedPoint] = {}
        self._refreshing = threading.Lock()

    def prunes(self, number: int, curve: Sequence[float]) -> bool:
        """Return whether a trial of a point ends after the last epoch of its curve."""
        return self._rule.prunes(number, curve, self._ended)

    def refresh(self) -> None:
        """Read the points that have ended since the last call. If there are none, this is one small query."""
        point, attempt = tables.point, tables.attempt
        ended = point.c.study_id == self._study.id, point.c.state.in_((PointState.COMPLETE, PointState.PRUNED))
        newest = sa.and_(attempt.c.point_id == point.c.id, attempt.c.number == point.c.attempt)
        result = sa.select(point.c.number, point.c.state, attempt.c.result).join(attempt, newest)

        def read(connection: sa.Connection) -> dict[int, EndedPoint]:
            # A point that has ended never changes, so if their number is the same, they are the same.
            count = connection.execute(sa.select(sa.func.count()).where(*ended)).scalar_one()
            if count == len(self._ended):
                return {}
            numbers = connection.execute(sa.select(point.c.number).where(*ended)).scalars()
            missing = [number for number in numbers if number not in self._ended]
            found: dict[int, EndedPoint] = {}
            for start in range(0, len(missing), AT_ONCE):
                some = point.c.number.in_(missing[start : start + AT_ONCE])
                for row in connection.execute(result.where(*ended, some)):
                    found[row.number] = EndedPoint(row.state == PointState.COMPLETE, curve_of(row.result))
            return found

        with self._refreshing:
            if found := self._database.transact(read):
                self._ended = {**self._ended, **found}
