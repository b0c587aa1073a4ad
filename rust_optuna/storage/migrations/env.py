"""What Alembic runs for a command; the connection is given by `rust_optuna.storage.migrations.upgrade`."""

from alembic import context

from rust_optuna.storage import tables
from rust_optuna.storage.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,  # the caller has begun the transaction, and commits it as a whole
)
context.run_migrations()
