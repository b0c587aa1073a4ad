"""The deletion of a study while a worker runs it: one line in the log, whatever error it causes."""

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


def caused_by_deletion(database: Database, name: str, key: StudyKey, error: BaseException) -> bool:
    """Return whether the deletion of a study caused an error in the work for it.

    The database is not asked if the error itself shows another cause: a request to stop, or a database that is away.

    Args:
        database: the study's database.
        name: the study's name.
        key: the study's key, by which a study of the same name that was created later differs.
        error: the error that ended the work.
    """
    if isinstance(error, StopRequestedError | StorageError) or not isinstance(error, Exception):
        return False
    if isinstance(error, database_errors()) and not isinstance(error, sa.exc.IntegrityError):
        return False
    study = find_study(database, name)
    return study is None or study.key != key


def log_deleted(name: str) -> None:
    """Log that a study was deleted."""
    log.warning("%s was deleted", name, extra={"event": "deleted"})
