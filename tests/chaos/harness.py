"""One round: a study, real workers, a script of crashes, a quiet end, and the check.

Here time passing *is* the disturbance: the script's steps lie on a clock. Whatever is a state (the study is done, a
process has ended) is waited for by looking, with a deadline.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from rust_optuna.paths import Home
from rust_optuna.processes import ExitCode
from rust_optuna.search.creation import create_study
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import parse_url
from tests.chaos.backends import Backend, environment
from tests.chaos.check import Finding, check
from tests.chaos.objective import ARTIFACTS
from tests.chaos.records import connect, query
from tests.chaos.script import LEASE, Script, Start, Step, draw
from tests.chaos.workers import WorkerProcess
from tests.studies import configuration, random_document

WORKERS = 4
REST_SECONDS = 120
"""A round that is not done so long after its last disturbance hangs."""
BATCHES = 4
"""How often undisturbed workers are started while the study is not done: points may fail on purpose."""
CRASHED, HANGS = "crashed", "hangs"


@dataclass
class Round:
    """What became of a round."""

    seed: int
    seconds: float = 0.0
    points: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def run_round(seed: int, backend: Backend, home: Home, logs: Path) -> Round:
    """Run one round and check it.

    Args:
        seed: draws the study and the script.
        backend: where it runs.
        home: with a manifest and films.
        logs: a new folder for what the workers print.
    """
    began = time.monotonic()
    backend.begin(seed)
    logs.mkdir(parents=True)
    try:
        script = draw(seed, server=backend.server, disk=backend.disk)
        running = _Running(seed, script, backend, home, logs)
        try:
            running.disturb()
            running.rest()
        finally:
            running.kill_all()
        done = running.done
        done.findings += _crashes(running.workers)
        with closing(connect(backend.url)) as connection:
            done.findings += check(connection, running.study, script.points, backend.artifacts)
            done.attempts = {row["outcome"]: row["n"] for row in query(connection, _ATTEMPTS, running.study)}
        done.seconds = time.monotonic() - began
        return done
    finally:
        backend.end()


_ATTEMPTS = (
    "SELECT a.outcome, count(*) AS n FROM rust_optuna_attempt a JOIN rust_optuna_point p ON p.id = a.point_id"
    " JOIN rust_optuna_study s ON s.id = p.study_id WHERE s.name = ? GROUP BY a.outcome"
)


class _Running:
    """The processes and the clock of a round that runs."""

    def __init__(self, seed: int, script: Script, backend: Backend, home: Home, logs: Path) -> None:
        self.study = f"chaos-{seed}"
        self.script, self.backend, self.logs = script, backend, logs
        self.environment = environment(home, backend, ARTIFACTS)
        self.workers: list[WorkerProcess] = []
        self.done = Round(seed, points=script.points)
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        document = random_document(script.points, name=self.study, lease_seconds=LEASE)
        document["sampler"]["seed"] = seed
        with open_database(parse_url(backend.url, home)) as database:
            create_study(database, configuration(document), home, artifacts=str(self.backend.artifacts))

    def start(self, how: Start, *, calm: bool = False) -> None:
        """Start a worker."""
        number = len(self.workers) + 1
        log = self.logs / f"worker-{number}.log"
        self.workers.append(WorkerProcess(number, self.study, self.environment, how, log, calm=calm))

    def disturb(self) -> None:
        """Let the script happen, each step at its time; a step's end may be another entry of the agenda."""
        for how in self.script.workers:
            self.start(how)
        # Whoever is killed before it began a point disturbs little.
        _wait(self._began)
        began = time.monotonic()
        for step in self.script.steps:
            self._at(began + step.at, lambda step=step: self._happen(step))
        while self._agenda:
            at, _, function = heapq.heappop(self._agenda)
            time.sleep(max(0.0, at - time.monotonic()))
            function()

    def rest(self) -> None:
        """Disturb nothing any more: undisturbed workers finish the study, and everything ends by itself."""
        self.backend.calm()
        deadline = time.monotonic() + REST_SECONDS
        for _ in range(BATCHES):
            for _ in range(WORKERS - len(self._alive())):
                self.start(Start(), calm=True)
            while self._alive() and time.monotonic() < deadline:
                time.sleep(0.05)
            if self._alive():
                self._hang()
            if self._alive() or self._state() == "done":
                return

    def kill_all(self) -> None:
        """Leave no process behind."""
        for worker in self._alive():
            worker.send(signal.SIGKILL)
        _wait(lambda: not self._alive())

    def _at(self, when: float, function: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), function))

    def _alive(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.exit_code is None]

    def _happen(self, step: Step) -> None:
        alive = self._alive()
        if step.kind == "start":
            self.start(step.start)
        elif step.kind in ("kill", "kill all", "stop", "terminate", "terminate twice"):
            # Rather the older ones, which are likelier to be at a point.
            chosen = alive if step.kind == "kill all" else alive[int(step.which**2 * len(alive)) :][:1]
            for worker in chosen:
                self._strike(worker, step.kind, step.seconds)
        else:
            self.done.events[step.kind] += 1
            self._at(time.monotonic() + step.seconds, self.backend.disturb(step.kind))

    def _strike(self, worker: WorkerProcess, kind: str, seconds: float) -> None:
        self.done.events[kind.partition(" ")[0]] += 1
        if kind.startswith("kill"):
            worker.send(signal.SIGKILL)
        elif kind == "stop":
            worker.send(signal.SIGSTOP)
            self._at(time.monotonic() + seconds, lambda: worker.send(signal.SIGCONT))
        else:
            worker.send(signal.SIGTERM)
            if kind == "terminate twice":
                self._at(time.monotonic() + 0.05, lambda: worker.send(signal.SIGTERM))

    def _began(self) -> bool:
        with closing(connect(self.backend.url)) as connection:
            return bool(query(connection, _ATTEMPTS, self.study))

    def _state(self) -> str:
        with closing(connect(self.backend.url)) as connection:
            return query(connection, "SELECT state FROM rust_optuna_study WHERE name = ?", self.study)[0]["state"]

    def _hang(self) -> None:
        """Note who does not end, and let each print where it is."""
        for worker in self._alive():
            self.done.findings.append(Finding(HANGS, f"{worker} has not ended after {REST_SECONDS} s of rest"))
            worker.send(signal.SIGABRT)
        _wait(lambda: not self._alive())


def _wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def _crashes(workers: list[WorkerProcess]) -> list[Finding]:
    """Find the workers that ended as none should: with a traceback, or though nothing disturbed them."""
    found = []
    for worker in workers:
        code = worker.exit_code
        if {"SIGKILL", "SIGABRT"} & set(worker.signals) or code in (ExitCode.DONE, ExitCode.HOLES):
            continue
        if "SIGTERM" in worker.signals and code in (-signal.SIGTERM, ExitCode.INTERRUPTED):
            continue  # before it could listen, or at the second signal
        lines = worker.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("Error: ")]
        if said and not worker.calm:
            continue  # it gave up with a reason while the world was failing
        found.append(Finding(CRASHED, f"{worker} ended with {code}: {(said or lines or ['nothing said'])[-1]}"))
    return found
