"""``rust-optuna worker``: one worker in this process."""

from __future__ import annotations

import logging

import click

from rust_optuna.cli.options import common_options, objective_option, settings
from rust_optuna.cli.output import print_next, progress_bar


@click.group(invoke_without_command=True)
@common_options
@click.pass_context
def worker(context: click.Context) -> None:
    """Run workers; without a command, one for all open studies."""
    if context.invoked_subcommand is None:
        context.invoke(run, names=(), objective=None)


@worker.command()
@click.argument("names", nargs=-1)
@objective_option
@common_options
def run(names: tuple[str, ...], objective: str | None) -> None:
    r"""Run points of the studies NAMES, or of all open ones, until none is left.

    Start as many of these as you like, on as many machines as reach the database. The device is chosen by
    CUDA_VISIBLE_DEVICES. The first Ctrl-C or SIGTERM gives the running point back at the end of its epoch, the second
    at once.

    \b
    Example:
      CUDA_VISIBLE_DEVICES=0 rust-optuna worker run regime-1
    """
    from rust_optuna.run.worker import Worker, stop_on_signals

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Other libraries log what only their authors need.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("rust_optuna").setLevel(logging.INFO)
    where = settings()
    with where.open_to_work() as database, progress_bar("Features") as progress:
        this = Worker(database, where.home, where.store(database), objective=objective, progress=progress)
        stop_on_signals(this)
        finished = this.run(names)
    click.echo(f"{finished} points finished")
    print_next("rust-optuna best")
