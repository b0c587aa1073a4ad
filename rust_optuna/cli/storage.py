"""``rust-optuna storage``: look after the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rust_optuna.cli.next_step import command_line, print_next, print_next_step
from rust_optuna.cli.options import common_options, current_site, examples

if TYPE_CHECKING:
    from rust_optuna.storage.site import Site


@click.group()
def storage() -> None:
    """Back up, restore and upgrade the database."""


@storage.command(epilog=examples("rust-optuna storage backup storage/backups/monday"))
@click.argument("file", type=click.Path(path_type=Path))
@common_options
def backup(file: Path) -> None:
    """Write the whole database, as it is now, to the new FILE.

    Workers may go on in the meantime. SQLite and PostgreSQL can be backed up; PostgreSQL needs pg_dump on the PATH. The
    artifact store is not part of the backup: copy its files like any others.
    """
    from rust_optuna.storage.backup import backup
    from rust_optuna.storage.database import Database

    site = current_site()
    path = site.home.resolve(file)
    size = backup(site.url, path)
    click.echo(f"{path}: {size:,} bytes")
    with Database(site.url, read_only=True) as database:
        store = site.given_artifacts or database.artifacts()
    place = store if "://" in store else site.home.resolve(store)
    click.echo(f"The trials' scores are not part of the backup: copy {place} too")
    click.echo(f"To restore it: {command_line('storage', 'restore', file)}")


@storage.command(epilog=examples("rust-optuna storage restore storage/backups/monday"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Restore even if the storage holds studies; they are lost.")
@click.option(
    "--workers-are-dead", is_flag=True, help="Restore even if workers seem to run: you know that they were killed."
)
@common_options
def restore(file: Path, force: bool, workers_are_dead: bool) -> None:
    """Restore the database from the backup FILE.

    Everything is restored, or nothing if anything fails. Stop all workers first: while one holds a point, or was heard
    of in the last 90 seconds, nothing is restored. Points that were running when the backup was made return to the
    queue once their leases have ended.

    The trials' scores are not part of a backup. The command reports how many of them the artifact store lacks.
    """
    from rust_optuna.storage.backup import restore

    site = current_site()
    path = site.home.resolve(file)
    restore(site.url, path, force=force, workers_are_dead=workers_are_dead)
    click.echo(f"Restored from {path}")
    _print_missing_scores(site)
    print_next("status")


def _print_missing_scores(site: Site) -> None:
    """Print how many complete trials' scores the artifact store lacks; failing to find out is only a warning."""
    from rust_optuna.errors import MissingExtraError, StorageError
    from rust_optuna.storage.artifacts import missing
    from rust_optuna.storage.database import Database

    with Database(site.url, read_only=True) as database:
        try:
            store = site.store(database)
            lacking, scores = missing(store, database)
        except (StorageError, MissingExtraError, OSError) as error:
            click.echo(f"WARNING: it could not be checked whether the trials' scores exist: {error}")
            return
    if lacking:
        click.echo(
            f"WARNING: the scores of {lacking:,} of {scores:,} complete trials are not in {store}: restore them from "
            "the copy that was made with the backup"
        )


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

    site = current_site()
    with Database(site.url) as database:
        version = database.upgrade()
        if version is None:
            raise NoDatabaseError(f"{database} holds no studies yet: rust-optuna study create STUDY.toml makes one")
        if version < TOKENS_SINCE:
            adopt(site.store(database), database)
        change = "was up to date already" if version == SCHEMA_VERSION else f"was upgraded from version {version}"
        click.echo(f"{database} has tables of version {SCHEMA_VERSION}; it {change}")
    print_next("status")


@storage.command("adopt-artifacts", epilog=examples("rust-optuna storage adopt-artifacts --artifacts s3://scores/rust"))
@common_options
def adopt_artifacts() -> None:
    """Make the store that --artifacts names this storage's own.

    Use this after the old store was lost, or moved by hand. Workers refuse a store that does not hold the storage's
    token, because they would write scores where nobody looks for them.
    """
    from rust_optuna.storage.artifacts import adopt

    site = current_site()
    with site.open_to_write() as database:
        store = site.store(database)
        adopt(store, database)
        click.echo(f"{store} is the artifact store of {database}")
        print_next_step(database)
