"""The ledger of which worker runs which design point. It is the truth of execution, which Optuna's trials mirror.

Every method is one short transaction. At most one attempt at a point is live at any time, whatever dies: a claim is
atomic (``FOR UPDATE SKIP LOCKED``, or SQLite's single writer), a lease ends by the database's clock, and a result is
accepted from the lease's holder only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rust_optuna.errors import LeaseLostError
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.learn.pruned_report import PrunedReport
from rust_optuna.learn.trial_report import TrialReport
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import UNFINISHED, AttemptState, FaultKind, PointState, StudyState
from rust_optuna.storage.tables import StudyKey, attempt, database_now, point, study, worker

MAX_FAILURES = 3
"""The number of errors of the objective after which a point is a hole."""
MAX_LOSSES = 20
"""The number of lost leases and releases after which a point is a hole."""
SILENCE = "the lease ended without a word from the worker"
"""The reason with which an attempt is lost whose lease ended."""


@dataclass(frozen=True)
class Claim:
    """A point that this worker, and nobody else, may run until its lease ends.

    Args:
        point_id: the point's row.
        study_key: the study's key.
        study: the study's name.
        number: the point's number in the design, from 0.
        attempt: the number of this attempt at the point, from 1.
        worker: the identifier of the worker that holds the lease.
        parameters: the point's hyperparameters.
        trial: the number of the waiting Optuna trial that shows the point; None if a trial must still be made.
        lease_seconds: the length of the lease.
        drawn: whether the point has parameters. If not, it is an empty slot, which this worker has to draw.
    """

    point_id: int
    study_key: StudyKey
    study: str
    number: int
    attempt: int
    worker: str
    parameters: Mapping[str, Any]
    trial: int | None
    lease_seconds: int
    drawn: bool = True

    @property
    def study_id(self) -> int:
        """The study's row."""
        return self.study_key.id


FINISHED_ELSEWHERE = "its trial was finished by somebody else"
"""The reason of a release because somebody else finished the Optuna trial, before the attempt began or during it."""


