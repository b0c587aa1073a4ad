"""A study that was deleted while a worker was at it: said in one line, whatever failed for it."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from rust_optuna.errors import StorageError
from rust_optuna.search.studies import find_study
from rust_optuna.storage.database import Database
from rust_optuna.storage.outages import database_errors
from rust_optuna.storage.tables import StudyKey
from rust_optuna.worker.stopping import StopRequestedError

log = logging.getLogger(__name__)


def was_deleted(database: Database, name: str, key: StudyKey, error: BaseException) -> bool:
    """Say whether it was the deletion of a study that ended what was done for it.

    Where the database is away, or a stop was asked for, the error says enough, and the database is not asked.

    Args:
        database: the study's.
        name: the study's.
        key: tells it from one of the same name that was created since.
        error: what ended the work.
    """
    if isinstance(error, StopRequestedError | StorageError) or not isinstance(error, Exception):
        return False
    if isinstance(error, database_errors()) and not isinstance(error, sa.exc.IntegrityError):
        return False
    there = find_study(database, name)
    return there is None or there.key != key


def log_deleted(name: str) -> None:
    """Log that a study was deleted."""
    log.warning("%s was deleted", name, extra={"event": "deleted"})
