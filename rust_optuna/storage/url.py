"""The URL of a storage: read from what users write, and shown without its passwords."""

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
"""What stands for a password."""
SHORT_NAMES = {"postgres": "postgresql"}
"""What other programs call a back end in a URL."""
ESCAPE_HINT = (
    "a special character of the password must be escaped in a URL (@ is %40, : is %3A, / is %2F, # is %23, ? is %3F, "
    "% is %25), or the password left out and its file named: --password-file FILE"
)


def parse_url(text: str, home: Home, password_file: str | None = None, *, given_by: str = "The storage") -> URL:
    """Return the SQLAlchemy URL of a storage; a relative SQLite file lies below the home.

    Args:
        text: the URL.
        home: root of relative paths.
        password_file: holds the password of a server where the URL names none.
        given_by: what to call the URL in messages: the option or the variable that it comes from.

    Raises:
        StorageError: for a malformed URL, an unsupported database or an in-memory one, which workers cannot share; for
            a password file that is needed and cannot be used.
    """
    if lost := re.fullmatch(r"sqlite:/{0,2}([^/].*)", text):
        raise StorageValueError(
            f"{given_by} {text!r} lacks a slash: three stand before a path below the home (sqlite:///{lost[1]}), four "
            "before a whole path (sqlite:////FOLDER/NAME.db)"
        )
    scheme, separator, rest = text.partition("://")
    backend, plus, driver = scheme.partition("+")
    try:
        url = sa.make_url(SHORT_NAMES.get(backend, backend) + plus + driver + separator + rest)
    except (ArgumentError, ValueError):
        hint = f"; {ESCAPE_HINT}" if "@" in rest else ""
        # Where a password may hide, nobody can say which part it is.
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
                f"{given_by} names an in-memory SQLite database, which cannot be shared with workers: name a file"
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
        StorageError: the name is not UTF-8, which a URL cannot say.
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
    """Return the first line of a file, which is all it holds."""
    try:
        password = path.read_text(encoding="utf-8-sig").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StorageValueError(f"The password file {path} cannot be read: {what}") from None
    if not password or "\n" in password:
        raise StorageValueError(f"The password file {path} must hold the password on one line, and nothing else")
    return password


def hide_passwords(text: str) -> str:
    """Return a URL, valid or not, with its passwords hidden, those among its query parameters too."""
    if "://" not in text:
        return text
    text = re.sub(r"(://[^/@:]*:).*@", rf"\1{HIDDEN}@", text)
    return re.sub(r"([?&][^=&]*pass(?!file)[^=&]*=)[^&]*", rf"\1{HIDDEN}", text, flags=re.IGNORECASE)