class Ledger:
    """The ledger of one database. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def register(self, worker_id: str, *, host: str, process: int, device: str) -> None:
        """Insert a worker, or update its device.

        `beat_at` equals `started_at` until the worker's first sign of life, and is later from then on.
        """

        def insert(connection: Connection) -> None:
            connection.execute(worker.delete().where(worker.c.id == worker_id))
            values = {"id": worker_id, "host": host, "process": process, "device": device}
            # The clock is read once, because a statement that reads it twice may get two answers.
            now = connection.execute(sa.select(database_now())).scalar_one()
            connection.execute(worker.insert().values(**values, started_at=now, beat_at=now))

        self.database.transact(insert)

    def beat(self, worker_id: str) -> None:
        """Record a sign of life of a worker that runs no point."""
        note = worker.update().where(worker.c.id == worker_id).values(beat_at=database_now())
        self.database.transact(lambda connection: connection.execute(note))

    def leave(self, worker_id: str) -> None:
        """Remove a worker that ends. The workers that stay in the table either run or died unnoticed."""
        self.database.transact(lambda connection: connection.execute(worker.delete().where(worker.c.id == worker_id)))

    def claim(self, study_ids: Sequence[int], worker_id: str) -> Claim | None:
        """Claim a waiting point of the first study that has one, or return None.

        Among the points that failed the fewest times, the one of the lowest number is taken, so that a faulty worker
        does not use up the attempts of one point after another. Before that, points whose lease has ended return to the
        queue. The cost does not depend on how many points wait.

        A worker runs one point at a time. If it holds a point already, an earlier claim was committed, but its answer
        was lost: that claim is returned again.
        """

        def take(connection: Connection) -> Claim | None:
            for study_id in study_ids:
                _expire(connection, study_id)
                claimed = _held_by(connection, study_id, worker_id) or _claim_in(connection, study_id, worker_id)
                if claimed:
                    return claimed
                # If the last two points ended at the same moment, each saw the other running and left the study open.
                _close(connection, study_id)
            return None

        return self.database.transact(take)

    def renew(self, claim: Claim) -> None:
        """Renew the lease for its full length, and requeue the points of the study whose lease has ended.

        So a dead worker's point waits again even while all other workers are busy with long trials.

        Raises:
            LeaseLostError: this worker no longer holds the point.
        """

        def extend(connection: Connection) -> bool:
            connection.execute(worker.update().where(worker.c.id == claim.worker).values(beat_at=database_now()))
            end = database_now() + claim.lease_seconds
            held = connection.execute(point.update().where(_held(claim)).values(lease_end=end))
            _expire(connection, claim.study_id)
            return held.rowcount == 1

        if not self.database.transact(extend):
            raise LeaseLostError(f"Point {claim.number} of {claim.study} is no longer this worker's")

    def show_waiting(self, point_id: int, trial: int) -> None:
        """Record which waiting Optuna trial shows a point that has not been tried yet."""
        note = point.update().where(point.c.id == point_id, point.c.attempt == 0).values(trial=trial)
        self.database.transact(lambda connection: connection.execute(note))

    def record_draw(self, claim: Claim, parameters: Mapping[str, Any]) -> None:
        """Give an empty slot its parameters, which it keeps over all its attempts.

        Raises:
            LeaseLostError: this worker no longer holds the slot.
        """
        drawn = point.update().where(_held(claim)).values(parameters=json.dumps(parameters))
        if self.database.transact(lambda connection: connection.execute(drawn).rowcount) != 1:
            raise LeaseLostError(f"Point {claim.number} of {claim.study} is no longer this worker's")

    def record_trial(self, claim: Claim, trial: int) -> None:
        """Record which Optuna trial shows this attempt.

        Raises:
            LeaseLostError: this worker no longer holds the point.
        """

        def note(connection: Connection) -> bool:
            held = connection.execute(point.update().where(_held(claim)).values(trial=trial))
            if held.rowcount == 1:
                connection.execute(attempt.update().where(_attempt_of(claim)).values(trial=trial))
            return held.rowcount == 1

        if not self.database.transact(note):
            raise LeaseLostError(f"Point {claim.number} of {claim.study} is no longer this worker's")

    def finish(
        self,
        claim: Claim,
        outcome: str,
        value: float | None,
        report: TrialReport | FoldReport | PrunedReport | None,
        artifact: str | None,
    ) -> None:
        """End a point for good as ``complete`` or ``pruned``, with its value and report.

        Raises:
            LeaseLostError: this worker no longer holds the point; nothing was written.
        """

        def end(connection: Connection) -> bool:
            held = connection.execute(
                point.update().where(_held(claim)).values(state=outcome, value=value, lease_owner=None, lease_end=None)
            )
            if held.rowcount != 1:
                # If an earlier try was committed, but its answer was lost, the attempt has this outcome already.
                return connection.execute(_outcome(claim)).scalar() == outcome
            values = {"outcome": outcome, "ended_at": database_now(), "artifact": artifact}
            if report is not None:
                values |= {"result": json.dumps(report.to_json()), "arithmetic": report.arithmetic}
            connection.execute(attempt.update().where(_attempt_of(claim)).values(**values))
            _close(connection, claim.study_id)
            return True

        if not self.database.transact(end):
            raise LeaseLostError(f"Point {claim.number} of {claim.study} is no longer this worker's")

    def fail(self, claim: Claim, reason: str, fault: FaultKind = FaultKind.LIBRARY) -> bool:
        """End an attempt with an error of the objective; the point waits again, or becomes a hole.

        Args:
            claim: the claim of the attempt.
            reason: the reason to store with the attempt.
            fault: the kind of error.

        Returns:
            Whether this worker still held the point.
        """
        return self._give_up(claim, AttemptState.FAILED, reason, fault)

    def release(self, claim: Claim, reason: str, fault: FaultKind = FaultKind.INTERRUPTED) -> bool:
        """Give a point back so that others can run it at once; return whether this worker still held it."""
        return self._give_up(claim, AttemptState.RELEASED, reason, fault)

    def mark_shown(self, point_id: int, number: int) -> None:
        """Record that Optuna shows how an attempt ended."""
        note = attempt.update().where(attempt.c.point_id == point_id, attempt.c.number == number).values(shown=1)
        self.database.transact(lambda connection: connection.execute(note))

    def abandon(self, worker_id: str, reason: str) -> int:
        """Remove a worker known to be dead, and requeue the points that it was running; return their number."""

        def requeue(connection: Connection) -> int:
            rows = connection.execute(_live().where(point.c.lease_owner == worker_id).with_for_update()).all()
            for row in rows:
                _end_attempt(connection, row, AttemptState.LOST, reason, FaultKind.LEASE)
                _close(connection, row.study_id)
            connection.execute(worker.delete().where(worker.c.id == worker_id))
            return len(rows)

        return self.database.transact(requeue)

    def open_studies(self, *, drawing: bool = False) -> dict[str, StudyKey]:
        """Return the keys of the studies that hand out points, by name, oldest first.

        Args:
            drawing: whether to include studies that are being created or extended, and so hand out no points yet.
        """
        states = (StudyState.OPEN, StudyState.DRAWING) if drawing else (StudyState.OPEN,)
        query = sa.select(study.c.name, study.c.id, study.c.created_at).where(study.c.state.in_(states))
        rows = self.database.transact(lambda connection: connection.execute(query.order_by(study.c.id)).all())
        return {row.name: StudyKey(row.id, row.created_at) for row in rows}

    def untold(self) -> list[str]:
        """Return the names of the studies with ended attempts that Optuna does not show yet.

        The cost does not depend on how many attempts there are.
        """
        query = sa.select(study.c.name).distinct()
        query = query.join(point, point.c.study_id == study.c.id).join(attempt, attempt.c.point_id == point.c.id)
        query = query.where(attempt.c.shown == 0, attempt.c.outcome != AttemptState.RUNNING)
        return list(self.database.transact(lambda connection: connection.execute(query).scalars().all()))

    def expire(self, study_id: int) -> int:
        """Requeue the points of a study whose lease has ended; return their number."""
        return self.database.transact(lambda connection: _expire(connection, study_id))

    def retry_holes(self, study_id: int) -> int:
        """Give new attempts to a study's holes that nobody accepted, and reopen it; return the number of holes."""

        def requeue(connection: Connection) -> int:
            count = connection.execute(_holes(study_id).values(state=PointState.WAITING, failures=0, losses=0)).rowcount
            if count:
                done = study.update().where(study.c.id == study_id, study.c.state == StudyState.DONE)
                connection.execute(done.values(state=StudyState.OPEN))
            return count

        return self.database.transact(requeue)

    def accept_holes(self, study_id: int) -> int:
        """Accept the holes of a study for good, and return their number; their attempts and reasons are kept."""
        accept = _holes(study_id).values(accepted=1)
        return self.database.transact(lambda connection: int(connection.execute(accept).rowcount))

    def _give_up(self, claim: Claim, outcome: AttemptState, reason: str, fault: FaultKind) -> bool:
        def end(connection: Connection) -> bool:
            row = connection.execute(_live().where(_held(claim)).with_for_update()).first()
            if row is not None:  # otherwise the lease had ended, or an earlier try was committed
                _end_attempt(connection, row, outcome, reason, fault)
                _close(connection, claim.study_id)
                return True
            # If an earlier try was committed, but its answer was lost, the attempt has this outcome already.
            return connection.execute(_outcome(claim)).scalar() == outcome

        return self.database.transact(end)


