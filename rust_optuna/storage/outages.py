"""What an error of a database means: that waiting helps, or what else does."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

NO_DATABASE_ON_POSTGRESQL, NO_DATABASE_ON_MARIADB = re.compile(r'database ".*" does not exist'), (1049,)
"""What each says of a database that is not there."""
REFUSALS = ("password authentication failed", "no password supplied")
"""What PostgreSQL says of a wrong password, and its driver of a missing one."""
DENIED_BY_MARIADB = ((1142,), (1143,))
"""The numbers of its errors for a statement that its user may not use on a table, or on a column."""
REFUSED_BY_MARIADB = ((1044,), (1045,), (1698,))
"""The numbers of its errors for a wrong password, and for a database that is not for this user."""


def database_errors() -> tuple[type[Exception], type[Exception]]:
    """Return what the ledger's transactions and Optuna's storage raise when the database fails them; loads Optuna."""
    import optuna

    return optuna.exceptions.StorageInternalError, SQLAlchemyError


def passes(error: BaseException) -> bool:
    """Say whether an error of the database is a trouble that may pass: no connection, a deadlock, a full disk."""
    cause = _cause(error)
    if isinstance(cause, DBAPIError):
        # InternalError: a statement after the one that broke the transaction.
        known = isinstance(cause, OperationalError | InterfaceError | InternalError) or cause.connection_invalidated
        return known and not str(cause.orig).startswith("no such ") and not refuses(cause) and not denies(cause)
    return isinstance(cause, PoolTimeoutError | PendingRollbackError)


def refuses(error: BaseException) -> bool:
    """Say whether the server turned the user away: waiting does not make a wrong password right."""
    orig = getattr(_cause(error), "orig", None)
    if orig is None:
        return False
    # psycopg gives no SQLSTATE where the connection itself failed.
    said = str(getattr(orig, "sqlstate", None) or "").startswith("28") or any(words in str(orig) for words in REFUSALS)
    return said or orig.args[:1] in REFUSED_BY_MARIADB


def denies(error: BaseException) -> bool:
    """Say whether the database let its user in, and then did not let them read or write what they wanted to."""
    orig = getattr(_cause(error), "orig", None)
    if isinstance(orig, sqlite3.Error):
        return getattr(orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY
    return orig is not None and (getattr(orig, "sqlstate", None) == "42501" or orig.args[:1] in DENIED_BY_MARIADB)


def is_missing(error: BaseException) -> bool:
    """Say whether a server answered that it has no database of that name: waiting does not make it."""
    orig = getattr(_cause(error), "orig", None)
    if orig is None:
        return False
    return bool(NO_DATABASE_ON_POSTGRESQL.search(str(orig))) or orig.args[:1] == NO_DATABASE_ON_MARIADB


def first_line(error: BaseException) -> str:
    """Return the first line of what the database itself said."""
    cause = _cause(error)
    cause = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def _cause(error: BaseException) -> BaseException:
    """Return what SQLAlchemy raised where Optuna's storage wrapped it, else the error itself."""
    wrapped = type(error).__name__ == "StorageInternalError"
    return error.__cause__ if wrapped and error.__cause__ is not None else error
