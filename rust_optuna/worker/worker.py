"""A worker, which claims points and runs them one after another until none is left."""

from __future__ import annotations

import logging
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rust_optuna.config import StudyKind
from rust_optuna.errors import (
    FingerprintError,
    RustOptunaError,
    StorageError,
    StudyError,
    WrongStoreError,
)
from rust_optuna.paths import Home
from rust_optuna.processes import GRACE_SECONDS, WORKER_ID, new_worker_id, sleep_unless
from rust_optuna.search.ledger import Claim, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.pins import FeaturePins
from rust_optuna.search.studies import Study, find_study, load_development, studies_to_serve
from rust_optuna.storage.artifacts import ArtifactStore
from rust_optuna.storage.database import Database
from rust_optuna.storage.outages import database_errors
from rust_optuna.storage.states import FaultKind, StudyState
from rust_optuna.storage.tables import StudyKey
from rust_optuna.worker.attempt import Attempt
from rust_optuna.worker.deletion import caused_by_deletion, log_deleted
from rust_optuna.worker.faults import CircuitBreaker
from rust_optuna.worker.folds import ComparedFoldObjective, FoldObjective
from rust_optuna.worker.lease import LAST_WORDS_SECONDS
from rust_optuna.worker.objective import CrossValidationObjective, Objective, StandInObjective
from rust_optuna.worker.serving import Served, Serving
from rust_optuna.worker.stopping import StopRequest, StopRequestedError

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""The time between looks at the queue while other workers run the last points."""
NOTHING_OPEN_SECONDS = 4.0
"""The time between looks for an open study, in a worker that serves for ever."""
BEAT_SECONDS = 60.0
"""The time between signs of life of a worker that has nothing to run."""
TIDY_SECONDS = 15.0
"""The time between looks for what dead workers left undone."""

Progress = Callable[[int, int], None]

OBJECTIVES: Mapping[StudyKind, type[CrossValidationObjective]] = {
    StudyKind.SEARCH: CrossValidationObjective,
    StudyKind.EVALUATION: FoldObjective,
    StudyKind.SOURCES: FoldObjective,
    StudyKind.COMPARISON: ComparedFoldObjective,
}
"""What runs the points of each kind of study."""


class Worker:
    """One worker in this process.

    Args:
        database: a database opened for writing; its patience decides which outages the worker outlasts.
        home: the root of relative paths.
        store: the artifact store for out-of-fold scores.
        objective: the ``MODULE:FUNCTION`` of a stand-in; None for the real objective.
        progress: a callback for each film whose features are computed.
        on_hashed: a callback for each file in ``data_root`` that is hashed.
        forever: whether to serve every open study, and to wait for one while none is open.
        grace: the seconds that a running trial may take to end after a request to stop.
        data_root: the folder that is searched for films that the film index lacks; None for no folder.
    """

    def __init__(
        self,
        database: Database,
        home: Home,
        store: ArtifactStore,
        *,
        objective: str | None = None,
        progress: Progress | None = None,
        on_hashed: Progress | None = None,
        forever: bool = False,
        grace: float = GRACE_SECONDS,
        data_root: Path | None = None,
    ) -> None:
        self.id = os.environ.get(WORKER_ID) or new_worker_id()
        self.database = database
        self.ledger = Ledger(database)
        self.home = home
        self.store = store
        self.stand_in = StandInObjective.load(objective) if objective else None
        self.progress = progress
        self.on_hashed = on_hashed
        self.forever = forever
        self.data_root = data_root
        self.stop_request = StopRequest(grace)
        self.finished = 0
        self.cannot_serve = False
        self._beat_at = time.monotonic() + BEAT_SECONDS  # the registration is a sign of life
        self._tidy_at = 0.0
        self._reported_ready = False
        self._holds_point = False
        self._breaker = CircuitBreaker()
        self._serving = Serving(database, store, self._objective)
        # The grace is for a point. A stopping worker without one waits only a moment for a database that is away.
        database.give_up = lambda: self.stop_request.overdue(LAST_WORDS_SECONDS - (0.0 if self._holds_point else grace))

    def run(self, names: Sequence[str] = ()) -> int:
        """Run points of the named studies, or of all open ones, until all of them are done, or for ever.

        The worker stays while others run the last points, so that a point whose worker dies is not left behind.

        Returns:
            The number of points that this worker finished.

        Raises:
            StudyError: a named study does not exist, or its creation was never finished.
            FingerprintError: this worker would not compute a study's numbers.
            StorageError: the artifact store is not this storage's, or the database is away for too long.
            CircuitBreakerError: several points failed in a row with the same error.
            RustOptunaError: films or weights are missing on this machine, or the machine failed.
        """
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "default")
        try:
            self.ledger.register(self.id, host=platform.node(), process=os.getpid(), device=device)
            self._serve_studies(names)
            self._serving.settle()
            self.ledger.leave(self.id)
        except (StorageError, *database_errors()) as error:
            if not self.stop_request.asked:
                raise
            log.warning("The worker stopped while the database was away: %s", error, extra={"event": "outage"})
        except RustOptunaError:
            with suppress(StorageError, *database_errors()):
                self.ledger.leave(self.id)
            raise
        return self.finished

    def stop(self) -> None:
        """Request a stop: the running point may end within the grace, and no other begins."""
        self.stop_request.ask()

    def _serve_studies(self, names: Sequence[str]) -> None:
        try:
            if self.forever:
                self._serve_whatever_opens(names)
            else:
                self._serve_until_done(self._make_ready(names))
        except StopRequestedError:
            log.info("The worker stopped while it made ready; it held no point")

    def _serve_until_done(self, studies: Sequence[StudyKey]) -> None:
        while studies and not self.stop_request.asked:
            self._report_ready()
            self._tidy()
            # A study that was done and then reopened, to retry its holes, is left to other workers.
            studies = [study for study in studies if self._serving.get(study) is not None]
            if self._run_one(studies):
                continue
            # A study that is being extended counts as open here.
            unfinished = self.ledger.open_studies(drawing=True).values()
            studies = [study for study in studies if study in unfinished]
            if studies:
                self._idle(IDLE_SECONDS)

    def _serve_whatever_opens(self, names: Sequence[str]) -> None:
        """Run points of every open study, or of those named, and wait cheaply while none is open."""
        if missing := [name for name in names if find_study(self.database, name) is None]:
            log.warning("Waiting for studies that do not exist yet: %s", ", ".join(missing))
        while not self.stop_request.asked:
            self._tidy()
            open_studies = self.ledger.open_studies().items()
            wanted = [(name, key) for name, key in open_studies if not names or name in names]
            studies = [key for name, key in wanted if self._can_serve(name, key)]
            if studies or not wanted:
                self._report_ready()
            if not (studies and self._run_one(studies)):
                seconds = IDLE_SECONDS if studies else NOTHING_OPEN_SECONDS
                self._idle(seconds * random.uniform(0.75, 1.25))  # noqa: S311 (jitter)

    def _report_ready(self) -> None:
        """Report once, in the ledger, that this worker is ready, for which its supervisor may be waiting."""
        if not self._reported_ready:
            self.ledger.beat(self.id)
            self._reported_ready = True

    def _idle(self, seconds: float) -> None:
        """Wait, at most until a stop is requested, and give a sign of life every `BEAT_SECONDS`."""
        now = time.monotonic()
        if now > self._beat_at:
            self.ledger.beat(self.id)
            self._beat_at = now + BEAT_SECONDS
        sleep_unless(lambda: self.stop_request.asked, seconds)

    def _tidy(self) -> None:
        """Every `TIDY_SECONDS`, show in Optuna what dead workers left unshown, and forget studies that are over."""
        now = time.monotonic()
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_SECONDS
        for name in self.ledger.untold():
            if (study := find_study(self.database, name)) is not None:
                with suppress(StudyError):  # deleted meanwhile
                    Mirror(self.database, study).reconcile()
        self._serving.forget_all_but(self.ledger.open_studies(drawing=True).values())

    def _run_one(self, studies: Sequence[StudyKey]) -> bool:
        """Claim a point and run it; return whether there was one."""
        claim = self.ledger.claim([study.id for study in studies], self.id)
        if claim is None:
            return False
        self._holds_point = True
        try:
            served = self._serving.get(claim.study_key)
            if served is None:
                self.ledger.release(claim, "its study was deleted and created again", FaultKind.MACHINE)
                return False
            self._run(claim, served)
        finally:
            self._holds_point = False
        return True

    def _make_ready(self, names: Sequence[str]) -> list[StudyKey]:
        """Make ready for the open studies, or for those named, and return their keys; leave out deleted studies."""
        existing = names
        if self.stop_request.supervised:  # the supervisor saw that all of them existed
            existing = [name for name in names if find_study(self.database, name) is not None]
            for name in {*names} - {*existing}:
                log_deleted(name)
            if names and not existing:
                return []
        ready = []
        for study in studies_to_serve(self.database, existing):
            if study.state != StudyState.OPEN:
                continue
            with self.stop_request.ends_preparation():
                try:
                    self._serving.add(study)
                except Exception as error:
                    if caused_by_deletion(self.database, study.name, study.key, error):
                        log_deleted(study.name)
                        continue
                    # A database that is away comes back, and a deleted study is not served again.
                    temporary = isinstance(error, StorageError | StudyError)
                    unfit = isinstance(error, WrongStoreError | FingerprintError) or not temporary
                    self.cannot_serve = isinstance(error, RustOptunaError) and unfit
                    raise
            ready.append(study.key)
        return ready

    def _can_serve(self, name: str, key: StudyKey) -> bool:
        with self.stop_request.ends_preparation():
            return self._serving.try_to_add(name, key)

    def _objective(self, study: Study) -> Objective:
        if self.stand_in is not None:
            return self.stand_in

        def stopping(show: Progress | None) -> Progress:
            def progress(done: int, total: int) -> None:
                self.stop_request.check()  # a supervisor's death sends no signal
                if show is not None:
                    show(done, total)

            return progress

        return OBJECTIVES[study.configuration.kind](
            study,
            load_development(self.database, study),
            self.home,
            self.store,
            progress=stopping(self.progress),
            data_root=self.data_root,
            patiently=self.database.patiently,
            pins=FeaturePins(self.database, study),
            on_hashed=stopping(self.on_hashed),
        )

    def _run(self, claim: Claim, served: Served) -> None:
        """Run one claimed point, and count its outcome."""
        attempt = Attempt(self.ledger, self.store, claim, served, self.stop_request)
        attempt.run()
        if attempt.finished:
            self.finished += 1
            self._breaker.success()
        elif attempt.fault is not None:
            self._breaker.failure((claim.study_id, claim.number), attempt.fault)
