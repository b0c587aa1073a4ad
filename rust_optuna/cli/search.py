"""``rust-optuna search``: studies from creation to the last trial, on this machine."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rust_optuna.cli.next_step import print_next_line, print_next_step, program
from rust_optuna.cli.options import (
    GOES_ON,
    common_options,
    current_site,
    data_root_option,
    device_options,
    examples,
    if_interrupted,
    objective_option,
    terminate_as_interrupt,
)
from rust_optuna.cli.output import progress_bar
from rust_optuna.processes import ExitCode

if TYPE_CHECKING:
    from rust_optuna.config import StudyConfiguration

NO_SEARCH = "Interrupted: no study was created, and none was run."


@click.command(
    epilog=examples(
        "rust-optuna search studies/regime_1.toml studies/regime_2.toml --workers 2",
        "rust-optuna search studies/regime_1.toml studies/regime_2.toml --dry-run",
    )
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@device_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Time one step of each kind here, and print how long the search would take; run nothing.",
)
@data_root_option
@objective_option
@common_options
@click.pass_context
def search(
    context: click.Context,
    files: tuple[Path, ...],
    gpus: str,
    per_gpu: int | None,
    workers: int | None,
    dry_run: bool,
    data_root: Path | None,
    objective: str | None,
) -> None:
    """Create or resume each study of FILES, and run it to its end.

    The studies run one after another, on this machine's devices. Ctrl-C stops cleanly; run the same command again, and
    it goes on without any loss. Exits with 3 if a study has holes that nobody accepted. A hole is a point whose
    attempts are used up.
    """
    from rust_optuna import logs
    from rust_optuna.cli.forecast import print_forecast
    from rust_optuna.cli.live import LiveTable
    from rust_optuna.cli.results import print_statuses
    from rust_optuna.cli.study import study_path
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.run.local import search as run_search
    from rust_optuna.study_file import read_study_file

    logs.configure("text", level=logging.WARNING)
    if_interrupted(NO_SEARCH if dry_run else GOES_ON)
    terminate_as_interrupt()
    site = current_site()
    paths = [study_path(file, "search") for file in files]
    root = site.data_root(data_root)
    configurations = [read_study_file(path) for path in paths]
    _refuse_order(files, configurations)
    choice = DeviceChoice(gpus, workers, per_gpu)
    if dry_run:
        print_forecast(configurations, site, choice, root)
        print_next_line(_without_dry_run())
        return
    with progress_bar("Hashing films") as hashed, LiveTable(hashed) as table:
        finished = run_search(configurations, site, choice, table.listener, objective=objective, data_root=root)
    print_statuses(finished)
    with site.open_to_read() as database:
        print_next_step(database, [each.study.name for each in finished])
    if any(each.open_holes for each in finished):
        context.exit(ExitCode.HOLES)


def _refuse_order(files: Sequence[Path], configurations: Sequence[StudyConfiguration]) -> None:
    """Refuse files of which one takes the best of a study whose own file comes after it.

    Raises:
        UsageError: with the command in which each comes after the one that it takes the best of.
    """
    names = [each.name for each in configurations]
    sources = [names.index(each.from_best_of) if each.from_best_of in names else None for each in configurations]
    late = [(number, source) for number, source in enumerate(sources) if source is not None and source > number]
    if not late:
        return
    number, source = late[0]
    told = f"{files[number]} takes the best of {configurations[number].from_best_of}: name {files[source]} before it"
    order: list[int] = []
    left = [*range(len(files))]
    while ready := [number for number in left if sources[number] in {None, number, *order}]:
        order.append(ready[0])
        left.remove(ready[0])
    if left:
        raise click.UsageError(f"{told}. But some of these files take the best of each other: none can be the first")
    raise click.UsageError(f"{told}:\n  {_command([str(files[number]) for number in order], [*map(str, files)])}")


def _command(ordered: Sequence[str], given: Sequence[str]) -> str:
    """Return the command that was given, with its files in another order."""
    left, words = [*given], []
    for word in sys.argv[1:]:
        if left and word == left[0]:
            words.append(ordered[len(given) - len(left)])
            del left[0]
        else:
            words.append(word)
    return _shown(words)


def _without_dry_run() -> str:
    """Return the command that was given, to be run in earnest."""
    return _shown([word for word in sys.argv[1:] if word != "--dry-run"])


def _shown(words: Sequence[str]) -> str:
    """Return a command line of this program; a URL's passwords are not shown."""
    from rust_optuna.storage.url import hide_passwords

    return shlex.join([program(), *map(hide_passwords, words)])
