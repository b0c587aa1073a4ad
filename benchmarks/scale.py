"""What the database costs a fleet: time that a trial waits for it, queries and bytes, by workers and by trials.

Workers are real ones with a stand-in objective that sleeps between epochs, as a device works while its process waits.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa

from benchmarks.growth import create_made_up_study
from benchmarks.sections import wait_for_the_others
from rust_optuna.data.manifest import CORTICES
from rust_optuna.data.scores import Score, Scores
from rust_optuna.learn.trial_report import BatchSizes, Seeds, TrialReport
from rust_optuna.paths import Home
from rust_optuna.search.ledger import Claim
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import Database, create_database, open_database
from rust_optuna.storage.url import parse_url, sqlite_url
from rust_optuna.worker.objective import OnAdvance, OnEpoch, Outcome
from rust_optuna.worker.serving import Served
from rust_optuna.worker.worker import Worker

EPOCHS = 20
SERVER = "RUST_OPTUNA_TEST_POSTGRESQL"
SCORE = Score(0.5, (0.5,) * 6)
SCORES = Scores(SCORE, SCORE, SCORE, SCORE, SCORE, SCORE, dict.fromkeys(CORTICES, SCORE))
REPORT = TrialReport(
    epoch=EPOCHS,
    value=0.5,
    curve=(0.5,) * EPOCHS,
    fold_values=(0.5,) * 6,
    diverged_folds=(),
    scores=SCORES,
    baseline=SCORES,
    labels_left_out=((),) * 6,
    batch_size=BatchSizes(32, (32,) * 6),
    seeds=Seeds(0, 0, (0,) * 6),
    features_sha256="",
    device="",
    host="",
    versions={},
    seconds=0.0,
)
"""As many numbers as a trial reports."""


class Sleeper:
    """An objective that sleeps, and says how long every trial took beside its sleep.

    Args:
        seconds: of a trial.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.slept = 0.0

    def runtime(self) -> dict[str, Any]:
        """Name the stand-in."""
        return {"objective": "STAND-IN sleeper"}

    def prepare(self, design: Sequence[Mapping[str, Any]]) -> None:
        """Nothing is needed."""

    def pin(self) -> None:
        """Nothing was prepared."""

    def __call__(self, claim: Claim, trial: optuna.Trial, on_epoch: OnEpoch, on_advance: OnAdvance) -> Outcome:
        """Sleep through the epochs."""
        for epoch in range(1, EPOCHS + 1):
            began = time.perf_counter()
            time.sleep(self.seconds / EPOCHS)
            self.slept += time.perf_counter() - began
            on_epoch(epoch, epoch / EPOCHS)
        return Outcome(1.0, REPORT)


