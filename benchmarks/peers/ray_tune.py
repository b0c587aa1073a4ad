"""Ray Tune with its ``OptunaSearch``, given Optuna's ``GridSampler``: two trials at a time, one core each.

``OptunaSearch`` asks for all points in one process, so none is drawn twice. When the last value is told,
``GridSampler`` stops the study, which Optuna allows inside ``optimize`` only; ``OptunaSearch`` logs that error as a
warning and goes on, and the value is kept. So the combination works with Ray 2.60 and Optuna 5.0, if exactly as many
samples as cells are asked for.

Ray starts a process for each trial, which imports TensorFlow again. Its own processes listen on 127.0.0.1 only, with a
token made for this run; its dashboard and its usage statistics are off.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from benchmarks.peers.rows import Tally, report, require, tally
from benchmarks.peers.task import WORKERS, Arguments, Task, use_threads

METRIC = "average_precision"


def main() -> None:
    """Run Ray on this machine alone and report."""
    arguments = Arguments(__doc__).parse_args()
    require("ray", "Ray Tune")
    task = Task(arguments.films, arguments.quick)
    use_threads(1)
    # Without a token Ray would make one and keep it in the user's home.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.getcwd()}
    # Else Ray replaces 127.0.0.1 by this machine's outward address.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray-") as sockets:
        ray.init(num_cpus=WORKERS, num_gpus=0, include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=sockets)
        try:
            found = search(task, arguments.own)
        finally:
            ray.shutdown()
    report(found)


def search(task: Task, own: Path) -> Tally:
    """Run the design and count Ray's results."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    folder, quick = str(task.folder), task.quick

    def trainable(config: dict[str, float]) -> None:
        tune.report({METRIC: Task(Path(folder), quick).published_objective(config)})

    space = {
        "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "epsilon": optuna.distributions.FloatDistribution(1e-8, 1e-1, log=True),
    }
    sampler = optuna.samplers.GridSampler(task.space)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(space, metric=METRIC, mode="max", sampler=sampler),
            num_samples=len(task.points),
            max_concurrent_trials=WORKERS,
        ),
        run_config=tune.RunConfig(name="grid", storage_path=str(own), verbose=0),
    )
    results = list(tuner.fit())
    completed = [
        (result.config, result.metrics[METRIC])
        for result in results
        if result.error is None and result.config is not None and METRIC in (result.metrics or {})
    ]
    return tally(task.points, completed, unfinished=len(results) - len(completed))


if __name__ == "__main__":
    main()
