"""``rust-optuna storage``: look after the database."""

from __future__ import annotations

from pathlib import Path

import click

from rust_optuna.cli.next_step import command_line, print_next, print_next_step
from rust_optuna.cli.options import common_options, examples, settings


@click.group()
def storage() -> None:
    """Back up, restore and upgrade the database."""


@storage.command(epilog=examples("rust-optuna storage backup storage/backups/monday"))
@click.argument("file", type=click.Path(path_type=Path))
@common_options
def backup(file: Path) -> None:
    """Write the whole database, as it is now, to the new FILE.

    Workers may go on meanwhile. For SQLite and PostgreSQL; the latter needs pg_dump on the PATH. The artifact store is
    not part of the backup: its files are copied like any others.
    """
    from rust_optuna.storage.backup import backup

    where = settings()
    path = where.home.resolve(file)
    size = backup(where.url, path)
    click.echo(f"{path}: {size:,} bytes")
    click.echo(f"To restore it: {command_line('storage', 'restore', file)}")


@storage.command(epilog=examples("rust-optuna storage restore storage/backups/monday"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Restore even if the storage holds studies; they are lost.")
@common_options
def restore(file: Path, force: bool) -> None:
    """Restore the database from the backup FILE.

    All of it is restored, or nothing if anything fails. Stop all workers first. Points that were running when the
    backup was made return to the queue once their leases have ended.
    """
    from rust_optuna.storage.backup import restore

    where = settings()
    path = where.home.resolve(file)
    restore(where.url, path, force=force)
    click.echo(f"Restored from {path}")
    print_next("status")


@storage.command(epilog=examples("rust-optuna storage upgrade"))
@common_options
def upgrade() -> None:
    """Bring the tables of an earlier version up to date.

    Stop all workers first.
    """
    from rust_optuna.errors import NoDatabaseError
    from rust_optuna.storage.artifacts import TOKENS_SINCE, adopt
    from rust_optuna.storage.database import Database
    from rust_optuna.storage.tables import SCHEMA_VERSION

    where = settings()
    with Database(where.url) as database:
        version = database.upgrade()
        if version is None:
            raise NoDatabaseError(f"{database} holds no studies yet: rust-optuna study create STUDY.toml makes one")
        if version < TOKENS_SINCE:
            adopt(where.store(database), database)
        what = "was up to date" if version == SCHEMA_VERSION else f"came from version {version}"
        click.echo(f"{database} has tables of version {SCHEMA_VERSION}; it {what}")
    print_next("status")


@storage.command("adopt-artifacts", epilog=examples("rust-optuna storage adopt-artifacts --artifacts s3://scores/rust"))
@common_options
def adopt_artifacts() -> None:
    """Make the store that --artifacts names this storage's own.

    For when the old store was lost, or moved by hand. Workers refuse a store that does not hold the storage's token:
    scores would be written where nobody looks for them.
    """
    from rust_optuna.storage.artifacts import adopt

    where = settings()
    with where.open_to_write() as database:
        store = where.store(database)
        adopt(store, database)
        click.echo(f"{store} is the artifact store of {database}")
        print_next_step(database)
