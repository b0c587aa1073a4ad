"""``rust-optuna worker``: run workers in this process or under a supervisor, and show what runs where."""

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
        _errors_in_log(log_format, context),
        site.open_to_work() as database,
        progress_bar("Hashing films") as hashing,
        progress_bar("Extracting features") as progress,
    ):
        own_worker = Worker(
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
        logs.configure(log_format, worker=own_worker.id)
        stop_on_signals(own_worker.stop_request)
        signals.unblock()
        try:
            finished = own_worker.run(names)
        except RustOptunaError as error:
            if own_worker.cannot_serve and own_worker.stop_request.supervised:
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
        raise click.UsageError("--address names a Ray cluster: use it with --engine ray")
    if_interrupted(GOES_ON)
    site = current_site()
    own_format = "text" if daemon else log_format  # the person who starts a daemon reads this terminal
    logs.configure(own_format)
    with _errors_in_log(own_format, context):
        choice = DeviceChoice(gpus, workers, per_gpu)
        options = Workers(
            # Ray's devices are known only once its cluster is joined.
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
            _warn_of_others(site, names)
        if daemon:
            _detach(site, names, options, choice, engine, address)
            code = 0
        elif engine == "local":
            code = _supervise(site, names, options)
        else:
            from rust_optuna.fleet.ray.cluster import ray_engine

            with ray_engine(site.url, choice, address=address) as ray:
                # A node may lack the password file, so its workers get the password itself.
                code = _supervise(
                    site, names, replace(options, devices=ray.devices, make_slot=ray.make_slot), password_file=False
                )
    context.exit(code)


def _warn_of_others(site: Site, names: tuple[str, ...]) -> None:
    """Warn of supervisors that serve the same studies on this machine, because all workers then share its devices."""
    import logging

    from rust_optuna.fleet import identity, records

    for record in records.living(site.home):
        same = names if not record.studies else record.studies if not names else sorted({*names} & {*record.studies})
        if (same or not (names or record.studies)) and identity.elsewhere(record.process, record.name) is None:
            logging.getLogger(__name__).warning(
                "Process %d already serves %s on this machine: its workers and these will share the devices",
                record.pid,
                ", ".join(same) or "all studies",
            )


@contextmanager
def _errors_in_log(log_format: str, context: click.Context) -> Iterator[None]:
    """Log an error that ends the command if the log is for programs; else leave it for the command line to print."""
    import logging

    from rust_optuna.errors import RustOptunaError

    try:
        yield
    except RustOptunaError as error:
        if log_format == "text":
            raise
        logging.getLogger(__name__).error("%s", error, extra={"event": "ended", "exit_code": error.exit_code})
        context.exit(error.exit_code)


def _supervise(site: Site, names: tuple[str, ...], options: Workers, *, password_file: bool = True) -> int:
    """Run workers in the foreground, and return the exit code."""
    import signal

    from rust_optuna.cli.results import print_statuses
    from rust_optuna.fleet.service import start_workers
    from rust_optuna.processes import ExitCode

    # Unlike a worker's database, this one gives up soon, because a supervisor waits in a loop that handles signals.
    with site.open_to_write() as database:
        served = start_workers(database, site, names, options, password_file=password_file)
    if served.stopped_by is signal.SIGINT:
        raise KeyboardInterrupt
    if options.log_format == "text":
        with site.open_to_read() as database:
            if served.statuses:
                print_statuses(served.statuses)
            elif idle := nothing_to_run(database, names):
                click.echo(idle)
            print_next_step(database, names)
    return ExitCode.HOLES if served.holes and served.stopped_by is None else ExitCode.DONE


def _detach(
    site: Site, names: tuple[str, ...], options: Workers, choice: DeviceChoice, engine: str, address: str | None
) -> None:
    """Start the same command in the background."""
    from rust_optuna.fleet import daemon, records
    from rust_optuna.fleet.commands import worker_start
    from rust_optuna.search.studies import studies_to_serve

    with site.open_to_write() as database:
        studies_to_serve(database, names)  # an error in the names is reported here, not in the daemon's log
        environment = site.environment(database)
    name = records.new_name()
    words = worker_start(names, options, choice, engine=engine, address=address, detached=name)
    click.echo("Waiting until a worker is ready ...", err=True)
    detached = daemon.detach(site.home, name, words, environment)
    if detached is None:
        with site.open_to_read() as database:
            click.echo(nothing_to_run(database, names) or "The daemon has ended.")
            print_next_step(database, names)
        return
    count = counted(len(options.devices), "worker") if options.devices else "Workers"
    readiness = "" if detached.serves else ", none ready yet: they look for films and weights, or compute features"
    click.echo(f"{count} under process {detached.pid}{readiness}. Log: {detached.log}")
    print_next("worker", "list")


@worker.command(epilog=examples("rust-optuna worker stop --all"))
@click.argument("pids", nargs=-1, type=int)
@click.option("--all", "all_", is_flag=True, help="Stop all of them.")
@home_option
def stop(pids: tuple[int, ...], all_: bool) -> None:
    """Stop the daemons of this home on this machine.

    If several run, name them by their process numbers PIDS, or use --all. Running points have the daemon's --grace
    seconds to finish, or are given back. The command returns once the daemons have ended.
    """
    from rust_optuna.errors import RustOptunaError
    from rust_optuna.fleet import daemon

    if_interrupted("Interrupted: the daemons still stop; to wait for them, run the same command again.")
    home = current_site().home
    here, others = daemon.daemons(home)
    if away := [(record, place) for record, place in others if record.pid in pids and record.pid not in _pids(here)]:
        places = "; ".join(f"daemon {record.pid} runs {place}" for record, place in away)
        raise RustOptunaError(f"Nothing was stopped: of {home.root}, {places}. Stop it there")
    if not here and not pids:
        message = f"No daemon of {home.root} is running here"
        if others:
            listed = "; ".join(f"{_named(record)} runs {place}" for record, place in others)
            raise RustOptunaError(f"{message}. Stop those that run elsewhere there: {listed}")
        click.echo(message)
        _print_failure(home)
        return
    chosen = _chosen(home, here, pids, all_)
    daemon.stop(home, chosen)
    for record in chosen:
        click.echo(f"Stopped process {record.pid}")
    print_next("status")


def _print_failure(home: Home) -> None:
    """Print the error with which the last daemon of a home ended, if it ended with one."""
    from rust_optuna.fleet.daemon import last_failure

    with suppress(PermissionError):  # the log belongs to another user
        if failure := last_failure(home):
            click.echo(failure)


def _chosen(home: Home, here: list[Record], pids: tuple[int, ...], all_: bool) -> list[Record]:
    """Return the daemons to stop.

    Raises:
        UsageError: several daemons run and none is named, or a named one does not run.
    """
    from rust_optuna.fleet.daemon import home_of

    listed = "; ".join(map(_named, here))
    if unknown := [pid for pid in pids if pid not in _pids(here)]:
        reasons = [
            f"Process {pid} is a daemon of another home: rust-optuna worker stop {pid} --home {shlex.quote(str(root))}"
            if (root := home_of(pid))
            else f"Process {pid} is not a daemon of this home"
            for pid in unknown
        ]
        raise click.UsageError(
            f"{'; '.join(reasons)}. {f'Of this home, {listed} runs' if listed else 'None is running'} here"
        )
    if not pids and not all_ and len(here) > 1:
        raise click.UsageError(f"Several daemons run here: {listed}. Name them, or use --all")
    return [record for record in here if all_ or not pids or record.pid in pids]


def _pids(daemons: list[Record]) -> list[int]:
    return [record.pid for record in daemons]


def _named(daemon: Record) -> str:
    return f"{daemon.pid} ({', '.join(daemon.studies) or 'all studies'})"


@worker.command("list", epilog=examples("rust-optuna worker list"))
@click.option("--all", "all_", is_flag=True, help="Include workers not heard of for ten minutes, which probably died.")
@common_options
@json_option
def list_(all_: bool, as_json: bool) -> None:
    """List the workers of the storage, on every machine.

    It shows what each worker runs, and when it was last heard of by the database's clock. Ended workers are not listed.
    """
    from rust_optuna.storage.roster import RECENT_SECONDS, list_workers

    if_interrupted(NOTHING_WRITTEN)
    site = current_site()
    with site.open_to_read() as database:
        workers = list_workers(database, recent_seconds=None if all_ else RECENT_SECONDS)
    if as_json:
        print_json([status.to_json() for status in workers])
        return
    if not workers:
        click.echo("No worker was heard of in the last ten minutes.")
        _print_failure(site.home)
        print_next("worker", "start")
        return
    print_table(WORKER_COLUMNS, [_row(status) for status in workers])


def _row(status: WorkerStatus) -> tuple[str, ...]:
    device = "cpu" if status.device in ("", "-1") else status.device
    task: Any = "–"
    if status.study is not None:
        late = " (its lease has ended)" if (status.lease_seconds or 0) < 0 else ""
        duration = _ago(status.running_seconds)
        task = f"{status.study} point {status.point}, attempt {status.attempt}, for {duration}{late}"
    return status.worker, status.host, str(status.process), device, f"{_ago(status.beat_seconds)} ago", task


def _ago(seconds: float | None) -> str:
    whole = int(max(0.0, seconds or 0.0))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"
