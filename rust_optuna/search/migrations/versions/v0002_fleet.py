"""For fleets: the store's token, accepted holes, kinds of faults, and what Optuna has been told."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; of attempts that ended before, Optuna is told once more, which changes nothing it was told."""
    op.add_column("rust_optuna_schema", sa.Column("token", sa.String(64), nullable=False, server_default=""))
    op.add_column("rust_optuna_point", sa.Column("accepted", sa.Integer, nullable=False, server_default="0"))
    op.add_column("rust_optuna_attempt", sa.Column("fault", sa.String(16)))
    op.add_column("rust_optuna_attempt", sa.Column("shown", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_rust_optuna_attempt_unshown", "rust_optuna_attempt", ["shown", "outcome"])
    schema = sa.table("rust_optuna_schema", sa.column("version"), sa.column("token"))
    op.execute(schema.update().values(version=2, token=secrets.token_hex(16)))