def main() -> None:
    """Print one JSON object: by workers, milliseconds that a trial waited; by trials done, the same of one worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="of a trial")
    parser.add_argument("--trials", type=int, default=10_000, help="of the long study")
    parser.add_argument("--each", type=int, default=4, help="trials a worker")
    parser.add_argument("--only", choices=["SQLite", "PostgreSQL"], help="one of the backends")
    chosen = parser.parse_args()
    wait_for_the_others()
    found: dict[str, Any] = {"backends": {}}
    for name, server in _servers().items():
        if chosen.only not in (None, name):
            continue
        result: dict[str, Any] = {"workers": [], "trials": []}
        for workers in chosen.workers:
            with _storage(server, workers * chosen.each) as (url, home):
                result["workers"].append((workers, *_blocked(url, home, workers, chosen.seconds)))
        with _storage(server, chosen.trials) as (url, home):
            result["trials"], result["queries"], result["bytes"] = _long(url, home, chosen.trials)
        found["backends"][name] = result
    print(json.dumps(found))


def _servers() -> dict[str, str | None]:
    """Return SQLite, and PostgreSQL where a server is given."""
    return {"SQLite": None} | ({"PostgreSQL": os.environ[SERVER]} if os.environ.get(SERVER) else {})


@contextmanager
def _storage(server: str | None, trials: int) -> Iterator[tuple[str, Home]]:
    """Yield the URL of a new database with one study, and its home."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        if server is None:
            url = sqlite_url(home.database).render_as_string()
            with create_database(parse_url(url, home), "artifacts") as database:
                create_made_up_study(database, home, trials)
            yield url, home
            return
        admin = sa.create_engine(sa.make_url(server), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        name = f"rust_optuna_scale_{os.getpid()}"
        with admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        try:
            url = sa.make_url(server).set(database=name).render_as_string(hide_password=False)
            with create_database(parse_url(url, home), "artifacts") as database:
                create_made_up_study(database, home, trials)
            yield url, home
        finally:
            with admin.connect() as connection:
                connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def _blocked(url: str, home: Home, workers: int, seconds: float) -> tuple[float, float]:
    """Return the milliseconds that a trial of a fleet waited for the database: the median worker's, and the worst's.

    A worker's first trial is left out.

    The workers are forked from a process that has loaded everything, and start over one trial's length, as a fleet's
    do: 64 interpreters that start at once on two cores would measure their own loading.
    """
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [
        context.Process(target=_work, args=(url, home, seconds, seconds * number / workers, queue), daemon=True)
        for number in range(workers)
    ]
    for child in children:
        child.start()
    waited = [queue.get(timeout=600) for _ in children]
    for child in children:
        child.join()
    return statistics.median(waited), max(waited)


def _work(url: str, home: Home, seconds: float, delay: float, queue: Any) -> None:
    with open_database(parse_url(url, home)) as database:
        worker = Worker(database, home, open_store("artifacts", home))
        sleeper = Sleeper(seconds)
        worker.stand_in = sleeper  # type: ignore[assignment]
        time.sleep(delay)
        times: list[float] = []
        trials: list[Claim] = []
        run_one = worker._run

        def timed(claim: Claim, served: Served) -> None:
            began, slept = time.perf_counter(), sleeper.slept
            run_one(claim, served)
            if not trials:  # it connected to the server, and loaded what it had not used before
                times.clear()
                trials.append(claim)
                return
            times.append(time.perf_counter() - began - (sleeper.slept - slept))
            trials.append(claim)

        claim_one = worker.ledger.claim

        def claimed(studies: Sequence[int], name: str) -> Claim | None:
            began = time.perf_counter()
            claim = claim_one(studies, name)
            if claim is not None:
                times.append(time.perf_counter() - began)
            return claim

        worker._run = timed  # type: ignore[method-assign]
        worker.ledger.claim = claimed  # type: ignore[assignment, method-assign]
        worker.run()
    queue.put(1000 * sum(times) / max(1, len(trials) - 1))


def _long(url: str, home: Home, trials: int) -> tuple[list[tuple[int, float, float]], float, float]:
    """Return (trials done, the median trial's milliseconds, its queries) along a study; queries and bytes a trial."""
    with open_database(parse_url(url, home)) as database:
        worker = Worker(database, home, open_store("artifacts", home))
        worker.stand_in = Sleeper(0.0)  # type: ignore[assignment]
        queries = _count_queries(database)
        ends: list[tuple[float, int]] = []
        run_one = worker._run

        def counted(claim: Claim, served: Served) -> None:
            run_one(claim, served)
            ends.append((time.perf_counter(), len(queries)))

        worker._run = counted  # type: ignore[method-assign]
        bytes_before = _loopback_bytes()
        worker.run()
        sent = _loopback_bytes() - bytes_before
    size = max(2, trials // 20)
    chunks = []
    for done in range(size, trials + 1, size):
        times, counts = zip(*ends[done - size : done], strict=True)
        median = statistics.median(after - before for before, after in itertools.pairwise(times))
        chunks.append((done, 1000 * median, (counts[-1] - counts[0]) / (size - 1)))
    return chunks, len(queries) / trials, sent / trials


def _count_queries(database: Database) -> list[int]:
    queries: list[int] = []
    for engine in (database.engine, database.storage.engine):
        sa.event.listen(engine, "before_cursor_execute", lambda *_: queries.append(1))
    return queries


def _loopback_bytes() -> int:
    """Return the bytes that crossed the loopback so far, in both ways; 0 where the system does not tell."""
    table = Path("/proc/net/dev")
    lines = table.read_text(encoding="ascii").splitlines() if table.is_file() else []
    return next((int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:")), 0)


if __name__ == "__main__":
    main()
