"""Alembic's environment script; `rust_optuna.storage.migrations.upgrade` passes it the connection."""

from alembic import context

from rust_optuna.storage import tables
from rust_optuna.storage.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,  # the caller has begun the transaction and commits it
)
context.run_migrations()
