"""Who runs which design point: claim, lease, finish. The truth of execution; Optuna's trials mirror it.

Every function is one short transaction. At most one attempt at a point is live at any time, whatever dies: a claim is
atomic (``FOR UPDATE SKIP LOCKED``, or SQLite's one writer), a lease ends by the database's clock, and a result is taken
from the lease's holder only.
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
from rust_optuna.learn.trial_report import TrialReport
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import UNFINISHED, AttemptState, FaultKind, PointState, StudyState
from rust_optuna.storage.tables import StudyKey, attempt, database_now, point, study, worker

MAX_FAILURES = 3
"""Errors of the objective after which a point is a hole."""
MAX_LOSSES = 20
"""Lost leases and releases after which a point is a hole."""
SILENCE = "the lease ended without a word from the worker"


@dataclass(frozen=True)
class Claim:
    """A point that this worker, and nobody else, may run until its lease ends.

    Args:
        point_id: the point's row.
        study_key: the study.
        study: its name.
        number: the point's number in the design, from 0.
        attempt: the number of this attempt at it, from 1.
        worker: the holder.
        parameters: the point itself.
        trial: the number of the waiting Optuna trial that shows it, None where one must still be made.
        lease_seconds: the lease's length.
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

    @property
    def study_id(self) -> int:
        """The study's row."""
        return self.study_key.id


FINISHED_ELSEWHERE = "its trial was finished by somebody else"
"""Why an attempt is given back whose Optuna trial was finished before it began or while it ran."""


