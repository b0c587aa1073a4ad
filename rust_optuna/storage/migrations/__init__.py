"""Migrations of the ledger's tables, by Alembic. Optuna migrates its own tables.

Each migration has the number of the schema version that it produces, and writes that number to the table
``rust_optuna_schema``.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rust_optuna.errors import StorageError
from rust_optuna.storage import tables

VERSION_TABLE = "rust_optuna_alembic"
"""The table in which Alembic records our migrations, beside Optuna's ``alembic_version``."""


def clear(connection: Connection) -> None:
    """Drop the tables that a creation left when it was killed halfway.

    MariaDB and MySQL commit each table at once. Tables without a version hold no studies, because studies are made only
    once all tables are complete.

    Raises:
        StorageError: there are studies nevertheless, so somebody else changed the tables.
    """
    exists = sa.inspect(connection).has_table(tables.study.name)
    if exists and connection.execute(sa.select(tables.study.c.id).limit(1)).first() is not None:
        raise StorageError("The storage holds studies, but not the version of its tables: restore it from a backup")
    sa.Table(VERSION_TABLE, sa.MetaData()).drop(connection, checkfirst=True)
    tables.metadata.drop_all(connection)


def upgrade(connection: Connection, version: int | None) -> None:
    """Make the tables, or bring those of an earlier version up to date, in the connection's transaction.

    Args:
        connection: a connection with a transaction begun. MariaDB and MySQL commit each change of a table at once, so
            there a migration continues where a killed one stopped.
        version: the version of the existing tables; None if there are none.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    if version == 1:  # made before Alembic recorded the migrations
        command.stamp(config, "0001")
    command.upgrade(config, "head")
