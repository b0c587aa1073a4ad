"""``rust-optuna storage``: look after the database."""

from __future__ import annotations

from pathlib import Path

import click

from rust_optuna.cli.options import common_options, settings
from rust_optuna.cli.output import print_next


@click.group()
def storage() -> None:
    """Look after the database."""


@storage.command()
@click.argument("file", type=click.Path(path_type=Path))
@common_options
def backup(file: Path) -> None:
    r"""Write the whole database to the new FILE, as it is at this moment. Workers may go on meanwhile.

    SQLite and PostgreSQL; the latter with pg_dump, which must be on the PATH. The artifacts are files of their own, and
    not in it.

    \b
    Example:
      rust-optuna storage backup storage/backups/monday
    """
    from rust_optuna.run.backup import backup

    where = settings()
    path = where.home.resolve(file)
    size = backup(where.url, path)
    click.echo(f"{path}: {size:,} bytes")
    print_next(f"rust-optuna storage restore {file}")


@storage.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Even if the storage holds studies: they are lost.")
@common_options
def restore(file: Path, force: bool) -> None:
    r"""Make the database what it was when `storage backup` wrote FILE: all of it, or nothing if anything fails.

    Stop all workers first. Points that ran at the time of the backup go back to the queue once their leases have ended.

    \b
    Example:
      rust-optuna storage restore storage/backups/monday
    """
    from rust_optuna.run.backup import restore

    where = settings()
    path = where.home.resolve(file)
    restore(where.url, path, force=force)
    click.echo(f"Restored from {path}")
    print_next("rust-optuna status")


@storage.command()
@common_options
def upgrade() -> None:
    r"""Bring the tables of an earlier version of this program up to date. Stop all workers first.

    \b
    Example:
      rust-optuna storage upgrade
    """
    from rust_optuna.errors import NoDatabaseError
    from rust_optuna.search.artifacts import TOKENS_SINCE, adopt
    from rust_optuna.search.database import Database
    from rust_optuna.search.tables import SCHEMA_VERSION

    where = settings()
    with Database(where.url) as database:
        version = database.upgrade()
        if version is None:
            raise NoDatabaseError(f"{database} holds no studies yet: rust-optuna study create STUDY.toml makes one")
        if version < TOKENS_SINCE:
            adopt(where.store(database), database)
        what = "was up to date" if version == SCHEMA_VERSION else f"came from version {version}"
        click.echo(f"{database} has tables of version {SCHEMA_VERSION}; it {what}")
    print_next("rust-optuna status")


@storage.command("adopt-artifacts")
@common_options
def adopt_artifacts() -> None:
    r"""Make the artifact store that --artifacts names this storage's, where the old one is lost or was moved by hand.

    A worker refuses a store that does not hold the storage's token: scores would go where nobody looks for them.

    \b
    Example:
      rust-optuna storage adopt-artifacts --artifacts s3://scores/rust
    """
    from rust_optuna.search.artifacts import adopt

    where = settings()
    with where.open_to_write() as database:
        store = where.store(database)
        adopt(store, database)
        click.echo(f"{store} is the artifact store of {database}")
    print_next("rust-optuna worker run")
