"""The kind of arithmetic of each result, and the features that each kind computes for a study."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table and the column. Earlier results keep an unknown kind of arithmetic."""
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table("rust_optuna_features"):
        op.create_table(
            "rust_optuna_features",
            sa.Column(
                "study_id", sa.Integer, sa.ForeignKey("rust_optuna_study.id", ondelete="CASCADE"), primary_key=True
            ),
            sa.Column("backbone", sa.String(64), primary_key=True),
            sa.Column("arithmetic", sa.String(128), primary_key=True),
            sa.Column("sha256", sa.String(64), nullable=False),
            sa.Column("sample", sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb"), nullable=False),
        )
    if "arithmetic" not in [column["name"] for column in inspector.get_columns("rust_optuna_attempt")]:
        op.add_column("rust_optuna_attempt", sa.Column("arithmetic", sa.String(128)))
    op.execute(sa.table("rust_optuna_schema", sa.column("version")).update().values(version=3))
