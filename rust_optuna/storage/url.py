"""The URL of a storage: how users' input is parsed, and how a URL is shown without its passwords."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from rust_optuna.errors import StorageError, StorageValueError

if TYPE_CHECKING:
    from rust_optuna.paths import Home

HIDDEN = "***"
"""The replacement for a password."""
SHORT_NAMES = {"postgres": "postgresql"}
"""The names that other programs use for a back end in a URL."""
ESCAPE_HINT = (
    "escape special characters of the password in a URL (@ is %40, : is %3A, / is %2F, # is %23, ? is %3F, % is %25), "
    "or leave the password out and name a file that holds it: --password-file FILE"
)


def parse_url(text: str, home: Home, password_file: str | None = None, *, given_by: str = "The storage") -> URL:
    """Return the SQLAlchemy URL of a storage; a relative SQLite file lies below the home.

    Args:
        text: the URL as the user wrote it.
        home: the root of relative paths.
        password_file: the file with the password of a server, used where the URL has none.
        given_by: the option or variable that the URL came from, for messages.

    Raises:
        StorageError: the URL is malformed, or names an unsupported database or an in-memory one, which workers cannot
            share; or the password file is needed and cannot be used.
    """
    if match := re.fullmatch(r"sqlite:/{0,2}([^/].*)", text):
        raise StorageValueError(
            f"{given_by} {text!r} lacks a slash: write three before a path below the home (sqlite:///{match[1]}), and "
            "four before an absolute path (sqlite:////FOLDER/NAME.db)"
        )
    scheme, separator, rest = text.partition("://")
    backend, plus, driver = scheme.partition("+")
    try:
        url = sa.make_url(SHORT_NAMES.get(backend, backend) + plus + driver + separator + rest)
    except (ArgumentError, ValueError):
        hint = f"; {ESCAPE_HINT}" if "@" in rest else ""
        # A malformed URL may hold a password in any of its parts.
        shown = "" if "@" in text or "pass" in text.lower() else f" {text!r}"
        raise StorageValueError(
            f"{given_by}{shown} is not an SQLAlchemy URL such as sqlite:///storage/rust_optuna.db or "
            f"postgresql://user@host/name{hint}"
        ) from None
    if backend != "sqlite" and "@" in f"{url.host}{url.database}":
        raise StorageValueError(f"{given_by} has more than one @ in its URL: {ESCAPE_HINT}")
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise StorageValueError(
                f"{given_by} names an in-memory SQLite database, which workers cannot share: name a file"
            )
        return sqlite_url(home.resolve(url.database)).set(query=url.query)
    if password_file and url.password is None and not {"password", "passfile"} & set(url.query):
        url = url.set(password=_read_password(home.resolve(password_file)))
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend in ("mysql", "mariadb"):
        # Under the dialect name "mariadb" Optuna skips its MySQL upsert.
        return url.set(drivername="mysql+pymysql")
    raise StorageValueError(f"{given_by} names {backend}, which is not supported: use sqlite, postgresql or mysql")


def sqlite_url(file: Path) -> URL:
    """Return the URL of an SQLite file, whatever characters its name holds.

    Raises:
        StorageError: the name is not valid UTF-8, so no URL can hold it.
    """
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise StorageError(
            f"The database's path {str(file)!r} is not valid UTF-8: rename that folder, or name another file with "
            "--storage sqlite:////FOLDER/rust_optuna.db"
        ) from None
    return URL.create("sqlite", database=str(file))


def _read_password(path: Path) -> str:
    """Return the password, the only line of a file."""
    try:
        password = path.read_text(encoding="utf-8-sig").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StorageValueError(f"The password file {path} cannot be read: {reason}") from None
    if not password or "\n" in password:
        raise StorageValueError(f"The password file {path} must hold the password on one line, and nothing else")
    return password


def hide_passwords(text: str) -> str:
    """Return a URL, valid or not, with its passwords hidden, including those in its query parameters."""
    if "://" not in text:
        return text
    text = re.sub(r"(://[^/@:]*:).*@", rf"\1{HIDDEN}@", text)
    return re.sub(r"([?&][^=&]*pass(?!file)[^=&]*=)[^&]*", rf"\1{HIDDEN}", text, flags=re.IGNORECASE)
