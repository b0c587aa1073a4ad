"""The output of ``search --dry-run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rust_optuna.cli.output import progress_bar
from rust_optuna.cli.tables import print_table

if TYPE_CHECKING:
    from rust_optuna.config import StudyConfiguration
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.run.forecast import StudyForecast
    from rust_optuna.storage.site import Site


DAY = 24 * 3600


def print_forecast(
    configurations: Sequence[StudyConfiguration], site: Site, choice: DeviceChoice, data_root: Path | None
) -> None:
    """Time this machine, and print what a search of these studies on these devices would take."""
    from rust_optuna.run.forecast import forecast

    click.echo("Timing this machine (about half a minute for each kind of trial) ...", err=True)
    with progress_bar("Hashing films") as progress:
        plan = forecast(
            configurations, site.home, site.open_to_read, choice=choice, data_root=data_root, progress=progress
        )
    places = ", ".join(dict.fromkeys(device.name for device in plan.devices))
    memory = f", {_size(plan.worker_bytes)} of memory each" if plan.worker_bytes else ""
    click.echo(f"Workers: {len(plan.devices)} on {places}{memory}")
    missing = plan.extraction
    if missing.films:
        rate = f"{4 * missing.films / missing.seconds:.1f} a second"
        click.echo(f"Features: {missing.films:,} films in 4 flips, {rate}: {_duration(missing.seconds)}")
    else:
        click.echo("Features: none to compute")
    for study in plan.studies:
        _print_study(study, len(plan.devices))
    click.echo(f"Disk: {_size(missing.disk_bytes)} of features, {_size(plan.artifact_bytes)} of trials' scores")
    click.echo(f"Total: {_duration(plan.seconds)}")


def _print_study(study: StudyForecast, workers: int) -> None:
    done = study.points - study.left
    finished = f" ({done} of {study.points} are finished)" if done else ""
    if not study.left:
        click.echo(f"{study.name}: nothing left to do{finished}")
        return
    trials = f"{study.left} trials × {study.folds} folds × {study.epochs} epochs"
    click.echo(f"{study.name}: {trials} of {study.films:,} films{finished}")
    rows = [(f"{size:,}", f"{seconds:.1f}") for size, seconds in study.by_batch_size]
    print_table({"batch size": "right", "seconds a trial": "right"}, rows, indent=2)
    largest, _ = study.by_batch_size[-1]
    if study.largest_batch > largest:
        click.echo(f"  A fold trains on at most {largest:,} films; a larger batch size means all of them at once.")
    if study.end_to_end:
        click.echo("  Every layer is trained on every film: the films are decoded first, which is not counted here.")
        if study.seconds >= DAY:
            click.echo(
                f"  This is {study.seconds / DAY:.1f} days here. A GPU, more workers, or a smaller image_size or fewer "
                "epochs would shorten it."
            )
    if study.open_source:
        click.echo(f"  The best point of {study.open_source} is not known yet, so times are means over its candidates.")
    if study.sampler:
        click.echo(f"  {study.sampler} draws points from results, so times are an estimate from random points.")
    if study.prunes:
        click.echo("  Trials that are pruned end earlier; the times count every trial to its last epoch.")
    click.echo(f"  {study.trial_seconds:.1f} s a trial on average, {workers} at a time: {_duration(study.seconds)}")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
