"""A worker: claims points, runs them, tells how they ended, until nothing is left.

**This is where a claimed point is run.** Points are claimed in ``search.ledger``.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import threading
import traceback
import uuid
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import optuna
import sqlalchemy as sa

from rust_optuna.errors import FingerprintError, LeaseLostError, RustOptunaError, StudyError
from rust_optuna.paths import Home
from rust_optuna.run.lease import LeaseKeeper
from rust_optuna.search import tables
from rust_optuna.search.artifacts import ArtifactStore, remove
from rust_optuna.search.database import Database
from rust_optuna.search.ledger import Claim, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.objective import (
    CrossValidationObjective,
    Objective,
    OnEpoch,
    Outcome,
    StandInObjective,
)
from rust_optuna.search.studies import Study, load_development, load_parameters, load_studies, load_study

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Between looks at the queue while other workers run the last points."""
MAX_FAILURES_IN_A_ROW = 3
"""Failed points in a row after which a worker stops: the fault is then likelier its own than theirs."""


DATABASE_ERRORS = (optuna.exceptions.StorageInternalError, sa.exc.SQLAlchemyError)
"""What Optuna's storage raises when the database fails it."""

WORKER_ID, SUPERVISOR = "RUST_OPTUNA_WORKER_ID", "RUST_OPTUNA_SUPERVISOR"
"""Environment variables by which a supervisor names its child, so that it can requeue a dead one's point at once, and
tells it whose child it is, so that it stops when orphaned."""


class StopRequestedError(Exception):
    """The user or the supervisor asked this worker to stop: the point goes back to the queue."""


