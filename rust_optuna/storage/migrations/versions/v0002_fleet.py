"""Columns for fleets: the store's token, accepted holes, kinds of faults, and which ends Optuna shows."""

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns. Attempts that ended earlier are written to Optuna once more, which changes nothing there."""
    _add("schema", sa.Column("token", sa.String(64), nullable=False, server_default=""))
    _add("point", sa.Column("accepted", sa.Integer, nullable=False, server_default="0"))
    _add("attempt", sa.Column("fault", sa.String(16)))
    _add("attempt", sa.Column("shown", sa.Integer, nullable=False, server_default="0"))
    name = "ix_rust_optuna_attempt_unshown"
    if name not in [index["name"] for index in sa.inspect(op.get_bind()).get_indexes("rust_optuna_attempt")]:
        op.create_index(name, "rust_optuna_attempt", ["shown", "outcome"])
    schema = sa.table("rust_optuna_schema", sa.column("version"), sa.column("token"))
    op.execute(schema.update().values(version=2, token=secrets.token_hex(16)))


def _add(table: str, column: sa.Column[Any]) -> None:
    """Add a column unless a killed migration has added it: MariaDB and MySQL commit each column at once."""
    existing = [row["name"] for row in sa.inspect(op.get_bind()).get_columns(f"rust_optuna_{table}")]
    if column.name not in existing:
        op.add_column(f"rust_optuna_{table}", column)
