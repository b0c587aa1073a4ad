"""A worker: claims points, runs them, tells how they ended, until nothing is left.

**This is where a claimed point is run.** Points are claimed in ``search.ledger``.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import random
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import optuna
import sqlalchemy as sa

from rust_optuna.errors import (
    FingerprintError,
    LeaseLostError,
    RustOptunaError,
    StorageError,
    StudyError,
    WrongStoreError,
)
from rust_optuna.paths import Home
from rust_optuna.processes import SUPERVISOR, WORKER_ID, sleep_unless
from rust_optuna.run import signals
from rust_optuna.run.faults import DATABASE_ERRORS, CircuitBreaker, Fault, classify
from rust_optuna.run.lease import LAST_WORDS_SECONDS, LeaseKeeper
from rust_optuna.run.reporter import Reporter
from rust_optuna.run.serving import Served, Serving
from rust_optuna.search.artifacts import ArtifactStore, remove
from rust_optuna.search.database import Database
from rust_optuna.search.ledger import FINISHED_ELSEWHERE, Claim, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.objective import CrossValidationObjective, Objective, Outcome, StandInObjective
from rust_optuna.search.pins import FeaturePins
from rust_optuna.search.studies import Study, find_study, load_development, studies_to_serve
from rust_optuna.search.tables import StudyKey

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Between looks at the queue while other workers run the last points."""
NOTHING_OPEN_SECONDS = 4.0
"""Between looks for an open study of a worker that serves for ever."""
BEAT_SECONDS = 60.0
"""Between signs of life of a worker that has nothing to run."""
TIDY_SECONDS = 15.0
"""Between looks for what others left undone."""
LAST_EPOCH_SECONDS = 1.0
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
        self.cannot_serve = False
        self._deadline = float("inf")
        self._beat_at = time.monotonic() + BEAT_SECONDS  # being entered in the ledger is a sign of life
        self._tidy_at = 0.0
        self._ready_told = False
        self._holds = False
        self._breaker = CircuitBreaker()
        self._serving = Serving(database, store, self._objective)
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
            self._serving.settle()
            self.ledger.leave(self.id)
        except (StorageError, *DATABASE_ERRORS) as error:
            if not self.stopping:
                raise
            log.warning("stopped while the database was away: %s", error, extra={"event": "outage"})
        except RustOptunaError:
            with suppress(StorageError, *DATABASE_ERRORS):
                self.ledger.leave(self.id)
            raise
        return self.finished

    @property
    def supervised(self) -> bool:
        """Whether a supervisor started this process, and passes on what it is asked."""
        return self._parent != 0

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
                self._serve_until_done(self._ready(names))
        except StopRequestedError:
            log.info("stopped while it made ready")

    def _serve_until_done(self, studies: Sequence[StudyKey]) -> None:
        while studies and not self._must_stop():
            self._tell_ready()
            self._tidy()
            # What was done, and is open again for new attempts at its holes, is another worker's business.
            studies = [study for study in studies if self._serving.get(study) is not None]
            if self._run_one(studies):
                continue
            # One that is being extended is not open for a while.
            left = self.ledger.open_studies(drawing=True).values()
            studies = [study for study in studies if study in left]
            if studies:
                self._idle(IDLE_SECONDS)

    def _serve_whatever_opens(self, names: Sequence[str]) -> None:
        """Take points of whatever study is open, of those named if any are; idle cheaply where there is none."""
        if missing := [name for name in names if find_study(self.database, name) is None]:
            log.warning("Waiting for studies that are not there yet: %s", ", ".join(missing))
        while not self._must_stop():
            self._tidy()
            open_ = self.ledger.open_studies().items()
            wanted = [(name, key) for name, key in open_ if not names or name in names]
            studies = [key for name, key in wanted if self._can_serve(name, key)]
            if studies or not wanted:
                self._tell_ready()
            if not (studies and self._run_one(studies)):
                seconds = IDLE_SECONDS if studies else NOTHING_OPEN_SECONDS
                self._idle(seconds * random.uniform(0.75, 1.25))  # noqa: S311 (jitter)

    def _tell_ready(self) -> None:
        """Say once in the ledger that this worker serves: its supervisor may be waiting to hear it."""
        if not self._ready_told:
            self.ledger.beat(self.id)
            self._ready_told = True

    def _idle(self, seconds: float) -> None:
        """Wait, at most until a stop is asked for; say now and then that this worker is there."""
        now = time.monotonic()
        if now > self._beat_at:
            self.ledger.beat(self.id)
            self._beat_at = now + BEAT_SECONDS
        sleep_unless(self._must_stop, seconds)

    def _tidy(self) -> None:
        """Now and then, tell Optuna what those could not who died, of any study; forget studies that are over."""
        now = time.monotonic()
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_SECONDS
        for name in self.ledger.untold():
            if (study := find_study(self.database, name)) is not None:
                with suppress(StudyError):  # deleted meanwhile
                    Mirror(self.database, study).reconcile()
        self._serving.keep(self.ledger.open_studies(drawing=True).values())

    def _run_one(self, studies: Sequence[StudyKey]) -> bool:
        """Claim a point and run it; return whether there was one."""
        claim = self.ledger.claim([study.id for study in studies], self.id)
        if claim is None:
            return False
        self._holds = True
        try:
            served = self._serving.get(claim.study_key)
            if served is None:
                self.ledger.release(claim, "its study was made anew", "machine")
                return False
            self._run(claim, served)
        finally:
            self._holds = False
        return True

    def _ready(self, names: Sequence[str]) -> list[StudyKey]:
        """Return the open studies, or the named ones of them, made ready for; those deleted meanwhile are left out."""
        there = names
        if self.supervised:  # by one who saw that all of them were there
            there = [name for name in names if find_study(self.database, name) is not None]
            for name in {*names} - {*there}:
                _tell_deleted(name)
            if names and not there:
                return []
        ready = []
        for study in studies_to_serve(self.database, there):
            if study.state != "open":
                continue
            with self._preparing():
                try:
                    self._serving.add(study)
                except Exception as error:
                    if self._was_deleted(study, error):
                        _tell_deleted(study.name)
                        continue
                    # A database that is away comes back, and a study that was deleted is not asked for again.
                    passing = isinstance(error, StorageError | StudyError)
                    unfit = isinstance(error, WrongStoreError | FingerprintError) or not passing
                    self.cannot_serve = isinstance(error, RustOptunaError) and unfit
                    raise
            ready.append(study.key)
        return ready

    def _was_deleted(self, study: Study, error: BaseException) -> bool:
        """Say whether it was the deletion of its study that ended what was done for it.

        Where the database is away, or a stop was asked for, the error says enough: it is not asked.
        """
        if isinstance(error, StopRequestedError | StorageError) or not isinstance(error, Exception):
            return False
        if isinstance(error, DATABASE_ERRORS) and not isinstance(error, sa.exc.IntegrityError):
            return False
        there = find_study(self.database, study.name)
        return there is None or there.key != study.key

    def _can_serve(self, name: str, key: StudyKey) -> bool:
        with self._preparing():
            return self._serving.try_to_add(name, key)

    @contextmanager
    def _preparing(self) -> Iterator[None]:
        """Do what may take long while no point is held: a stop ends it in its midst."""
        self.preparing = True
        try:
            self._stop_in_time()
            yield
        finally:
            self.preparing = False

    def _stop_in_time(self) -> None:
        if self._must_stop():
            raise StopRequestedError

    def _objective(self, study: Study) -> Objective:
        if self.stand_in is not None:
            return self.stand_in

        def progress(done: int, total: int) -> None:
            self._stop_in_time()  # a supervisor's death sends no signal
            if self.progress is not None:
                self.progress(done, total)

        return CrossValidationObjective(
            study,
            load_development(self.database, study),
            self.home,
            self.store,
            progress,
            self.data_root,
            self.database.patiently,
            FeaturePins(self.database, study),
        )

    def _run(self, claim: Claim, served: Served) -> None:
        """Run one claimed point to whatever end it comes to."""
        mirror, objective = served.mirror, served.objective
        where = _about(claim)
        log.info("claimed %s", json.dumps(claim.parameters), extra={"event": "claimed", **where})
        number: int | None = None
        outcome: Outcome | None = None
        try:
            with LeaseKeeper(self.ledger, claim, overdue=lambda: self.overdue(LAST_EPOCH_SECONDS)) as lease:
                trial = mirror.start(claim)
                number = trial.number
                state, outcome = self._evaluate(objective, claim, trial, lease)
                self.ledger.finish(claim, state, outcome.value, outcome.result, outcome.artifact)
        except LeaseLostError as error:
            if outcome is not None and outcome.artifact is not None:
                remove(self.store, [outcome.artifact])
            if self._was_deleted(served.study, error):
                _tell_deleted(claim.study)
                return
            log.warning("lost to another worker; its result is dropped", extra={"event": "lost", **where})
        except optuna.exceptions.UpdateFinishedTrialError:
            # By a reconciler, where the lease was lost; by somebody outside, where it was not.
            self.ledger.release(claim, FINISHED_ELSEWHERE, "machine")
            log.warning("its trial was finished elsewhere", extra={"event": "lost", **where})
        except StopRequestedError:
            self._give_back(mirror, claim, number, Fault("interrupted", "the worker was asked to stop", False))
            log.info("given back", extra={"event": "released", **where})
        except BaseException as error:
            if self._was_deleted(served.study, error):
                _tell_deleted(claim.study)
                return
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


def _tell_deleted(study: str) -> None:
    log.warning("%s was deleted", study, extra={"event": "deleted"})


def _about(claim: Claim) -> dict[str, object]:
    """Return what a line of the log says about the attempt it is of."""
    return {"study": claim.study, "point": claim.number, "attempt": claim.attempt}


def new_worker_id() -> str:
    """Return an identifier that no other worker ever had."""
    return f"{platform.node()[:40]}-{uuid.uuid4().hex[:12]}"


def stop_on_signals(worker: Worker) -> None:
    """Let the signals of `signals.ASKING` stop a worker: the first within its grace, the second at once.

    A warning is never a second one. Nor is what a supervisor sends after a warning that reached both of them, as a
    scheduler's does that signals all processes of a job.
    """
    heard: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        warned_only = all(each in signals.WARNING for each in heard)
        heard.append(number)
        if worker.stopping:
            if number in signals.WARNING or (worker.supervised and warned_only):
                return
            raise KeyboardInterrupt
        worker.stop()
        if worker.preparing:  # no point is held, and making ready may take long
            raise StopRequestedError

    signals.handle_with(handle)