class Ledger:
    """The ledger of one database. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def register(self, worker_id: str, *, host: str, process: int, device: str) -> None:
        """Enter a worker, or its new device: from its first sign of life on, `beat_at` is later than `started_at`."""

        def enter(connection: Connection) -> None:
            connection.execute(worker.delete().where(worker.c.id == worker_id))
            values = {"id": worker_id, "host": host, "process": process, "device": device}
            # Read once: where a statement asks the clock twice, it may get two answers.
            now = connection.execute(sa.select(database_now())).scalar_one()
            connection.execute(worker.insert().values(**values, started_at=now, beat_at=now))

        self.database.transact(enter)

    def beat(self, worker_id: str) -> None:
        """Note that a worker that runs nothing is there."""
        note = worker.update().where(worker.c.id == worker_id).values(beat_at=database_now())
        self.database.transact(lambda connection: connection.execute(note))

    def leave(self, worker_id: str) -> None:
        """Strike out a worker that ends: what is left in the list either runs or died unseen."""
        self.database.transact(lambda connection: connection.execute(worker.delete().where(worker.c.id == worker_id)))

    def claim(self, study_ids: Sequence[int], worker_id: str) -> Claim | None:
        """Take a waiting point of the first of the studies that has one: the lowest of those that failed least.

        So a fault of one worker does not use up the attempts of one point after another. Points whose lease has ended
        go back to the queue first. Cheap however many points wait.

        A worker runs one point at a time, so a point that it holds already is one whose claim was committed while the
        answer was lost: that claim is returned again.
        """

        def take(connection: Connection) -> Claim | None:
            for study_id in study_ids:
                _expire(connection, study_id)
                claimed = _held_by(connection, study_id, worker_id) or _claim_in(connection, study_id, worker_id)
                if claimed:
                    return claimed
                # The last two points, ended at the same moment, each saw the other running.
                _close(connection, study_id)
            return None

        return self.database.transact(take)

    def renew(self, claim: Claim) -> None:
        """Extend the lease by its full length, and requeue the points of the study whose lease has ended.

        So a dead worker's point waits again while all others are at long trials of their own.

        Raises:
            LeaseLostError: the point is no longer this worker's.
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
        """Note which waiting Optuna trial shows a point that nobody has tried yet."""
        note = point.update().where(point.c.id == point_id, point.c.attempt == 0).values(trial=trial)
        self.database.transact(lambda connection: connection.execute(note))

    def record_trial(self, claim: Claim, trial: int) -> None:
        """Note which Optuna trial shows this attempt.

        Raises:
            LeaseLostError: the point is no longer this worker's.
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
        report: TrialReport | FoldReport | None,
        artifact: str | None,
    ) -> None:
        """End a point for good, ``complete`` or ``pruned``, with its value and report.

        Raises:
            LeaseLostError: the point is no longer this worker's; nothing was written.
        """

        def end(connection: Connection) -> bool:
            held = connection.execute(
                point.update().where(_held(claim)).values(state=outcome, value=value, lease_owner=None, lease_end=None)
            )
            if held.rowcount != 1:
                # A commit whose answer was lost is repeated: then the attempt stands ended as it should.
                return connection.execute(_outcome(claim)).scalar() == outcome
            values = {"outcome": outcome, "ended_at": database_now(), "artifact": artifact}
            if report is not None:
                values |= {"result": json.dumps(report.as_json()), "arithmetic": report.arithmetic}
            connection.execute(attempt.update().where(_attempt_of(claim)).values(**values))
            _close(connection, claim.study_id)
            return True

        if not self.database.transact(end):
            raise LeaseLostError(f"Point {claim.number} of {claim.study} is no longer this worker's")

    def fail(self, claim: Claim, reason: str, fault: FaultKind = FaultKind.LIBRARY) -> bool:
        """End an attempt with an error of the objective; the point waits again, or is a hole after its last attempt.

        Args:
            claim: the attempt.
            reason: kept with it.
            fault: what kind of error it was, in one word.

        Returns:
            Whether the attempt was still this worker's to end.
        """
        return self._give_up(claim, AttemptState.FAILED, reason, fault)

    def release(self, claim: Claim, reason: str, fault: FaultKind = FaultKind.INTERRUPTED) -> bool:
        """Give a point back untried, for others at once; return whether it was still this worker's to give."""
        return self._give_up(claim, AttemptState.RELEASED, reason, fault)

    def mark_shown(self, point_id: int, number: int) -> None:
        """Note that Optuna has been told how an attempt ended."""
        note = attempt.update().where(attempt.c.point_id == point_id, attempt.c.number == number).values(shown=1)
        self.database.transact(lambda connection: connection.execute(note))

    def abandon(self, worker_id: str, reason: str) -> int:
        """Strike out a worker known to be dead, and requeue what it was running; return how many points that was."""

        def requeue(connection: Connection) -> int:
            rows = connection.execute(_live().where(point.c.lease_owner == worker_id).with_for_update()).all()
            for row in rows:
                _end_attempt(connection, row, AttemptState.LOST, reason, FaultKind.LEASE)
                _close(connection, row.study_id)
            connection.execute(worker.delete().where(worker.c.id == worker_id))
            return len(rows)

        return self.database.transact(requeue)

    def open_studies(self, *, drawing: bool = False) -> dict[str, StudyKey]:
        """Return the studies that hand out points, oldest first, by name.

        Args:
            drawing: those too that do not yet: being created, or extended.
        """
        states = (StudyState.OPEN, StudyState.DRAWING) if drawing else (StudyState.OPEN,)
        query = sa.select(study.c.name, study.c.id, study.c.created_at).where(study.c.state.in_(states))
        rows = self.database.transact(lambda connection: connection.execute(query.order_by(study.c.id)).all())
        return {row.name: StudyKey(row.id, row.created_at) for row in rows}

    def untold(self) -> list[str]:
        """Return the studies with attempts that ended without Optuna being told: cheap, however many attempts."""
        query = sa.select(study.c.name).distinct()
        query = query.join(point, point.c.study_id == study.c.id).join(attempt, attempt.c.point_id == point.c.id)
        query = query.where(attempt.c.shown == 0, attempt.c.outcome != AttemptState.RUNNING)
        return list(self.database.transact(lambda connection: connection.execute(query).scalars().all()))

    def expire(self, study_id: int) -> int:
        """Requeue the points of a study whose lease has ended; return how many."""
        return self.database.transact(lambda connection: _expire(connection, study_id))

    def retry_holes(self, study_id: int) -> int:
        """Give the holes of a study that nobody accepted new attempts, and open it again; return how many."""

        def requeue(connection: Connection) -> int:
            count = connection.execute(_holes(study_id).values(state=PointState.WAITING, failures=0, losses=0)).rowcount
            if count:
                done = study.update().where(study.c.id == study_id, study.c.state == StudyState.DONE)
                connection.execute(done.values(state=StudyState.OPEN))
            return count

        return self.database.transact(requeue)

    def accept_holes(self, study_id: int) -> int:
        """Accept the holes of a study for good; return how many there were. Their attempts and reasons are kept."""
        accept = _holes(study_id).values(accepted=1)
        return self.database.transact(lambda connection: int(connection.execute(accept).rowcount))

    def _give_up(self, claim: Claim, outcome: AttemptState, reason: str, fault: FaultKind) -> bool:
        def end(connection: Connection) -> bool:
            row = connection.execute(_live().where(_held(claim)).with_for_update()).first()
            if row is not None:  # else the lease had ended, and the point is another's business
                _end_attempt(connection, row, outcome, reason, fault)
                _close(connection, claim.study_id)
                return True
            # A commit whose answer was lost is repeated: then the attempt stands ended as it should.
            return connection.execute(_outcome(claim)).scalar() == outcome

        return self.database.transact(end)


