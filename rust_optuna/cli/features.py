"""``rust-optuna features``: compute features ahead of a study's workers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from rust_optuna.cli.next_step import print_next
from rust_optuna.cli.options import (
    GOES_ON,
    common_options,
    current_site,
    data_root_option,
    examples,
    if_interrupted,
    terminate_as_interrupt,
)
from rust_optuna.cli.output import counted, progress_bar


@click.group()
def features() -> None:
    """Compute the frozen backbone's features ahead of the workers."""


@features.command(
    epilog=examples(
        "rust-optuna features build studies/regime_1.toml", "rust-optuna features build regime-1 --data-root /films"
    )
)
@click.argument("study")
@data_root_option
@common_options
def build(study: str, data_root: Path | None) -> None:
    """Compute the features that STUDY needs.

    STUDY is a study file (its name ends in .toml), or the name of a study in the storage. Workers compute missing
    features by themselves; this command does so ahead of them, on all cores, and computes nothing twice. Like a worker,
    it refuses to compute features that would differ from those of the study's other workers.
    """
    from rust_optuna.run import feature_building

    if_interrupted(GOES_ON)
    terminate_as_interrupt()
    site = current_site()
    root = site.data_root(data_root)
    with (
        progress_bar("Hashing films") as hashing,
        progress_bar("Extracting features") as progress,
        ExitStack() as stack,
    ):
        if study.endswith(".toml"):
            needed = feature_building.needed_by_file(
                site.home.resolve(study), site.home, site.open_to_read, hashing, root
            )
            following = ["compare" if needed.compared else "search", study]
        else:
            needed = feature_building.needed_by_study(stack.enter_context(site.open_to_read()), study, site.home)
            following = ["worker", "run", study]
        folders = feature_building.build_features(needed, site.home, progress, data_root=root, on_hashed=hashing)
    if not folders:
        click.echo(f"{study} trains on no cached features: there is nothing to compute ahead of its workers")
    for folder in folders:
        click.echo(f"{folder}: features of {counted(len(needed.contents), 'film')} in 4 flips")
    print_next(*following)
