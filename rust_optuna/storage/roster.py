"""The workers of a storage, read from its ledger alone: no Optuna, no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from rust_optuna.storage.database import Database
from rust_optuna.storage.states import AttemptState, PointState
from rust_optuna.storage.tables import attempt, database_now, point, study, worker

RECENT_SECONDS = 600.0
"""How long a worker that holds no point stays listed after its last sign of life."""


@dataclass(frozen=True)
class WorkerStatus:
    """A worker process as the ledger knows it, with times by the database's clock.

    Args:
        worker: the worker's identifier.
        host: the machine's name.
        process: the process's number on that machine.
        device: the value of CUDA_VISIBLE_DEVICES.
        beat_seconds: how long ago the last sign of life was.
        study: the study whose point the worker holds; None where it holds none, like the fields that follow.
        point: the point's number.
        attempt: the attempt's number.
        running_seconds: how long the attempt has been running.
        lease_seconds: how long the lease still lasts; negative once it has ended.
    """

    worker: str
    host: str
    process: int
    device: str
    beat_seconds: float
    study: str | None
    point: int | None
    attempt: int | None
    running_seconds: float | None
    lease_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what ``rust-optuna worker list --json`` prints."""
        return asdict(self)


def list_workers(database: Database, *, recent_seconds: float | None = RECENT_SECONDS) -> list[WorkerStatus]:
    """Return, ordered by host, the workers that hold a point or gave a sign of life within ``recent_seconds``.

    With None, return every worker that is in the ledger.
    """
    now = database_now()
    holds_point = sa.and_(point.c.lease_owner == worker.c.id, point.c.state == PointState.RUNNING)
    newest = sa.and_(attempt.c.point_id == point.c.id, attempt.c.number == point.c.attempt)
    query = (
        sa.select(worker.c.id.label("worker"), worker.c.host, worker.c.process, worker.c.device)
        .add_columns((now - worker.c.beat_at).label("beat_seconds"))
        .add_columns(study.c.name.label("study"), point.c.number.label("point"), attempt.c.number.label("attempt"))
        .add_columns((now - attempt.c.started_at).label("running_seconds"))
        .add_columns((point.c.lease_end - now).label("lease_seconds"))
        .outerjoin(point, holds_point)
        .outerjoin(study, study.c.id == point.c.study_id)
        .outerjoin(attempt, newest)
        .order_by(worker.c.host, worker.c.started_at, worker.c.id)
    )
    if recent_seconds is not None:
        query = query.where(sa.or_(point.c.id.is_not(None), worker.c.beat_at > now - recent_seconds))
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [WorkerStatus(**row._mapping) for row in rows]


def any_serves(database: Database, worker_ids: Sequence[str]) -> bool:
    """Return whether any of these running workers is ready: it has given a sign of life since it registered."""
    ready = worker.c.id.in_(worker_ids), worker.c.beat_at > worker.c.started_at
    query = sa.select(sa.func.count()).select_from(worker).where(*ready)
    return database.transact(lambda connection: connection.execute(query).scalar_one() > 0)


def count_at_work(database: Database, heard_seconds: float) -> tuple[int, float]:
    """Return how many workers seem to be at work, and after how many seconds none would if all of them were dead.

    A worker seems to be at work while it holds a point whose lease has not ended, or for ``heard_seconds`` after its
    last sign of life.
    """
    now = database_now()
    beats = sa.select(worker.c.id, worker.c.beat_at + heard_seconds - now)
    leases = sa.select(point.c.lease_owner, point.c.lease_end - now).where(point.c.state == PointState.RUNNING)
    query = sa.union_all(beats, leases)
    rows = database.transact(lambda connection: connection.execute(query).all())
    names = {name for name, seconds in rows if seconds > 0}
    return len(names), max((seconds for _, seconds in rows), default=0.0)


def points_finished_by(database: Database, worker_id: str) -> int:
    """Return the number of points that a worker finished, complete or pruned."""
    ended = attempt.c.outcome.in_((AttemptState.COMPLETE, AttemptState.PRUNED))
    query = sa.select(sa.func.count()).where(attempt.c.worker == worker_id, ended)
    return database.transact(lambda connection: int(connection.execute(query).scalar_one()))