def add_points(connection: Connection, study_id: int, design: Iterable[Mapping[str, Any] | None], first: int) -> None:
    """Insert new waiting points, numbered from ``first``; None stands for an empty slot."""
    rows = [
        {"study_id": study_id, "number": number, "parameters": json.dumps(parameters), "state": PointState.WAITING}
        | {"attempt": 0, "failures": 0, "losses": 0}
        for number, parameters in enumerate(design, first)
    ]
    if rows:
        connection.execute(point.insert(), rows)


def _claim_in(connection: Connection, study_id: int, worker_id: str) -> Claim | None:
    # Subqueries replace a join, for which MariaDB would lock the study's row too, so that other workers would skip all
    # its points.
    name, lease_seconds, created_at, state = (
        sa.select(column).where(study.c.id == point.c.study_id).scalar_subquery()
        for column in (study.c.name, study.c.lease_seconds, study.c.created_at, study.c.state)
    )
    row = connection.execute(
        sa.select(point, name.label("name"), lease_seconds.label("lease_seconds"), created_at.label("created_at"))
        .where(point.c.study_id == study_id, state == StudyState.OPEN, point.c.state == PointState.WAITING)
        .order_by(point.c.failures, point.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).first()
    if row is None:
        return None
    end = database_now() + row.lease_seconds
    number = row.attempt + 1
    connection.execute(
        point.update()
        .where(point.c.id == row.id)
        .values(state=PointState.RUNNING, attempt=number, lease_owner=worker_id, lease_end=end)
    )
    connection.execute(
        attempt.insert().values(
            point_id=row.id,
            number=number,
            worker=worker_id,
            started_at=database_now(),
            outcome=AttemptState.RUNNING,
            # The waiting trial made at creation shows the first attempt; later attempts get trials of their own.
            trial=row.trial if number == 1 else None,
        )
    )
    return _as_claim(row, worker_id, number, row.trial if number == 1 else None)


def _held_by(connection: Connection, study_id: int, worker_id: str) -> Claim | None:
    row = connection.execute(
        sa.select(point, study.c.name, study.c.lease_seconds, study.c.created_at, attempt.c.trial.label("shown_by"))
        .join(study, study.c.id == point.c.study_id)
        .join(attempt, sa.and_(attempt.c.point_id == point.c.id, attempt.c.number == point.c.attempt))
        .where(point.c.study_id == study_id, point.c.state == PointState.RUNNING, point.c.lease_owner == worker_id)
        .limit(1)
    ).first()
    if row is None:
        return None
    end = database_now() + row.lease_seconds
    connection.execute(point.update().where(point.c.id == row.id).values(lease_end=end))
    return _as_claim(row, worker_id, row.attempt, row.shown_by)


def _as_claim(row: sa.Row[Any], worker_id: str, attempt_number: int, trial: int | None) -> Claim:
    parameters = json.loads(row.parameters)
    return Claim(
        point_id=row.id,
        study_key=StudyKey(row.study_id, row.created_at),
        study=row.name,
        number=row.number,
        attempt=attempt_number,
        worker=worker_id,
        parameters=parameters or {},
        trial=trial,
        lease_seconds=row.lease_seconds,
        drawn=parameters is not None,
    )


def _holes(study_id: int) -> sa.Update:
    return point.update().where(point.c.study_id == study_id, point.c.state == PointState.HOLE, point.c.accepted == 0)


def _close(connection: Connection, study_id: int) -> None:
    """Mark an open study as done if none of its points waits or runs."""
    unfinished = sa.exists().where(point.c.study_id == study_id, point.c.state.in_(UNFINISHED))
    done = study.update().where(study.c.id == study_id, study.c.state == StudyState.OPEN, ~unfinished)
    connection.execute(done.values(state=StudyState.DONE))


def _live() -> sa.Select[Any]:
    columns = (point.c.id, point.c.study_id, point.c.attempt, point.c.failures, point.c.losses)
    return sa.select(*columns).where(point.c.state == PointState.RUNNING)


def _held(claim: Claim) -> sa.ColumnElement[bool]:
    """Return the condition that this very attempt still holds the point."""
    return sa.and_(
        point.c.id == claim.point_id,
        point.c.state == PointState.RUNNING,
        point.c.attempt == claim.attempt,
        point.c.lease_owner == claim.worker,
    )


def _attempt_of(claim: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(attempt.c.point_id == claim.point_id, attempt.c.number == claim.attempt)


def _outcome(claim: Claim) -> sa.Select[Any]:
    return sa.select(attempt.c.outcome).where(_attempt_of(claim), attempt.c.worker == claim.worker)


def _expire(connection: Connection, study_id: int) -> int:
    ended = _live().where(point.c.study_id == study_id, point.c.lease_end < database_now())
    rows = connection.execute(ended.with_for_update(skip_locked=True)).all()
    for row in rows:
        _end_attempt(connection, row, AttemptState.LOST, SILENCE, FaultKind.LEASE)
    if rows:
        _close(connection, study_id)
    return len(rows)


def _end_attempt(
    connection: Connection, row: sa.Row[Any], outcome: AttemptState, reason: str, fault: FaultKind
) -> None:
    """End the live attempt at a locked point without a result; the point waits again, or becomes a hole."""
    failures = row.failures + (outcome == AttemptState.FAILED)
    losses = row.losses + (outcome != AttemptState.FAILED)
    state = PointState.HOLE if failures >= MAX_FAILURES or losses >= MAX_LOSSES else PointState.WAITING
    connection.execute(
        attempt.update()
        .where(attempt.c.point_id == row.id, attempt.c.number == row.attempt)
        .values(outcome=outcome, reason=reason, fault=fault, ended_at=database_now())
    )
    connection.execute(
        point.update()
        .where(point.c.id == row.id)
        .values(state=state, failures=failures, losses=losses, lease_owner=None, lease_end=None)
    )
