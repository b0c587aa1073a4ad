"""``rust-optuna compare``: cross-validate configurations on the same folds, and show them side by side."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rust_optuna.cli.comparison_output import print_comparison
from rust_optuna.cli.next_step import print_after_comparison
from rust_optuna.cli.options import (
    GOES_ON,
    common_options,
    current_site,
    data_root_option,
    device_options,
    examples,
    if_interrupted,
    json_option,
    terminate_as_interrupt,
)
from rust_optuna.cli.output import print_json, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rust_optuna.config import StudyConfiguration
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.model.comparison import Comparison
    from rust_optuna.storage.site import Site


@click.command(
    epilog=examples(
        "rust-optuna compare studies/baselines/imagenet.toml studies/baselines/radimagenet.toml",
        "rust-optuna compare imagenet radimagenet --json",
    )
)
@click.argument("files", nargs=-1, required=True)
@device_options
@data_root_option
@json_option
@common_options
def compare(
    files: tuple[str, ...],
    gpus: str,
    per_gpu: int | None,
    workers: int | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Cross-validate configurations side by side.

    The configuration of each of FILES is cross-validated, and all are shown beside each other with their differences.

    A file describes one configuration: it has all four hyperparameters under [fixed], and neither [sampler] nor
    [search_space]. All files name the same manifest, folds and seed, so that differences are paired; they are taken to
    the first file. The name of a study that was made of such a file stands for the file.

    Each fold is a point of a study, which this machine's workers and those of other machines run. Ctrl-C stops cleanly;
    to go on without any loss, run the same command again. The numbers, the scores behind them and a picture of the
    curves are written below storage/reports.
    """
    from rust_optuna import logs
    from rust_optuna.fleet.devices import DeviceChoice

    logs.configure("text", level=logging.WARNING)
    if_interrupted(GOES_ON)
    terminate_as_interrupt()
    site = current_site()
    done = run_comparison(
        site, _subjects(files), DeviceChoice(gpus, workers, per_gpu), data_root=site.data_root(data_root)
    )
    if as_json:
        print_json({"report": str(done.folder), **done.numbers})
        return
    print_comparison(done)
    print_after_comparison(done.numbers["studies"])


def _subjects(words: Sequence[str]) -> list[StudyConfiguration | str]:
    """Return the study file that each word names, or the word itself if it names a study that exists."""
    from rust_optuna.cli.study import is_study, study_path
    from rust_optuna.study_file import read_study_file

    studies = [word for word in words if not word.endswith(".toml") and is_study(word)]
    return [word if word in studies else read_study_file(study_path(Path(word), "compare")) for word in words]


def run_comparison(
    site: Site, subjects: Sequence[StudyConfiguration | str], choice: DeviceChoice, *, data_root: Path | None = None
) -> Comparison:
    """Compare configurations, and show the progress on stderr."""
    from rust_optuna.cli.live import LiveTable
    from rust_optuna.run.comparison import compare as run

    with progress_bar("Hashing films") as hashed, LiveTable(hashed) as table:
        return run(site, subjects, choice, table.evaluation_listener(), data_root=data_root)
