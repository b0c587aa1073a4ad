"""The first version of the tables: studies, films, points, attempts and workers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0001"
down_revision = None

DOCUMENT = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
STUDY_STATES = "state IN ('drawing', 'open', 'done')"
POINT_STATES = "state IN ('waiting', 'running', 'complete', 'pruned', 'hole')"
OUTCOMES = "outcome IN ('running', 'complete', 'pruned', 'failed', 'lost', 'released')"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "rust_optuna_schema",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("artifacts", sa.Text, nullable=False),
    )
    op.create_table(
        "rust_optuna_study",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("state", sa.String(16), sa.CheckConstraint(STUDY_STATES), nullable=False),
        sa.Column("configuration", DOCUMENT, nullable=False),
        sa.Column("fingerprint", DOCUMENT, nullable=False),
        sa.Column("runtime", DOCUMENT),
        sa.Column("source", DOCUMENT),
        sa.Column("notes", DOCUMENT, nullable=False),
        sa.Column("lease_seconds", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "rust_optuna_film",
        _belongs_to("study", primary_key=True),
        sa.Column("content", sa.String(64), primary_key=True),
        sa.Column("patient", sa.String(64), nullable=False),
        sa.Column("view", sa.String(16), nullable=False),
        sa.Column("label", sa.String(18), nullable=False),
        sa.Column("fold", sa.Integer, nullable=False),
    )
    op.create_table(
        "rust_optuna_point",
        sa.Column("id", sa.Integer, primary_key=True),
        _belongs_to("study"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("parameters", DOCUMENT, nullable=False),
        sa.Column("state", sa.String(16), sa.CheckConstraint(POINT_STATES), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_end", sa.Double),
        sa.Column("trial", sa.Integer),
        sa.Column("value", sa.Double),
        sa.UniqueConstraint("study_id", "number"),
    )
    op.create_index("ix_rust_optuna_point_queue", "rust_optuna_point", ["study_id", "state", "failures", "number"])
    op.create_table(
        "rust_optuna_attempt",
        sa.Column("id", sa.Integer, primary_key=True),
        _belongs_to("point"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(64), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("outcome", sa.String(16), sa.CheckConstraint(OUTCOMES), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("trial", sa.Integer),
        sa.Column("result", DOCUMENT),
        sa.Column("artifact", sa.String(64)),
        sa.UniqueConstraint("point_id", "number"),
    )
    op.create_table(
        "rust_optuna_worker",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("process", sa.Integer, nullable=False),
        sa.Column("device", sa.String(255), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("beat_at", sa.Double, nullable=False),
    )


def _belongs_to(table: str, *, primary_key: bool = False) -> sa.Column[int]:
    key = sa.ForeignKey(f"rust_optuna_{table}.id", ondelete="CASCADE")
    return sa.Column(f"{table}_id", sa.Integer, key, primary_key=primary_key, nullable=False)
