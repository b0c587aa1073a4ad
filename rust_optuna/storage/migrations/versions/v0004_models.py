"""Openings of the hold-out, and the models that met it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the two tables, unless an upgrade that was killed has."""
    document = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
    there = sa.inspect(op.get_bind())
    if not there.has_table("rust_optuna_holdout_opening"):
        op.create_table(
            "rust_optuna_holdout_opening",
            sa.Column("id", sa.String(64), primary_key=True),
            sa.Column("study", sa.String(100), nullable=False),
            sa.Column("films", document, nullable=False),
            sa.Column("models", document, nullable=False),
            sa.Column("definition", document, nullable=False),
            sa.Column("asked_by", sa.String(255), nullable=False),
            sa.Column("opened_at", sa.Double, nullable=False),
            sa.Column("numbers", document),
        )
    if not there.has_table("rust_optuna_model"):
        op.create_table(
            "rust_optuna_model",
            sa.Column("name", sa.String(100), primary_key=True),
            sa.Column("opening", sa.String(64), nullable=False),
            sa.Column("sha256", sa.String(64), nullable=False),
            sa.Column("document", document, nullable=False),
            sa.Column("created_at", sa.Double, nullable=False),
        )
    op.execute(sa.table("rust_optuna_schema", sa.column("version")).update().values(version=4))