class Worker:
    """One worker in this process.

    Args:
        database: opened for writing.
        home: root of relative paths.
        store: takes out-of-fold scores.
        objective: ``MODULE:FUNCTION`` of a stand-in, None for the real objective.
        progress: called while features are computed.
    """

    def __init__(
        self,
        database: Database,
        home: Home,
        store: ArtifactStore,
        *,
        objective: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.id = os.environ.get(WORKER_ID) or new_worker_id()
        self.database = database
        self.ledger = Ledger(database)
        self.home = home
        self.store = store
        self.stand_in = StandInObjective.load(objective) if objective else None
        self.progress = progress
        self.stopping = threading.Event()
        self.finished = 0
        self._failures_in_a_row = 0
        self._served: dict[int, tuple[Study, Mirror, Objective]] = {}
        self._parent = int(os.environ.get(SUPERVISOR, "0"))

    def run(self, names: Sequence[str] = ()) -> int:
        """Run points of the named studies, or of all open ones, until all of them are done.

        While other workers run the last points it stays, so that a point whose worker dies is not left behind.

        Returns:
            The number of points this worker finished.

        Raises:
            StudyError: a named study does not exist, or its creation was never finished.
            FingerprintError: this worker would not compute a study's numbers.
            RustOptunaError: films or weights are missing here, or too many points failed in a row.
        """
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "default")
        self.ledger.register(self.id, host=platform.node(), process=os.getpid(), device=device)
        studies = self._open_studies(names)
        for study in studies:
            self._serve(study)[1].reconcile()
        while studies and not self._must_stop():
            claim = self.ledger.claim([study.id for study in studies], self.id)
            if claim is not None:
                self._run(claim)
                continue
            studies = [study for study in studies if not self.ledger.close(study.id)]
            if studies:
                self.stopping.wait(IDLE_SECONDS)
        for _, mirror, _ in self._served.values():
            mirror.reconcile()
        return self.finished

    def stop(self) -> None:
        """Ask for a stop at the end of the epoch; the point goes back to the queue. Safe in a signal handler."""
        self.stopping.set()

    def _must_stop(self) -> bool:
        orphaned = self._parent and os.getppid() != self._parent
        return bool(self.stopping.is_set() or orphaned)

    def _open_studies(self, names: Sequence[str]) -> list[Study]:
        if not names:
            return [study for study in load_studies(self.database) if study.state == "open"]
        studies = [load_study(self.database, name) for name in dict.fromkeys(names)]
        for study in studies:
            if study.state == "drawing":
                raise StudyError(f"The creation of {study.name} was not finished: run the same study create again")
        return [study for study in studies if study.state == "open"]

    def _serve(self, study: Study) -> tuple[Study, Mirror, Objective]:
        """Make ready for a study: check that this worker computes its numbers, once."""
        if study.id not in self._served:
            objective: Objective = self.stand_in or CrossValidationObjective(
                study, load_development(self.database, study), self.home, self.store, self.progress
            )
            runtime = objective.runtime()
            objective.prepare(load_parameters(self.database, study.id))
            pin_runtime(self.database, study, runtime)
            mirror = Mirror(self.database, study)
            mirror.describe(runtime)
            self._served[study.id] = (study, mirror, objective)
        return self._served[study.id]

    def _run(self, claim: Claim) -> None:
        """Run one claimed point to whatever end it comes to."""
        _, mirror, objective = self._served[claim.study_id]
        log.info("%s: point %d, attempt %d: %s", claim.study, claim.number, claim.attempt, json.dumps(claim.parameters))
        number: int | None = None
        outcome: Outcome | None = None
        try:
            with LeaseKeeper(self.ledger, claim) as lease:
                trial = mirror.start(claim)
                number = trial.number

                def on_epoch(epoch: int, value: float) -> None:
                    lease.check()
                    if self._must_stop():
                        raise StopRequestedError
                    _report(trial, epoch, value)

                state, outcome = _evaluate(objective, claim, trial, on_epoch)
                self.ledger.finish(claim, state, outcome.value, outcome.result, outcome.artifact)
        except LeaseLostError:
            if outcome is not None and outcome.artifact is not None:
                remove(self.store, [outcome.artifact])
            log.warning("%s: point %d was lost to another worker; its result is dropped", claim.study, claim.number)
        except optuna.exceptions.UpdateFinishedTrialError:
            # By a reconciler, where the lease was lost; by somebody outside, where it was not.
            self.ledger.release(claim, "its trial was finished by somebody else")
            log.warning("%s: the trial of point %d was finished elsewhere", claim.study, claim.number)
        except StopRequestedError:
            self._give_back(mirror, claim, number, "the worker was asked to stop")
            log.info("%s: point %d given back", claim.study, claim.number)
        except RustOptunaError as error:
            # Something is missing on this machine; the point itself is as good as before.
            self._give_back(mirror, claim, number, error.public)
            raise
        except (OSError, MemoryError, *DATABASE_ERRORS) as error:
            # A full disk, no memory, no database: not the point's fault, and the next point would meet it too.
            self._give_back(mirror, claim, number, type(error).__name__)
            raise RustOptunaError(f"This machine failed point {claim.number} of {claim.study}: {error}") from error
        except Exception as error:
            self._fail(mirror, claim, number, error)
        except BaseException:
            self._give_back(mirror, claim, number, "the worker was interrupted")
            raise
        else:
            self.finished += 1
            self._failures_in_a_row = 0
            log.info("%s: point %d: %s %s", claim.study, claim.number, state, outcome.value)
            self._show_end(mirror, trial.number, state, outcome)

    def _show_end(self, mirror: Mirror, number: int, state: str, outcome: Outcome) -> None:
        """Tell Optuna of a point that is finished already: what goes wrong here, a reconciler repeats."""
        try:
            mirror.tell(number, state, outcome.value, outcome.result)
        except DATABASE_ERRORS as error:
            log.warning("Trial %d could not be told yet: %s", number, type(error).__name__)

    def _give_back(self, mirror: Mirror, claim: Claim, number: int | None, reason: str) -> None:
        if self.ledger.release(claim, reason) and number is not None:
            mirror.tell(number, "released", None, None)

    def _fail(self, mirror: Mirror, claim: Claim, number: int | None, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        log.error("%s: point %d failed: %s\n%s", claim.study, claim.number, reason, traceback.format_exc())
        if self.ledger.fail(claim, reason) and number is not None:
            mirror.tell(number, "failed", None, None)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise RustOptunaError(
                f"{self._failures_in_a_row} points failed in a row, the last with {reason}"
            ) from error


def new_worker_id() -> str:
    """Return an identifier that no other worker ever had."""
    return f"{platform.node()[:40]}-{uuid.uuid4().hex[:12]}"


def _report(trial: optuna.Trial, epoch: int, value: float) -> None:
    """Show an intermediate value; training does not depend on the showing."""
    try:
        trial.report(value, epoch)
    except DATABASE_ERRORS as error:
        log.warning("Epoch %d could not be shown in Optuna: %s", epoch, type(error).__name__)


def _evaluate(objective: Objective, claim: Claim, trial: optuna.Trial, on_epoch: OnEpoch) -> tuple[str, Outcome]:
    """Return ``complete`` or ``pruned``, and the outcome: a pruned one's value is its last intermediate value."""
    last: float | None = None

    def remember(epoch: int, value: float) -> None:
        nonlocal last
        last = value
        on_epoch(epoch, value)

    try:
        return "complete", objective(claim, trial, remember)
    except optuna.TrialPruned:
        return "pruned", Outcome(last)


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
    """Let SIGTERM and SIGINT stop a worker: the first at the end of the epoch, the second at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if worker.stopping.is_set():
            raise KeyboardInterrupt
        worker.stop()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, handle)
