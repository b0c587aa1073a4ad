"""A worker: claims points, runs them, tells how they ended, until nothing is left.

**This is where a claimed point is run.** Points are claimed in ``search.ledger``.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import random
import signal
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import sqlalchemy as sa

from rust_optuna.errors import FingerprintError, LeaseLostError, RustOptunaError, StorageError
from rust_optuna.paths import Home
from rust_optuna.processes import SUPERVISOR, WORKER_ID
from rust_optuna.run.faults import DATABASE_ERRORS, CircuitBreaker, Fault, classify
from rust_optuna.run.lease import LAST_WORDS_SECONDS, LeaseKeeper
from rust_optuna.run.reporter import Reporter
from rust_optuna.search import tables
from rust_optuna.search.artifacts import ArtifactStore, check_owner, remove
from rust_optuna.search.database import Database
from rust_optuna.search.ledger import Claim, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.objective import (
    CrossValidationObjective,
    Objective,
    Outcome,
    StandInObjective,
)
from rust_optuna.search.studies import Study, load_development, load_parameters, load_study, studies_to_serve

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Between looks at the queue while other workers run the last points."""
NOTHING_OPEN_SECONDS = 4.0
"""Between looks for an open study of a worker that serves for ever."""
BEAT_SECONDS = 60.0
"""Between signs of life of a worker that has nothing to run."""
TIDY_SECONDS = 1.0
"""For which a worker that must stop waits for the end of an epoch, before the process ends in its midst."""


class StopRequestedError(Exception):
    """The user or the supervisor asked this worker to stop: the point goes back to the queue."""


