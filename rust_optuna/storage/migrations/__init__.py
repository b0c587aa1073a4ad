"""Migrations of the ledger's tables, by Alembic. Optuna's own tables are Optuna's business.

Each has the number of the schema version that it leads to, and leaves that number in the table ``rust_optuna_schema``.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rust_optuna.errors import StorageError
from rust_optuna.storage import tables

VERSION_TABLE = "rust_optuna_alembic"
"""Alembic's own bookkeeping, beside Optuna's ``alembic_version``."""


def clear(connection: Connection) -> None:
    """Drop what a creation of the tables left that was killed halfway.

    MariaDB and MySQL commit each table at once. Without a version among them the tables hold nothing: studies are made
    once they are complete.

    Raises:
        StorageError: there are studies all the same: somebody else has been at the tables.
    """
    there = sa.inspect(connection).has_table(tables.study.name)
    if there and connection.execute(sa.select(tables.study.c.id).limit(1)).first() is not None:
        raise StorageError("The storage holds studies, but not the version of its tables: restore it from a backup")
    sa.Table(VERSION_TABLE, sa.MetaData()).drop(connection, checkfirst=True)
    tables.metadata.drop_all(connection)


def upgrade(connection: Connection, version: int | None) -> None:
    """Make the tables, or bring those of an earlier version up to date, in the connection's transaction.

    Args:
        connection: in a transaction. MariaDB and MySQL commit each change of a table at once: there, a migration goes
            on where a killed one stopped.
        version: of the tables that are there, None where there are none.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    if version == 1:  # was made before Alembic kept the books
        command.stamp(config, "0001")
    command.upgrade(config, "head")
