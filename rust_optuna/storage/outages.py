"""What is raised where the database does not answer."""

from __future__ import annotations

import optuna
import sqlalchemy as sa

DATABASE_ERRORS = (optuna.exceptions.StorageInternalError, sa.exc.SQLAlchemyError)
"""What Optuna's storage raises when the database fails it."""
