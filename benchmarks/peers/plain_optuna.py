"""Optuna alone: two processes, each ``study.optimize(objective)`` with ``GridSampler`` on one SQLite storage.

This is how Optuna's tutorial runs a study in several processes: the study is created first, and each process loads it
and optimizes without a number of trials, for ``GridSampler`` stops by itself. What its documentation says is what is
counted here: "different workers will occasionally suggest the same parameter configuration". A worker that finishes
while the last points are running on others sees a grid that is not exhausted, and takes one of those points too.

With ``--kill`` a worker is killed (SIGKILL) once the first trial is complete and both workers run one, and another
worker is started at once, by the same command. Nothing is set that a user would not have set: no heartbeat.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL

from benchmarks.peers.rows import Tally, report, tally
from benchmarks.peers.task import WORKERS, Arguments, Task, use_threads

if TYPE_CHECKING:
    import optuna

NAME = "grid"
POLL_SECONDS = 0.1


def main() -> None:
    """Create the study, run the workers, count; or, with ``--worker``, be one of them."""
    parser = Arguments(__doc__)
    parser.add_argument("--kill", action="store_true", help="kill a worker after the first trial")
    parser.add_argument("--worker", action="store_true", help="be a worker of the study in OWN")
    arguments = parser.parse_args()
    task = Task(arguments.films, arguments.quick)
    if arguments.worker:
        work(task, arguments.own)
        return
    import optuna

    use_threads(1)
    study = optuna.create_study(study_name=NAME, storage=_url(arguments.own), direction="maximize")
    workers = [_start(task, arguments.own) for _ in range(WORKERS)]
    if arguments.kill:
        _wait_for_two_running(study, workers)
        workers[-1].kill()
        workers.append(_start(task, arguments.own))
    codes = [worker.wait() for worker in workers]
    if any(code not in ((0, -9) if arguments.kill else (0,)) for code in codes):
        sys.exit(f"the workers ended with {codes}")
    report(count(task, study))


def work(task: Task, own: Path) -> None:
    """Optimize until the sampler stops the study."""
    import optuna

    def objective(trial: optuna.Trial) -> float:
        params = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
            "epsilon": trial.suggest_float("epsilon", 1e-8, 1e-1, log=True),
        }
        return task.published_objective(params)

    sampler = optuna.samplers.GridSampler(task.space)
    optuna.load_study(study_name=NAME, storage=_url(own), sampler=sampler).optimize(objective)


def count(task: Task, study: optuna.Study) -> Tally:
    """Count the trials in the storage."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    completed = [
        (trial.params, trial.value)
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value is not None
    ]
    stuck = sum(trial.state == TrialState.RUNNING for trial in trials)
    return tally(task.points, completed, unfinished=len(trials) - len(completed), stuck_running=stuck)


def _wait_for_two_running(study: optuna.Study, workers: list[subprocess.Popen[bytes]]) -> None:
    """Return once a trial is complete and each worker is in one.

    Raises:
        RuntimeError: a worker ended before that.
    """
    from optuna.trial import TrialState

    while True:
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        if TrialState.COMPLETE in states and states.count(TrialState.RUNNING) == WORKERS:
            return
        try:
            workers[-1].wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        raise RuntimeError("a worker ended before it could be killed")


def _start(task: Task, own: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.peers.plain_optuna", str(task.folder), str(own), "--worker"]
    return subprocess.Popen([*command, *(["--quick"] if task.quick else [])], stdout=sys.stderr)


def _url(own: Path) -> str:
    return URL.create("sqlite", database=str(own / "optuna.db")).render_as_string()


if __name__ == "__main__":
    main()
