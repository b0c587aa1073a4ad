"""The meaning of a database's error: whether waiting helps, and if not, what does."""

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
"""The message and the error number for a database that does not exist."""
REFUSALS = ("password authentication failed", "no password supplied")
"""The messages of PostgreSQL for a wrong password, and of its driver for a missing one."""
DENIED_BY_MARIADB = ((1142,), (1143,))
"""MariaDB's error numbers for a statement that the user may not use on a table, or on a column."""
REFUSED_BY_MARIADB = ((1044,), (1045,), (1698,))
"""MariaDB's error numbers for a database that the user may not use, and for a wrong password."""


def database_errors() -> tuple[type[Exception], type[Exception]]:
    """Return the errors of Optuna's storage and of the ledger's transactions when the database fails. Import Optuna."""
    import optuna

    return optuna.exceptions.StorageInternalError, SQLAlchemyError


def may_pass(error: BaseException) -> bool:
    """Return whether a database's error may pass by itself, such as no connection, a deadlock or a full disk."""
    cause = _cause(error)
    if isinstance(cause, DBAPIError):
        # A statement after the one that broke the transaction raises InternalError.
        outage = isinstance(cause, OperationalError | InterfaceError | InternalError) or cause.connection_invalidated
        return (
            outage
            and not str(cause.orig).startswith("no such ")
            and not refuses_user(cause)
            and not denies_statement(cause)
        )
    return isinstance(cause, PoolTimeoutError | PendingRollbackError)


def refuses_user(error: BaseException) -> bool:
    """Return whether the server refused to let the user in, for example for a wrong password."""
    orig = getattr(_cause(error), "orig", None)
    if orig is None:
        return False
    # psycopg reports no SQLSTATE if the connection itself failed.
    by_code = str(getattr(orig, "sqlstate", None) or "").startswith("28")
    by_message = any(message in str(orig) for message in REFUSALS)
    return by_code or by_message or orig.args[:1] in REFUSED_BY_MARIADB


def denies_statement(error: BaseException) -> bool:
    """Return whether the database let its user in but did not permit the statement."""
    orig = getattr(_cause(error), "orig", None)
    if isinstance(orig, sqlite3.Error):
        return getattr(orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY
    return orig is not None and (getattr(orig, "sqlstate", None) == "42501" or orig.args[:1] in DENIED_BY_MARIADB)


def is_missing(error: BaseException) -> bool:
    """Return whether the server answered that it has no database of that name."""
    orig = getattr(_cause(error), "orig", None)
    if orig is None:
        return False
    return bool(NO_DATABASE_ON_POSTGRESQL.search(str(orig))) or orig.args[:1] == NO_DATABASE_ON_MARIADB


def first_line(error: BaseException) -> str:
    """Return the first line of the database's own message."""
    cause = _cause(error)
    cause = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def _cause(error: BaseException) -> BaseException:
    """Return SQLAlchemy's error if Optuna's storage wrapped one, else the error itself."""
    wrapped = type(error).__name__ == "StorageInternalError"
    return error.__cause__ if wrapped and error.__cause__ is not None else error
