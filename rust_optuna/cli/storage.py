"""``rust-optuna storage``: look after the database."""

from __future__ import annotations

import click

from rust_optuna.cli.options import common_options, settings
from rust_optuna.cli.output import print_next


@click.group()
def storage() -> None:
    """Look after the database."""


@storage.command()
@common_options
def upgrade() -> None:
    r"""Bring the tables of an earlier version of this program up to date. Stop all workers first.

    \b
    Example:
      rust-optuna storage upgrade
    """
    from rust_optuna.errors import NoDatabaseError
    from rust_optuna.search.database import Database
    from rust_optuna.search.tables import SCHEMA_VERSION

    where = settings()
    with Database(where.url) as database:
        version = database.upgrade()
        if version is None:
            raise NoDatabaseError(f"{database} holds no studies yet: rust-optuna study create STUDY.toml makes one")
        what = "was up to date" if version == SCHEMA_VERSION else f"came from version {version}"
        click.echo(f"{database} has tables of version {SCHEMA_VERSION}; it {what}")
    print_next("rust-optuna status")
