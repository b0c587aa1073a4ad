"""KerasTuner: ``GridSearch`` with ``run_trial`` overridden to cross-validate, a chief and two workers on this machine.

Overriding ``run_trial`` is the documented way to tune anything but one ``fit``; chief and workers are the documented
way to run in parallel, by the environment variables ``KERASTUNER_TUNER_ID``, ``_ORACLE_IP`` and ``_ORACLE_PORT``. It
works, and three things of KerasTuner 1.4.8 show in the seconds: ``GridSearch`` derives a cell from one that has *ended*
(the second cell apart, which is derived from the first at once), so two workers run hardly more than one training at a
time (the row's note says how many); the idle one asks the chief again without a pause meanwhile; and the chief looks
only every 20 seconds whether its workers are gone.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.rows import Tally, report, require, tally
from benchmarks.peers.task import WORKERS, Arguments, Task, use_threads

HOST = "127.0.0.1"
OBJECTIVE = "average_precision"
SPANS = "spans.jsonl"


def main() -> None:
    """Start the workers and be their chief; or, with ``--worker``, be one of them."""
    parser = Arguments(__doc__)
    parser.add_argument("--worker", action="store_true", help="be a worker of the chief that the environment names")
    arguments = parser.parse_args()
    require("keras_tuner", "KerasTuner")
    task = Task(arguments.films, arguments.quick)
    if arguments.worker:
        make_tuner(task, arguments.own).search()
        return
    use_threads(1)
    os.environ |= {"KERASTUNER_ORACLE_IP": HOST, "KERASTUNER_ORACLE_PORT": str(_free_port())}
    workers = [_start(task, arguments.own, number) for number in range(WORKERS)]
    for worker in workers:
        threading.Thread(target=_end_with, args=(worker,), daemon=True).start()
    os.environ["KERASTUNER_TUNER_ID"] = "chief"
    tuner = make_tuner(task, arguments.own)
    tuner.search()  # serves until no worker is left
    codes = [worker.wait() for worker in workers]
    if any(codes):
        sys.exit(f"the workers ended with {codes}")
    report(count(task, tuner, arguments.own))


def make_tuner(task: Task, own: Path) -> Any:
    """Return the tuner; the chief's and the workers' are made alike."""
    from rust_optuna.learn.runtime import load_keras

    load_keras()
    import keras_tuner

    class KFoldGridSearch(keras_tuner.GridSearch):  # type: ignore[misc]
        def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
            params = {name: trial.hyperparameters.get(name) for name in task.space}
            started = time.time()
            value = task.published_objective(params)
            with (own / SPANS).open("a", encoding="utf-8") as spans:
                spans.write(json.dumps([started, time.time()]) + "\n")
            return {OBJECTIVE: value}

    axes = keras_tuner.HyperParameters()
    for name, values in task.space.items():
        axes.Choice(name, values)
    return KFoldGridSearch(
        objective=keras_tuner.Objective(OBJECTIVE, "max"),
        hyperparameters=axes,
        directory=str(own),
        project_name="grid",
    )


def count(task: Task, tuner: Any, own: Path) -> Tally:
    """Count the trials that the chief knows, and say how far they ran side by side."""
    trials = list(tuner.oracle.trials.values())
    completed = [(trial.hyperparameters.values, trial.score) for trial in trials if trial.status == "COMPLETED"]
    stuck = sum(trial.status == "RUNNING" for trial in trials)
    note = f"{_at_once(own / SPANS):.2f} trainings at once on average"
    return tally(task.points, completed, unfinished=len(trials) - len(completed), stuck_running=stuck, note=note)


def _at_once(spans: Path) -> float:
    """Return how many trainings ran at once, averaged from the first one's start to the last one's end."""
    begun, ended = zip(*(json.loads(line) for line in spans.read_text(encoding="utf-8").splitlines()), strict=True)
    return float((sum(ended) - sum(begun)) / (max(ended) - min(begun)))


def _start(task: Task, own: Path, number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.peers.keras_tuner_kfold", str(task.folder), str(own), "--worker"]
    return subprocess.Popen(
        [*command, *(["--quick"] if task.quick else [])],
        env={**os.environ, "KERASTUNER_TUNER_ID": f"tuner{number}"},
        stdout=sys.stderr,
    )


def _end_with(worker: subprocess.Popen[bytes]) -> None:
    """End the chief if a worker dies: by itself it waits for ever for one that is gone."""
    code = worker.wait()
    if code:
        print(f"a worker ended with {code}", file=sys.stderr, flush=True)
        os._exit(1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
