"""``rust-optuna search`` on the same films, folds and grid, with two workers; the features' extraction is timed too.

It trains the same head from cached features instead of running the backbone at every step. Its seeds are its own, so
its values are of the same size as the other peers', not the same.

With ``--kill`` a worker is killed (SIGKILL) in the middle of a point once the first point is complete. The search
itself starts another in its place, so nothing is run again by hand; the same command is then given once more, as a
user would, and finds nothing to do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import sqlalchemy as sa

from benchmarks.peers import task as settings
from benchmarks.peers.rows import Tally, report, tally
from benchmarks.peers.task import Arguments, Task
from rust_optuna.errors import RustOptunaError
from rust_optuna.paths import Home
from rust_optuna.search.results import complete_points, failed_attempts, status
from rust_optuna.search.studies import load_development, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database, open_database
from rust_optuna.storage.url import sqlite_url

NAME = "peers"
POLL_SECONDS = 0.02


def main() -> None:
    """Search and report."""
    parser = Arguments(__doc__)
    parser.add_argument("--kill", action="store_true", help="kill a worker after the first point")
    arguments = parser.parse_args()
    task = Task(arguments.films, arguments.quick)
    home = Home(arguments.own.resolve())
    study = home.root / "peers.toml"
    study.write_text(study_file(task, home), encoding="utf-8")
    command = [sys.executable, "-m", "rust_optuna", "search", str(study), "--home", str(home.root)]
    command += ["--workers", str(settings.WORKERS), "--gpus", "none"]
    run = subprocess.Popen(command, stdout=sys.stderr)
    if arguments.kill:
        kill_a_worker(run, home)
    codes = [run.wait()]
    if arguments.kill:
        codes.append(subprocess.run(command, stdout=sys.stderr, check=False).returncode)
    if any(codes):
        sys.exit(f"rust-optuna search ended with {codes}")
    report(count(task, home))


def study_file(task: Task, home: Home) -> str:
    """Return the task as a study file."""
    manifest = os.path.relpath(task.manifest.resolve(), home.root)
    backbone = settings.BACKBONE
    return f"""
name = "{NAME}"
manifest = "{manifest}"

[sampler]
type = "grid"
seed = {settings.SEED}

[search_space]
learning_rate = {task.space["learning_rate"]}
epsilon = {task.space["epsilon"]}

[fixed]
batch_size = {settings.BATCH_SIZE}
dropout_rate = {settings.DROPOUT_RATE}

[model]
weights = "{backbone.weights}"
weights_seed = {backbone.weights_seed}
output = "{backbone.output}"
pooling = "{backbone.pooling}"
image_size = {backbone.image_size}
hidden_units = {list(settings.HIDDEN_UNITS)}

[cross_validation]
folds = {settings.FOLDS}
epochs = {task.epochs}
seed = {settings.SEED}
"""


def count(task: Task, home: Home) -> Tally:
    """Count the attempts in the database.

    Raises:
        RuntimeError: the study's films or folds are not those of the other peers.
    """
    with _open(home) as database:
        study = load_study(database, NAME)
        theirs, ours = task.development(), load_development(database, study)
        if theirs.content != ours.content or not np.array_equal(theirs.folds, ours.folds):
            raise RuntimeError("the study was made of other films or folds")
        completed = [(point.parameters, point.value) for point in complete_points(database, study)]
        failed, running = failed_attempts(database, study), status(database, study).counts["running"]
    return tally(task.points, completed, unfinished=len(failed) + running, stuck_running=running)


def kill_a_worker(run: subprocess.Popen[bytes], home: Home) -> None:
    """Kill the worker of a running point, once another point is complete.

    The worker is stopped before the last look, so that the point cannot end between the look and the kill.

    Raises:
        RuntimeError: the search ended before that.
    """
    while True:
        worker = _worker_of_running_point(home)
        if worker is not None:
            os.kill(worker, signal.SIGSTOP)
            if _worker_of_running_point(home, worker):
                os.kill(worker, signal.SIGKILL)
                return
            os.kill(worker, signal.SIGCONT)
        try:
            run.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        raise RuntimeError("the search ended before a worker could be killed")


def _worker_of_running_point(home: Home, process: int | None = None) -> int | None:
    """Return the process of a worker that runs a point, this one if given, while another point is complete."""
    point, worker = tables.point.c, tables.worker.c
    query = sa.select(worker.process).join_from(tables.point, tables.worker, point.lease_owner == worker.id)
    query = query.where(point.state == "running")
    if process is not None:
        query = query.where(worker.process == process)
    complete = sa.select(sa.func.count()).where(point.state == "complete")
    try:
        with _open(home) as database:
            if not database.transact(lambda connection: connection.execute(complete).scalar_one()):
                return None
            return database.transact(lambda connection: connection.execute(query.limit(1)).scalar())
    except RustOptunaError:  # not there yet
        return None


def _open(home: Home) -> Database:
    return open_database(sqlite_url(home.database), read_only=True)


if __name__ == "__main__":
    main()
