"""A worker's memory over a hundred trials in one process: does it grow?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.around import made_up_worker
from benchmarks.sections import wait_for_the_others
from rust_optuna.search.ledger import Ledger


def main() -> None:
    """Print one JSON object: the resident megabytes after each trial, and the largest ever.

    The trials are of the published size (films, features, head, folds) over Regime I's batch sizes, but of few epochs:
    what a trial leaves behind does not depend on how often an epoch is repeated.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=1)
    chosen = parser.parse_args()
    after: list[float] = []

    class Watched(Ledger):
        def finish(self, *arguments: Any) -> None:
            super().finish(*arguments)
            after.append(resident("VmRSS"))

    with made_up_worker(chosen.trials, chosen.epochs, smallest_batch=16) as worker:
        worker.ledger = Watched(worker.database)
        wait_for_the_others()
        worker.run()
    print(json.dumps({"after": after, "largest": resident("VmHWM")}))


def resident(field: str) -> float:
    """Return this process's resident memory in megabytes: now (``VmRSS``) or at its largest (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
