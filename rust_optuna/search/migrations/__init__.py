"""Migrations of the ledger's tables, by Alembic. Optuna's own tables are Optuna's business.

Each has the number of the schema version that it leads to, and leaves that number in the table ``rust_optuna_schema``.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import Connection

VERSION_TABLE = "rust_optuna_alembic"
"""Alembic's own bookkeeping, beside Optuna's ``alembic_version``."""


def upgrade(connection: Connection, version: int | None) -> None:
    """Make the tables, or bring those of an earlier version up to date, in the connection's transaction.

    Args:
        connection: in a transaction. MariaDB and MySQL commit each change of a table at once: there, an upgrade that
            was killed halfway needs the backup.
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