class Worker:
    """One worker in this process.

    Args:
        database: opened for writing; its patience decides which outages of the database a worker outlives.
        home: root of relative paths.
        store: takes out-of-fold scores.
        objective: ``MODULE:FUNCTION`` of a stand-in, None for the real objective.
        progress: called while features are computed.
        forever: serve whatever study is open, and wait for one where none is.
        grace: seconds that a running trial may take to end once the worker is asked to stop.
        data_root: where films are looked for that the index does not know.
    """

    def __init__(
        self,
        database: Database,
        home: Home,
        store: ArtifactStore,
        *,
        objective: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        forever: bool = False,
        grace: float = 0.0,
        data_root: Path | None = None,
    ) -> None:
        self.id = os.environ.get(WORKER_ID) or new_worker_id()
        self.database = database
        self.ledger = Ledger(database)
        self.home = home
        self.store = store
        self.stand_in = StandInObjective.load(objective) if objective else None
        self.progress = progress
        self.forever = forever
        self.grace = grace
        self.data_root = data_root
        self.stopping = False
        self.preparing = False
        self.finished = 0
        self._deadline = float("inf")
        self._beat_at = 0.0
        self._holds = False
        self._breaker = CircuitBreaker()
        self._served: dict[int, tuple[Study, Mirror, Objective]] = {}
        self._refused: set[int] = set()
        self._parent = int(os.environ.get(SUPERVISOR, "0"))
        # The grace is for a point: without one, a worker that must stop waits a moment for a database that is away.
        database.give_up = lambda: self.overdue(LAST_WORDS_SECONDS - (0.0 if self._holds else self.grace))

    def run(self, names: Sequence[str] = ()) -> int:
        """Run points of the named studies, or of all open ones, until all of them are done; or for ever.

        While other workers run the last points it stays, so that a point whose worker dies is not left behind.

        Returns:
            The number of points this worker finished.

        Raises:
            StudyError: a named study does not exist, or its creation was never finished.
            FingerprintError: this worker would not compute a study's numbers.
            StorageError: the artifact store is not this storage's, or the database is away for too long.
            CircuitBreakerError: several points failed in a row with the same error.
            RustOptunaError: films or weights are missing here, or the machine failed.
        """
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "default")
        try:
            self.ledger.register(self.id, host=platform.node(), process=os.getpid(), device=device)
            self._serve_studies(names)
            for _, mirror, _ in self._served.values():
                mirror.settle()
        except (StorageError, *DATABASE_ERRORS) as error:
            if not self.stopping:
                raise
            log.warning("stopped while the database was away: %s", error, extra={"event": "outage"})
        return self.finished

    def stop(self) -> None:
        """Ask for a stop: no more points, and the running one may end within the grace. Safe in a signal handler."""
        if not self.stopping:
            self._deadline = time.monotonic() + self.grace
            self.stopping = True

    def overdue(self, margin: float = 0.0) -> bool:
        """Say whether this worker was asked to stop, and its grace and a margin are over."""
        self._stop_if_orphaned()
        return time.monotonic() >= self._deadline + margin

    def _must_stop(self) -> bool:
        self._stop_if_orphaned()
        return self.stopping

    def _stop_if_orphaned(self) -> None:
        if self._parent and os.getppid() != self._parent:
            self.stop()

    def _serve_studies(self, names: Sequence[str]) -> None:
        try:
            if self.forever:
                self._serve_whatever_opens(names)
            else:
                self._serve_until_done([study.id for study in self._ready(names)])
        except StopRequestedError:
            log.info("stopped while it made ready")

    def _serve_until_done(self, studies: list[int]) -> None:
        for study in studies:
            self._mirror(study).reconcile()
        while studies and not self._must_stop():
            if self._run_one(studies):
                continue
            still_open = self.ledger.open_studies().values()
            studies = [study for study in studies if study in still_open]
            for study in studies:
                self._mirror(study).reconcile()
            if studies:
                self._idle(IDLE_SECONDS)

    def _serve_whatever_opens(self, names: Sequence[str]) -> None:
        """Take points of whatever study is open, of those named if any are; idle cheaply where there is none."""
        while not self._must_stop():
            studies = [
                study
                for name, study in self.ledger.open_studies().items()
                if (not names or name in names) and study not in self._refused and self._can_serve(name, study)
            ]
            if not (studies and self._run_one(studies)):
                seconds = IDLE_SECONDS if studies else NOTHING_OPEN_SECONDS
                self._idle(seconds * random.uniform(0.75, 1.25))  # noqa: S311 (jitter)

    def _idle(self, seconds: float) -> None:
        """Wait, at most until a stop is asked for; say now and then that this worker is there.

        In short sleeps: a lock that a signal's handler could wake this by is one that it could hang on.
        """
        now = time.monotonic()
        if now > self._beat_at:
            self.ledger.beat(self.id)
            self._beat_at = now + BEAT_SECONDS
        while time.monotonic() < now + seconds and not self._must_stop():
            time.sleep(min(0.2, seconds))

    def _can_serve(self, name: str, study_id: int) -> bool:
        """Make ready for a study; one that cannot be served here must not keep this worker from the others."""
        if study_id in self._served:
            return True
        try:
            self._serve(load_study(self.database, name))
        except StorageError:
            raise  # no database, or another's artifact store: that is no study's fault
        except RustOptunaError as error:
            self._refused.add(study_id)
            log.error("%s is not served here: %s", name, error.public)
            return False
        return True

    def _run_one(self, studies: Sequence[int]) -> bool:
        """Claim a point and run it; return whether there was one."""
        claim = self.ledger.claim(studies, self.id)
        if claim is None:
            return False
        self._holds = True
        try:
            self._run(claim)
        finally:
            self._holds = False
        return True

    def _ready(self, names: Sequence[str]) -> list[Study]:
        """Return the open studies, or the named ones of them, made ready for."""
        ready = [study for study in studies_to_serve(self.database, names) if study.state == "open"]
        for study in ready:
            self._serve(study)
        return ready

    def _serve(self, study: Study) -> None:
        """Make ready for a study: check that this worker computes its numbers, once."""
        self.preparing = True
        try:
            check_owner(self.store, self.database)
            objective: Objective = self.stand_in or CrossValidationObjective(
                study, load_development(self.database, study), self.home, self.store, self.progress, self.data_root
            )
            runtime = objective.runtime()
            objective.prepare(load_parameters(self.database, study.id))
            pin_runtime(self.database, study, runtime)
            mirror = Mirror(self.database, study)
            mirror.describe(runtime)
            self._served[study.id] = (study, mirror, objective)
        finally:
            self.preparing = False

    def _mirror(self, study_id: int) -> Mirror:
        return self._served[study_id][1]

    def _run(self, claim: Claim) -> None:
        """Run one claimed point to whatever end it comes to."""
        _, mirror, objective = self._served[claim.study_id]
        where = _about(claim)
        log.info("claimed %s", json.dumps(claim.parameters), extra={"event": "claimed", **where})
        number: int | None = None
        outcome: Outcome | None = None
        try:
            with LeaseKeeper(self.ledger, claim, overdue=lambda: self.overdue(TIDY_SECONDS)) as lease:
                trial = mirror.start(claim)
                number = trial.number
                state, outcome = self._evaluate(objective, claim, trial, lease)
                self.ledger.finish(claim, state, outcome.value, outcome.result, outcome.artifact)
        except LeaseLostError:
            if outcome is not None and outcome.artifact is not None:
                remove(self.store, [outcome.artifact])
            log.warning("lost to another worker; its result is dropped", extra={"event": "lost", **where})
        except optuna.exceptions.UpdateFinishedTrialError:
            # By a reconciler, where the lease was lost; by somebody outside, where it was not.
            self.ledger.release(claim, "its trial was finished by somebody else", "machine")
            log.warning("its trial was finished elsewhere", extra={"event": "lost", **where})
        except StopRequestedError:
            self._give_back(mirror, claim, number, Fault("interrupted", "the worker was asked to stop", False))
            log.info("given back", extra={"event": "released", **where})
        except BaseException as error:
            self._fail(mirror, claim, number, error)
        else:
            self.finished += 1
            self._breaker.success()
            log.info("%s %s", state, outcome.value, extra={"event": state, **where})
            self._show_end(mirror, claim, trial.number, state, outcome)

    def _evaluate(
        self, objective: Objective, claim: Claim, trial: optuna.Trial, lease: LeaseKeeper
    ) -> tuple[str, Outcome]:
        """Return ``complete`` or ``pruned``, and the outcome: a pruned one's value is its last intermediate value."""
        last: float | None = None

        with Reporter(trial) as reporter:

            def on_epoch(epoch: int, value: float) -> None:
                nonlocal last
                last = value
                lease.finished_epoch()
                lease.check()
                if self.overdue():
                    raise StopRequestedError
                reporter.report(epoch, value)

            try:
                return "complete", objective(claim, trial, on_epoch, lease.advanced)
            except optuna.TrialPruned:
                return "pruned", Outcome(last)

    def _show_end(self, mirror: Mirror, claim: Claim, number: int, state: str, outcome: Outcome) -> None:
        """Tell Optuna of a point that is finished already: what goes wrong here, a reconciler repeats."""
        try:
            mirror.tell(number, state, outcome.value, outcome.result)
            self.ledger.mark_shown(claim.point_id, claim.attempt)
        except (RustOptunaError, *DATABASE_ERRORS) as error:
            log.warning("Trial %d could not be told yet: %s", number, type(error).__name__)

    def _give_back(self, mirror: Mirror, claim: Claim, number: int | None, fault: Fault) -> None:
        if self.ledger.release(claim, fault.reason, fault.kind) and number is not None:
            self._show_end(mirror, claim, number, "released", Outcome(None))

    def _fail(self, mirror: Mirror, claim: Claim, number: int | None, error: BaseException) -> None:
        """End an attempt that raised: with a failed attempt where it is the point's fault, else given back."""
        fault = classify(error)
        where = _about(claim)
        if not fault.of_the_point:
            self._give_back(mirror, claim, number, fault)
            log.error("given back: %s", fault.reason, extra={"event": "released", **where})
            if isinstance(error, RustOptunaError) or not isinstance(error, Exception):
                raise error
            raise RustOptunaError(f"This machine failed point {claim.number} of {claim.study}: {error}") from error
        log.error("failed: %s\n%s", fault.reason, traceback.format_exc(), extra={"event": "failed", **where})
        if self.ledger.fail(claim, fault.reason, fault.kind) and number is not None:
            self._show_end(mirror, claim, number, "failed", Outcome(None))
        self._breaker.failure((claim.study_id, claim.number), fault)


