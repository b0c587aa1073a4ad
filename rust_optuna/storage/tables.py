"""The ledger's tables, beside Optuna's in the same database, and the database's clock.

Times are plain numbers, seconds since 1970 by the database's own clock: no time zone and no worker's clock matters.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from rust_optuna.storage.states import AttemptState, FaultKind, PointState, StudyState

SCHEMA_VERSION = 4
"""The newest migration's number (`rust_optuna.storage.migrations`)."""

HOLDS_UNICODE = "rust_optuna_holds_unicode"
"""The attribute of an engine's dialect that says whether its database can store every character."""


class Words(TypeDecorator[str]):
    r"""Text from outside, such as an error's message. It may hold characters that no database can store.

    No database stores invalid Unicode, PostgreSQL stores no NUL, and a database with another encoding than UTF-8 stores
    few characters. In such a database every character beyond ASCII is stored as Python's escape, ``\xf6`` for ö.

    Args:
        length: the number of characters that are stored; the rest is cut off.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text as the database stores it."""
        if value is None:
            return None
        # A message may be of any length, so it is cut before the conversion as well as after it.
        text = value[: self.length].replace("\0", "").encode(errors="replace").decode()
        if not getattr(dialect, HOLDS_UNICODE, True):
            text = text.encode("ascii", "backslashreplace").decode()
        return text[: self.length]


class State(TypeDecorator[StrEnum]):
    """A state, stored as its word.

    Args:
        states: the enumeration of all states.
    """

    impl = String
    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        super().__init__(16)
        self.states = states

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the state's word; raise ValueError if the value is not a state."""
        return None if value is None else str(self.states(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        """Return the state that a stored word stands for."""
        return None if value is None else self.states(value)


def _check(column: str, states: type[StrEnum]) -> CheckConstraint:
    words = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({words})")


class LongWords(Words):
    """`Words` in a column without a length of its own."""

    impl = Text
    cache_ok = True

    def __init__(self, length: int) -> None:
        TypeDecorator.__init__(self)
        self.length = length


LONGEST_REASON = 10_000
"""The number of characters of an error's message that are stored: MariaDB takes at most 64 KB."""
LONGEST_NAME = 255
"""The number of characters of a host's or device's name that are stored: a list of many GPUs' UUIDs is longer."""

metadata = MetaData()
_PREFIX = "rust_optuna_"
_Document = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
"""The column type of JSON of any length: MySQL's TEXT ends at 64 KB."""

schema = Table(
    f"{_PREFIX}schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("artifacts", Text, nullable=False),
    Column("token", String(64), nullable=False, server_default=""),
)
"""One row: the version of these tables, the location of the storage's artifacts, and the token that identifies the
storage in its artifact store."""

study = Table(
    f"{_PREFIX}study",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("state", State(StudyState), _check("state", StudyState), nullable=False),
    Column("configuration", _Document, nullable=False),
    Column("fingerprint", _Document, nullable=False),
    Column("runtime", _Document),
    Column("source", _Document),
    Column("notes", _Document, nullable=False),
    Column("lease_seconds", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)
"""The studies. ``fingerprint`` is fixed at creation, ``runtime`` (libraries, objective) by the first worker; ``source``
is the point that ``from_best_of`` took; ``notes`` lists the warnings of the study's creation."""


class StudyKey(NamedTuple):
    """The key of one study. The row alone would not do: SQLite gives the row of a deleted study to the next one.

    Args:
        id: the study's row.
        created_at: when the study was created.
    """

    id: int
    created_at: float


film = Table(
    f"{_PREFIX}film",
    metadata,
    Column("study_id", ForeignKey(study.c.id, ondelete="CASCADE"), primary_key=True),
    Column("content", String(64), primary_key=True),
    Column("patient", String(64), nullable=False),
    Column("view", String(16), nullable=False),
    Column("label", String(18), nullable=False),
    Column("fold", Integer, nullable=False),
)
"""The studies' development films, by content hash. Hold-out films are never stored here."""

point = Table(
    f"{_PREFIX}point",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey(study.c.id, ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("parameters", _Document, nullable=False),
    Column("state", State(PointState), _check("state", PointState), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("lease_owner", String(64)),
    Column("lease_end", Double),
    Column("trial", Integer),
    Column("value", Double),
    Column("accepted", Integer, nullable=False, server_default="0"),
    UniqueConstraint("study_id", "number"),
    Index(f"ix_{_PREFIX}point_queue", "study_id", "state", "failures", "number"),
)
"""The design points. ``attempt`` is the number of the newest attempt (0 before the first), ``trial`` the number of the
Optuna trial that shows the point: the waiting trial, later the newest attempt's. ``accepted`` marks a hole that the
user accepted."""

EMPTY = "null"
"""What ``point.parameters`` holds in a slot of an adaptive design that is not drawn yet."""

attempt = Table(
    f"{_PREFIX}attempt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("point_id", ForeignKey(point.c.id, ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker", String(64), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("outcome", State(AttemptState), _check("outcome", AttemptState), nullable=False),
    Column("reason", LongWords(LONGEST_REASON)),
    Column("trial", Integer),
    Column("result", _Document),
    Column("artifact", String(64)),
    Column("fault", State(FaultKind)),
    Column("shown", Integer, nullable=False, server_default="0"),
    Column("arithmetic", String(128)),
    UniqueConstraint("point_id", "number"),
    Index(f"ix_{_PREFIX}attempt_unshown", "shown", "outcome"),
)
"""The attempts at points: the worker, the outcome and the result. ``fault`` is the kind of trouble that ended the
attempt, ``shown`` whether its end has been written to Optuna, ``arithmetic`` the kind of arithmetic of its result."""

features = Table(
    f"{_PREFIX}features",
    metadata,
    Column("study_id", ForeignKey(study.c.id, ondelete="CASCADE"), primary_key=True),
    Column("backbone", String(64), primary_key=True),
    Column("arithmetic", String(128), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("sample", _Document, nullable=False),
)
"""The features that the first worker of each kind of arithmetic computed for a study (`rust_optuna.search.pins`)."""

worker = Table(
    f"{_PREFIX}worker",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("host", Words(LONGEST_NAME), nullable=False),
    Column("process", Integer, nullable=False),
    Column("device", Words(LONGEST_NAME), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("beat_at", Double, nullable=False),
)
"""The worker processes that run, and those that died unnoticed: a worker that ends deletes its own row."""


holdout_opening = Table(
    f"{_PREFIX}holdout_opening",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("study", String(100), nullable=False),
    Column("films", _Document, nullable=False),
    Column("models", _Document, nullable=False),
    Column("definition", _Document, nullable=False),
    Column("asked_by", Words(LONGEST_NAME), nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("numbers", _Document),
)
"""The openings of hold-outs, each entered before a film was scored. No study's deletion touches them.

``films`` lists the films' content hashes, ``models`` the SHA-256 of each head by name, ``definition`` says what the
primary number is; ``numbers`` are added once they are known."""

model = Table(
    f"{_PREFIX}model",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("opening", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("document", _Document, nullable=False),
    Column("created_at", Double, nullable=False),
)
"""The model directories that evaluations wrote: ``sha256`` is that of the list of its files' checksums, ``document``
its numbers and where it comes from."""


class database_now(FunctionElement[float]):  # noqa: N801 (reads like the SQL function it is)
    """The number of seconds since 1970 by the database's clock."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql_now(element: database_now, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(database_now, "mysql")
@compiles(database_now, "mariadb")
def _mysql_now(element: database_now, compiler: Any, **options: Any) -> str:
    return "(unix_timestamp(sysdate(6)) + 0e0)"
