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
"""A worker that has not been heard of for longer, and holds no point, is not listed."""


@dataclass(frozen=True)
class WorkerStatus:
    """One worker process, as the ledger knows it; times are by the database's clock.

    Args:
        worker: its identifier.
        host: its machine.
        process: its process there.
        device: what CUDA_VISIBLE_DEVICES said.
        beat_seconds: how long ago it was last heard of.
        study: the study whose point it holds, None for none.
        point: that point's number.
        attempt: the number of its attempt.
        running_seconds: how long it has been at it.
        lease_seconds: how long its lease still lasts; negative once it has ended.
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

    def as_json(self) -> dict[str, Any]:
        """Return what ``rust-optuna worker list --json`` prints."""
        return asdict(self)


def list_workers(database: Database, *, recent_seconds: float | None = RECENT_SECONDS) -> list[WorkerStatus]:
    """Return the workers that hold a point or were heard of lately, or with None all that ever were, by host."""
    now = database_now()
    held = sa.and_(point.c.lease_owner == worker.c.id, point.c.state == PointState.RUNNING)
    newest = sa.and_(attempt.c.point_id == point.c.id, attempt.c.number == point.c.attempt)
    query = (
        sa.select(worker.c.id.label("worker"), worker.c.host, worker.c.process, worker.c.device)
        .add_columns((now - worker.c.beat_at).label("beat_seconds"))
        .add_columns(study.c.name.label("study"), point.c.number.label("point"), attempt.c.number.label("attempt"))
        .add_columns((now - attempt.c.started_at).label("running_seconds"))
        .add_columns((point.c.lease_end - now).label("lease_seconds"))
        .outerjoin(point, held)
        .outerjoin(study, study.c.id == point.c.study_id)
        .outerjoin(attempt, newest)
        .order_by(worker.c.host, worker.c.started_at, worker.c.id)
    )
    if recent_seconds is not None:
        query = query.where(sa.or_(point.c.id.is_not(None), worker.c.beat_at > now - recent_seconds))
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [WorkerStatus(**row._mapping) for row in rows]


def any_serves(database: Database, worker_ids: Sequence[str]) -> bool:
    """Say whether one of these workers, which run, has made ready: it has given a sign of life since it began."""
    ready = worker.c.id.in_(worker_ids), worker.c.beat_at > worker.c.started_at
    query = sa.select(sa.func.count()).select_from(worker).where(*ready)
    return database.transact(lambda connection: connection.execute(query).scalar_one() > 0)


def at_work(database: Database, heard_seconds: float) -> tuple[int, float]:
    """Return how many workers seem to be at work, and in how many seconds none of them will if they are dead.

    Those are who hold a point whose lease has not ended, or were heard of within ``heard_seconds``.
    """
    now = database_now()
    heard = sa.select(worker.c.id, worker.c.beat_at + heard_seconds - now)
    holding = sa.select(point.c.lease_owner, point.c.lease_end - now).where(point.c.state == PointState.RUNNING)
    query = sa.union_all(heard, holding)
    rows = database.transact(lambda connection: connection.execute(query).all())
    left = {name: seconds for name, seconds in rows if seconds > 0}
    return len(left), max((seconds for _, seconds in rows), default=0.0)


def points_finished_by(database: Database, worker_id: str) -> int:
    """Return the number of points that a worker brought to an end."""
    ended = attempt.c.outcome.in_((AttemptState.COMPLETE, AttemptState.PRUNED))
    query = sa.select(sa.func.count()).where(attempt.c.worker == worker_id, ended)
    return database.transact(lambda connection: int(connection.execute(query).scalar_one()))