def add_points(connection: Connection, study_id: int, design: Iterable[Mapping[str, Any]], first: int) -> None:
    """Enter new waiting points, numbered from ``first``."""
    rows = [
        {"study_id": study_id, "number": number, "parameters": json.dumps(parameters), "state": PointState.WAITING}
        | {"attempt": 0, "failures": 0, "losses": 0}
        for number, parameters in enumerate(design, first)
    ]
    if rows:
        connection.execute(point.insert(), rows)


def _claim_in(connection: Connection, study_id: int, worker_id: str) -> Claim | None:
    # Columns of subqueries, no join: MariaDB would lock the study's row too, and others would skip all its points.
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
            # The waiting trial made at creation shows the first attempt; later attempts get their own.
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
    return Claim(
        point_id=row.id,
        study_key=StudyKey(row.study_id, row.created_at),
        study=row.name,
        number=row.number,
        attempt=attempt_number,
        worker=worker_id,
        parameters=json.loads(row.parameters),
        trial=trial,
        lease_seconds=row.lease_seconds,
    )


def _holes(study_id: int) -> sa.Update:
    return point.update().where(point.c.study_id == study_id, point.c.state == PointState.HOLE, point.c.accepted == 0)


def _close(connection: Connection, study_id: int) -> None:
    """Mark an open study done if no point of it waits or runs."""
    unfinished = sa.exists().where(point.c.study_id == study_id, point.c.state.in_(UNFINISHED))
    done = study.update().where(study.c.id == study_id, study.c.state == StudyState.OPEN, ~unfinished)
    connection.execute(done.values(state=StudyState.DONE))


def _live() -> sa.Select[Any]:
    columns = (point.c.id, point.c.study_id, point.c.attempt, point.c.failures, point.c.losses)
    return sa.select(*columns).where(point.c.state == PointState.RUNNING)


def _held(claim: Claim) -> sa.ColumnElement[bool]:
    """The fence: this very attempt still holds the point."""
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
        _end_attempt(
            connection, row, AttemptState.LOST, "the lease ended without a word from the worker", FaultKind.LEASE
        )
    if rows:
        _close(connection, study_id)
    return len(rows)


def _end_attempt(
    connection: Connection, row: sa.Row[Any], outcome: AttemptState, reason: str, fault: FaultKind
) -> None:
    """End a locked point's live attempt without a result: the point waits again, or is a hole."""
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
