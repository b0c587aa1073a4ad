"""``rust-optuna worker``: workers in this process, or under a supervisor, and what runs where."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rust_optuna.cli.next_step import nothing_to_run, print_next, print_next_step
from rust_optuna.cli.options import (
    GOES_ON,
    NOTHING_WRITTEN,
    common_options,
    current_site,
    data_root_option,
    device_options,
    examples,
    forever_option,
    grace_option,
    home_option,
    if_interrupted,
    json_option,
    listing,
    log_format_option,
    objective_option,
)
from rust_optuna.cli.output import counted, print_json, progress_bar
from rust_optuna.cli.tables import Side, print_table

if TYPE_CHECKING:
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.fleet.records import Record
    from rust_optuna.fleet.workers import Workers
    from rust_optuna.paths import Home
    from rust_optuna.storage.roster import WorkerStatus
    from rust_optuna.storage.site import Site

WORKER_COLUMNS: Mapping[str, Side] = {
    "worker": "left",
    "host": "left",
    "process": "right",
    "device": "left",
    "heard of": "right",
    "runs": "left",
}


@click.group(invoke_without_command=True)
@common_options
@click.pass_context
def worker(context: click.Context) -> None:
    """Run workers; without a command, one for all open studies."""
    if context.invoked_subcommand is None:
        context.invoke(run)


@worker.command(epilog=examples("CUDA_VISIBLE_DEVICES=0 rust-optuna worker run regime-1"))
@click.argument("names", nargs=-1)
@forever_option
@grace_option
@log_format_option
@data_root_option
@objective_option
@common_options
@click.pass_context
def run(
    context: click.Context,
    names: tuple[str, ...],
    forever: bool,
    grace: float,
    log_format: str,
    data_root: Path | None,
    objective: str | None,
) -> None:
    """Run one worker in this process, until no point is left.

    It serves the studies NAMES, or all open ones. Start as many workers as you like, on as many machines as reach the
    database; `rust-optuna worker start` starts one on each device of a machine. CUDA_VISIBLE_DEVICES chooses the
    device.

    After the first Ctrl-C or SIGTERM the running point has --grace seconds to finish; then it is given back, and the
    exit code is 0. A second signal gives it back at once; the exit code is then 130. SIGUSR1, SIGUSR2 and SIGXCPU,
    which schedulers send, are like a first SIGTERM.
    """
    from rust_optuna import logs, signals
    from rust_optuna.errors import RustOptunaError
    from rust_optuna.processes import ExitCode
    from rust_optuna.worker.stopping import stop_on_signals
    from rust_optuna.worker.worker import Worker

    if_interrupted(GOES_ON)
    logs.configure(log_format)
    site = current_site()
    with (
        _told_in(log_format, context),
        site.open_to_work() as database,
        progress_bar("Hashing films") as hashing,
        progress_bar("Extracting features") as progress,
    ):
        this = Worker(
            database,
            site.home,
            site.store(database),
            objective=objective,
            progress=progress,
            on_hashed=hashing,
            forever=forever,
            grace=grace,
            data_root=site.data_root(data_root),
        )
        logs.configure(log_format, worker=this.id)
        stop_on_signals(this.stop_request)
        signals.unblock()
        try:
            finished = this.run(names)
        except RustOptunaError as error:
            if this.cannot_serve and this.stop_request.supervised:
                error.exit_code = ExitCode.CANNOT_SERVE
            raise
    if log_format == "text":
        with site.open_to_read() as database:
            idle = None if finished else nothing_to_run(database, names)
            click.echo(idle or f"{counted(finished, 'point')} finished")
            print_next_step(database, names)


@worker.command(
    epilog=listing(
        "Exit codes:",
        "0    the studies are done, or SIGTERM stopped the workers",
        "3    the studies are done, but have holes that nobody accepted",
        "6    every slot was given up",
        "130  Ctrl-C stopped the workers",
        "1    any other error, which the message explains",
    )
    + "\n\n"
    + examples(
        "rust-optuna worker start regime-1 --gpus all",
        "rust-optuna worker start --gpus 0,1 --per-gpu 2 --forever --daemon",
        "rust-optuna worker start regime-1 --engine ray --address auto --workers 16",
    )
)
@click.argument("names", nargs=-1)
@device_options
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the workers run: on this machine, or wherever Ray finds room in a cluster.",
)
@click.option(
    "--address",
    metavar="HOST:PORT|auto",
    help="The Ray cluster to join.  [env: RAY_ADDRESS; default: a new one on this machine]",
)
@click.option(
    "--daemon",
    is_flag=True,
    help="Return once a worker is ready, and run on in the background; `rust-optuna worker stop` stops it.",
)
@forever_option
@grace_option
@log_format_option
@data_root_option
@click.option("--detached", metavar="NAME", hidden=True)
@objective_option
@common_options
@click.pass_context
def start(
    context: click.Context,
    names: tuple[str, ...],
    gpus: str,
    per_gpu: int | None,
    workers: int | None,
    engine: str,
    address: str | None,
    daemon: bool,
    forever: bool,
    grace: float,
    log_format: str,
    data_root: Path | None,
    detached: str | None,
    objective: str | None,
) -> None:
    """Run a worker on each device of this machine.

    They serve the studies NAMES, or all open ones, until those are done; with --forever, until they are stopped. Each
    worker is a process of its own, on one GPU or with its share of the cores. One that dies is replaced, after a delay
    that grows, and its point returns to the queue at once. A slot whose worker dies five times without finishing a
    point is given up.

    After the first Ctrl-C or SIGTERM the running points have --grace seconds to finish; then they are given back. A
    second signal gives them back at once. SIGUSR1, SIGUSR2 and SIGXCPU, which schedulers send, are like a
    first SIGTERM.
    """
    from rust_optuna import logs
    from rust_optuna.fleet.daemon import teller
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.fleet.workers import Workers

    if address and engine != "ray":
        raise click.UsageError("--address is of a Ray cluster: --engine ray")
    if_interrupted(GOES_ON)
    site = current_site()
    told_in = "text" if daemon else log_format  # who starts a daemon reads this terminal, programs its log
    logs.configure(told_in)
    with _told_in(told_in, context):
        choice = DeviceChoice(gpus, workers, per_gpu)
        how = Workers(
            # Ray's devices are known once its cluster is joined.
            choice.devices() if engine == "local" else (),
            grace=grace,
            forever=forever,
            log_format=log_format,
            # Ray's nodes have their own folders.
            data_root=site.data_root(data_root) if engine == "local" else site.absolute(data_root),
            objective=objective,
            echo=None if detached else sys.stderr,
            daemon=detached is not None,
            name=detached,
            on_serving=teller(),
        )
        if detached is None:
            _tell_of_others(site, names)
        if daemon:
            _detach(site, names, how, choice, engine, address)
            code = 0
        elif engine == "local":
            code = _supervise(site, names, how)
        else:
            from rust_optuna.fleet.ray.cluster import ray_engine

            with ray_engine(site.url, choice, address=address) as ray:
                # A node need not have the file: its workers are handed the password.
                code = _supervise(
                    site, names, replace(how, devices=ray.devices, make_slot=ray.make_slot), password_file=False
                )
    context.exit(code)


def _tell_of_others(site: Site, names: tuple[str, ...]) -> None:
    """Say which supervisors serve the same studies on this machine: all workers then share its devices."""
    import logging

    from rust_optuna.fleet import identity, records

    for each in records.living(site.home):
        same = names if not each.studies else each.studies if not names else sorted({*names} & {*each.studies})
        if (same or not (names or each.studies)) and identity.elsewhere(each.process, each.name) is None:
            logging.getLogger(__name__).warning(
                "Process %d already serves %s on this machine: its workers and these will share the devices",
                each.pid,
                ", ".join(same) or "all studies",
            )


@contextmanager
def _told_in(log_format: str, context: click.Context) -> Iterator[None]:
    """Log an error that ends the command where the log is for programs; people are told by the command line."""
    import logging

    from rust_optuna.errors import RustOptunaError

    try:
        yield
    except RustOptunaError as error:
        if log_format == "text":
            raise
        logging.getLogger(__name__).error("%s", error, extra={"event": "ended", "exit_code": error.exit_code})
        context.exit(error.exit_code)


def _supervise(site: Site, names: tuple[str, ...], how: Workers, *, password_file: bool = True) -> int:
    """Run workers in the foreground; return the exit code."""
    import signal

    from rust_optuna.cli.results import print_statuses
    from rust_optuna.fleet.service import start_workers
    from rust_optuna.processes import ExitCode

    # Unlike a worker's, its database gives up soon: a supervisor waits in its own loop, where it hears signals.
    with site.open_to_write() as database:
        ended = start_workers(database, site, names, how, password_file=password_file)
    if ended.stopped_by is signal.SIGINT:
        raise KeyboardInterrupt
    if how.log_format == "text":
        with site.open_to_read() as database:
            if ended.statuses:
                print_statuses(ended.statuses)
            elif idle := nothing_to_run(database, names):
                click.echo(idle)
            print_next_step(database, names)
    return ExitCode.HOLES if ended.holes and ended.stopped_by is None else ExitCode.DONE


def _detach(
    site: Site, names: tuple[str, ...], how: Workers, choice: DeviceChoice, engine: str, address: str | None
) -> None:
    """Start the same command in the background."""
    from rust_optuna.fleet import daemon, records
    from rust_optuna.fleet.commands import worker_start
    from rust_optuna.search.studies import studies_to_serve

    with site.open_to_write() as database:
        studies_to_serve(database, names)  # what is wrong with the names is said here, not in a log
        environment = site.environment(database)
    name = records.new_name()
    words = worker_start(names, how, choice, engine=engine, address=address, detached=name)
    click.echo("Waiting until a worker is ready ...", err=True)
    there = daemon.detach(site.home, name, words, environment)
    if there is None:
        with site.open_to_read() as database:
            click.echo(nothing_to_run(database, names) or "The daemon has ended.")
            print_next_step(database, names)
        return
    count = counted(len(how.devices), "worker") if how.devices else "Workers"
    told = "" if there.serves else ", none ready yet: they look for films and weights, or compute features"
    click.echo(f"{count} under process {there.pid}{told}. Log: {there.log}")
    print_next("worker", "list")


@worker.command(epilog=examples("rust-optuna worker stop --all"))
@click.argument("pids", nargs=-1, type=int)
@click.option("--all", "all_", is_flag=True, help="Stop all of them.")
@home_option
def stop(pids: tuple[int, ...], all_: bool) -> None:
    """Stop the daemons of this home on this machine.

    Where several run, name them by their process numbers PIDS, or use --all. Running points have the daemon's --grace
    to finish, or are given back. Waits until the daemons have ended.
    """
    from rust_optuna.errors import RustOptunaError
    from rust_optuna.fleet import daemon

    if_interrupted("Interrupted: daemons that were told to stop go on stopping; the same command waits for them.")
    home = current_site().home
    here, others = daemon.daemons(home)
    if away := [(each, where) for each, where in others if each.pid in pids and each.pid not in _pids(here)]:
        which = "; ".join(f"daemon {each.pid} runs {where}" for each, where in away)
        raise RustOptunaError(f"Nothing was stopped: of {home.root}, {which}. Stop it there")
    if not here and not pids:
        told = f"No daemon of {home.root} is running here"
        if others:
            listed = "; ".join(f"{_named(each)} runs {where}" for each, where in others)
            raise RustOptunaError(f"{told}. Those that run elsewhere are to be stopped there: {listed}")
        click.echo(told)
        _print_failure(home)
        return
    chosen = _chosen(home, here, pids, all_)
    daemon.stop(home, chosen)
    for each in chosen:
        click.echo(f"Stopped process {each.pid}")
    print_next("status")


def _print_failure(home: Home) -> None:
    """Print with which error the last daemon of a home ended, if it did and none was started since."""
    from rust_optuna.fleet.daemon import last_failure

    with suppress(PermissionError):  # another user's log, which is theirs to read
        if failure := last_failure(home):
            click.echo(failure)


def _chosen(home: Home, here: list[Record], pids: tuple[int, ...], all_: bool) -> list[Record]:
    """Return the daemons to stop.

    Raises:
        UsageError: there are several and none is named, or one is named that is not there.
    """
    from rust_optuna.fleet.daemon import home_of

    listed = "; ".join(map(_named, here))
    if unknown := [pid for pid in pids if pid not in _pids(here)]:
        told = [
            f"Process {pid} is a daemon of another home: rust-optuna worker stop {pid} --home {shlex.quote(str(root))}"
            if (root := home_of(pid))
            else f"Process {pid} is not a daemon of this home"
            for pid in unknown
        ]
        raise click.UsageError(
            f"{'; '.join(told)}. {f'Of this home, {listed} runs' if listed else 'None is running'} here"
        )
    if not pids and not all_ and len(here) > 1:
        raise click.UsageError(f"Several daemons run here: {listed}. Name them, or use --all")
    return [each for each in here if all_ or not pids or each.pid in pids]


def _pids(daemons: list[Record]) -> list[int]:
    return [each.pid for each in daemons]


def _named(daemon: Record) -> str:
    return f"{daemon.pid} ({', '.join(daemon.studies) or 'all studies'})"


@worker.command("list", epilog=examples("rust-optuna worker list"))
@click.option("--all", "all_", is_flag=True, help="Include workers not heard of for ten minutes: they died unseen.")
@common_options
@json_option
def list_(all_: bool, as_json: bool) -> None:
    """List the workers of the storage, on every machine.

    Shows what each runs, and when it was last heard of, by the database's clock. A worker that has ended is not listed.
    """
    from rust_optuna.storage.roster import RECENT_SECONDS, list_workers

    if_interrupted(NOTHING_WRITTEN)
    site = current_site()
    with site.open_to_read() as database:
        found = list_workers(database, recent_seconds=None if all_ else RECENT_SECONDS)
    if as_json:
        print_json([each.as_json() for each in found])
        return
    if not found:
        click.echo("No worker was heard of in the last ten minutes.")
        _print_failure(site.home)
        print_next("worker", "start")
        return
    print_table(WORKER_COLUMNS, [_row(each) for each in found])


def _row(each: WorkerStatus) -> tuple[str, ...]:
    device = "cpu" if each.device in ("", "-1") else each.device
    doing: Any = "–"
    if each.study is not None:
        late = " (its lease has ended)" if (each.lease_seconds or 0) < 0 else ""
        doing = f"{each.study} point {each.point}, attempt {each.attempt}, for {_ago(each.running_seconds)}{late}"
    return each.worker, each.host, str(each.process), device, f"{_ago(each.beat_seconds)} ago", doing


def _ago(seconds: float | None) -> str:
    whole = int(max(0.0, seconds or 0.0))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"
