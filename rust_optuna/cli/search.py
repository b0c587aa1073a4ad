"""``rust-optuna search``: run studies from creation to the last trial, on this machine."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rust_optuna.cli.next_step import print_after_search, print_next_line, program
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
    help="Time one step of each kind on this machine, and print how long the search would take; run nothing.",
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

    The studies run one after another, on this machine's devices. Ctrl-C stops the search cleanly; to go on without any
    loss, run the same command again. The exit code is 3 if a study has holes that nobody accepted. A hole is a point
    whose attempts are used up.
    """
    from rust_optuna import logs
    from rust_optuna.cli.forecast import print_forecast
    from rust_optuna.cli.live import LiveTable
    from rust_optuna.cli.results import print_statuses
    from rust_optuna.cli.study import study_path
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.run.local import search as run_search
    from rust_optuna.search.comparison import refuse_comparison
    from rust_optuna.study_file import read_study_file

    logs.configure("text", level=logging.WARNING)
    if_interrupted(NO_SEARCH if dry_run else GOES_ON)
    terminate_as_interrupt()
    site = current_site()
    paths = [study_path(file, "search") for file in files]
    root = site.data_root(data_root)
    configurations = [read_study_file(path) for path in paths]
    for configuration in configurations:
        refuse_comparison(configuration)
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
        print_after_search(database, [status.study.name for status in finished])
    if any(status.open_holes for status in finished):
        context.exit(ExitCode.HOLES)


def _refuse_order(files: Sequence[Path], configurations: Sequence[StudyConfiguration]) -> None:
    """Refuse files if one of them takes the best point of a study whose own file comes after it.

    Raises:
        UsageError: a file comes too early; the message gives the command with the files in order.
    """
    names = [study.name for study in configurations]
    sources = [
        next((names.index(source) for source in study.from_best_of if source in names), None)
        for study in configurations
    ]
    late = [(number, source) for number, source in enumerate(sources) if source is not None and source > number]
    if not late:
        return
    number, source = late[0]
    name = names[source]
    message = f"{files[number]} takes the best point of {name}: name {files[source]} before it"
    order: list[int] = []
    remaining = [*range(len(files))]
    while ready := [number for number in remaining if sources[number] in {None, number, *order}]:
        order.append(ready[0])
        remaining.remove(ready[0])
    if remaining:
        raise click.UsageError(f"{message}. But some of these files take each other's best point: none can come first")
    raise click.UsageError(f"{message}:\n  {_reordered([str(files[number]) for number in order], [*map(str, files)])}")


def _reordered(ordered: Sequence[str], files: Sequence[str]) -> str:
    """Return the current command line with its files in another order."""
    remaining, words = [*files], []
    for word in sys.argv[1:]:
        if remaining and word == remaining[0]:
            words.append(ordered[len(files) - len(remaining)])
            del remaining[0]
        else:
            words.append(word)
    return _command_line(words)


def _without_dry_run() -> str:
    """Return the current command line without ``--dry-run``."""
    return _command_line([word for word in sys.argv[1:] if word != "--dry-run"])


def _command_line(words: Sequence[str]) -> str:
    """Return a command line of this program in which the passwords of URLs are hidden."""
    from rust_optuna.storage.url import hide_passwords

    return shlex.join([program(), *map(hide_passwords, words)])