def _about(claim: Claim) -> dict[str, object]:
    """Return what a line of the log says about the attempt it is of."""
    return {"study": claim.study, "point": claim.number, "attempt": claim.attempt}


def new_worker_id() -> str:
    """Return an identifier that no other worker ever had."""
    return f"{platform.node()[:40]}-{uuid.uuid4().hex[:12]}"


def pin_runtime(database: Database, study: Study, runtime: dict[str, Any]) -> None:
    """Compare this worker with the study's first one, or be it.

    Raises:
        FingerprintError: they differ, and in what; or real scores were to build on a stand-in's.
    """
    table = tables.study
    inherited = (study.source or {}).get("objective", runtime["objective"])
    if inherited != runtime["objective"]:
        raise FingerprintError(
            f"{study.name} takes its fixed parameters from {inherited}, this worker runs {runtime['objective']}"
        )

    def pin(connection: sa.Connection) -> dict[str, Any]:
        first = table.update().where(table.c.id == study.id, table.c.runtime.is_(None))
        connection.execute(first.values(runtime=json.dumps(runtime)))
        pinned: dict[str, Any] = json.loads(
            connection.execute(sa.select(table.c.runtime).where(table.c.id == study.id)).scalar_one()
        )
        return pinned

    pinned = database.transact(pin)
    differing = [key for key in sorted({*pinned, *runtime}) if pinned.get(key) != runtime.get(key)]
    if differing:
        what = "; ".join(f"{key} is {runtime.get(key)} here and {pinned.get(key)} there" for key in differing)
        raise FingerprintError(f"This worker would not compute the numbers of {study.name}: {what}")


def stop_on_signals(worker: Worker) -> None:
    """Let SIGTERM and SIGINT stop a worker: the first within its grace, the second at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if worker.stopping:
            raise KeyboardInterrupt
        worker.stop()
        if worker.preparing:  # no point is held, and making ready may take long
            raise StopRequestedError

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, handle)
