"""Finding trials in Optuna that somebody else finished: another program on the same database, or a dashboard's user.

``study.optimize``, for example, takes a waiting trial or adds its own. The ledger never takes such a value for one of
the study's. But Optuna shows it, and the trial cannot be marked, because a finished trial takes no more attributes. So
all that this program can do is report it. It reads Optuna's tables by plain SQL, because commands that only read do not
load Optuna.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rust_optuna.search.ledger import FINISHED_ELSEWHERE
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import AttemptState
from rust_optuna.storage.tables import StudyKey

_studies = sa.table("studies", sa.column("study_id"), sa.column("study_name"))
_trials = sa.table("trials", *(sa.column(name) for name in ("trial_id", "number", "study_id", "state")))
_values = sa.table("trial_values", *(sa.column(name) for name in ("trial_id", "objective", "value", "value_type")))
_attributes = sa.table("trial_user_attributes", *(sa.column(name) for name in ("trial_id", "key", "value_json")))
"""The parts of Optuna's own tables that are read here."""

_ENDS = {
    AttemptState.COMPLETE: "COMPLETE",
    AttemptState.PRUNED: "PRUNED",
    AttemptState.FAILED: "FAIL",
    AttemptState.LOST: "FAIL",
    AttemptState.RELEASED: "FAIL",
}
"""The state of the Optuna trial that shows an attempt's end."""
_INFINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf}


@dataclass(frozen=True)
class OptunasBest:
    """The trial that Optuna calls the best."""

    number: int
    value: float

    def to_json(self) -> dict[str, Any]:
        """Return a document that JSON can hold; an infinite value becomes a string."""
        return {"number": self.number, "value": self.value if math.isfinite(self.value) else str(self.value)}


@dataclass(frozen=True)
class ForeignTrials:
    """The trials of a study in Optuna that somebody else finished.

    Args:
        finished: the number of these trials.
        best: the best of them, if Optuna shows it instead of the study's best; else None.
    """

    finished: int = 0
    best: OptunasBest | None = None

    def to_json(self) -> dict[str, Any]:
        """Return these trials' part of what ``status --json`` and ``best --json`` print."""
        return {"finished_by_others": self.finished, "optunas_best": self.best.to_json() if self.best else None}

    def words(self) -> str | None:
        """Return a sentence, without its full stop, if there are such trials; else None."""
        if not self.finished:
            return None
        count = f"{self.finished} of its trials in Optuna {'was' if self.finished == 1 else 'were'}"
        words = f"{count} finished by somebody else"
        if self.best:
            best = f"trial {self.best.number} ({self.best.value})"
            words += f"; the best that Optuna shows, {best}, is not this study's best"
        return words


def foreign_trials(database: Database, name: str, key: StudyKey, *, adaptive: bool = False) -> ForeignTrials:
    """Return the trials of a study that somebody else finished.

    Args:
        database: the study's database.
        name: the study's name.
        key: the study's key in the ledger.
        adaptive: whether workers make the trials of first attempts too, because no point was drawn at creation.
    """
    first = 1 if adaptive else 2

    def read(connection: Connection) -> tuple[list[sa.Row[Any]], list[sa.Row[Any]]]:
        # Optuna is read first, since the ledger records an end before Optuna does.
        return list(connection.execute(_finished(name)).all()), list(connection.execute(_attempts(key)).all())

    shown, rows = database.transact(read)
    attempts = {row.trial: row for row in rows if row.trial is not None}
    foreign = [trial for trial in shown if not _is_ours(trial, attempts.get(trial.number), first)]
    best = max((row.value for row in rows if row.outcome == AttemptState.COMPLETE), default=-math.inf)
    complete = [OptunasBest(trial.number, _value(trial)) for trial in foreign if trial.state == "COMPLETE"]
    highest = max(complete, key=lambda trial: trial.value, default=None)
    return ForeignTrials(len(foreign), highest if highest is not None and highest.value > best else None)


def _is_ours(trial: sa.Row[Any], attempt: sa.Row[Any] | None, first: int) -> bool:
    """Return whether this program finished a trial, given the attempt that the ledger links with it.

    Args:
        trial: the trial.
        attempt: that attempt; None if there is none.
        first: the number of the first attempt at a point whose trial is made by a worker.
    """
    if attempt is None:
        # A worker that dies before it notes the trial that it made in the ledger leaves such a trial.
        return bool(trial.state == "FAIL" and _attempt_number(trial.attempt) >= first)
    if _ENDS.get(attempt.outcome) != trial.state or attempt.reason == FINISHED_ELSEWHERE:
        return False
    return bool(trial.state != "COMPLETE" or math.isclose(_value(trial), attempt.value, rel_tol=1e-12))


def _attempt_number(attribute: str | None) -> int:
    """Return the attempt's number from a trial's attribute; 0 if it is missing or somebody else wrote it."""
    return int(attribute) if attribute is not None and attribute.isdecimal() else 0


def _value(trial: sa.Row[Any]) -> float:
    return _INFINITE.get(trial.value_type) or float(trial.value)


def _finished(name: str) -> sa.Select[Any]:
    """Select the finished trials of an Optuna study; ``attempt`` is the user attribute of that name, in JSON."""
    # PostgreSQL does not compare an enumeration with text.
    state, kind = sa.cast(_trials.c.state, sa.String(16)), sa.cast(_values.c.value_type, sa.String(16))
    value = sa.and_(_values.c.trial_id == _trials.c.trial_id, _values.c.objective == 0)
    attempt = sa.and_(_attributes.c.trial_id == _trials.c.trial_id, _attributes.c.key == "attempt")
    return (
        sa.select(_trials.c.number, state.label("state"), _values.c.value, kind.label("value_type"))
        .add_columns(_attributes.c.value_json.label("attempt"))
        .join(_studies, _studies.c.study_id == _trials.c.study_id)
        .outerjoin(_values, value)
        .outerjoin(_attributes, attempt)
        .where(_studies.c.study_name == name, state.in_(sorted(set(_ENDS.values()))))
        .order_by(_trials.c.number)
    )


def _attempts(key: StudyKey) -> sa.Select[Any]:
    point, attempt = tables.point, tables.attempt
    return (
        sa.select(attempt.c.trial, attempt.c.outcome, attempt.c.reason, point.c.value)
        .join(point, point.c.id == attempt.c.point_id)
        .where(point.c.study_id == key.id)
    )
