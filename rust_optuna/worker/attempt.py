"""One attempt at a design point.

**This is where a claimed point is run.** Points are claimed in ``search.ledger``.
"""

from __future__ import annotations

import functools
import json
import logging
import traceback

import optuna

from rust_optuna.errors import LeaseLostError, RustOptunaError
from rust_optuna.learn.pruned_report import PrunedReport
from rust_optuna.search.ledger import FINISHED_ELSEWHERE, Claim, Ledger
from rust_optuna.storage.artifacts import ArtifactStore, remove
from rust_optuna.storage.outages import database_errors
from rust_optuna.storage.states import AttemptState, FaultKind
from rust_optuna.worker.deletion import caused_by_deletion, log_deleted
from rust_optuna.worker.faults import Fault, classify
from rust_optuna.worker.lease import LeaseKeeper
from rust_optuna.worker.objective import Outcome
from rust_optuna.worker.reporter import Reporter
from rust_optuna.worker.serving import Served
from rust_optuna.worker.stopping import StopRequest, StopRequestedError

log = logging.getLogger(__name__)

LAST_EPOCH_SECONDS = 1.0
"""How long a stopping worker waits for the current epoch to end before it exits."""


class Attempt:
    """One attempt at a design point.

    Args:
        ledger: the ledger that granted the claim.
        store: the artifact store for the trial's scores.
        claim: the claimed point.
        served: the point's study.
        stop: a request to stop, which ends the attempt early; the point is then given back.
    """

    def __init__(self, ledger: Ledger, store: ArtifactStore, claim: Claim, served: Served, stop: StopRequest) -> None:
        self.claim = claim
        self.finished = False
        """Whether this attempt has ended its point as complete or pruned."""
        self.fault: Fault | None = None
        """The fault that used up one of the point's attempts, if one did."""
        self._ledger = ledger
        self._store = store
        self._served = served
        self._mirror = served.mirror
        self._objective = served.objective
        self._stop = stop
        self._trial: int | None = None
        """The number of the attempt's trial in Optuna, once there is one."""
        self._log_fields: dict[str, object] = {"study": claim.study, "point": claim.number, "attempt": claim.attempt}
        """The fields by which a log line identifies this attempt."""

    def run(self) -> None:
        """Run the point, and report its end to the ledger and to Optuna.

        Raises:
            RustOptunaError: this machine failed, and the next point would meet the same trouble.
            KeyboardInterrupt: a second signal came.
        """
        outcome: Outcome | None = None
        try:
            overdue = functools.partial(self._stop.overdue, LAST_EPOCH_SECONDS)
            with LeaseKeeper(self._ledger, self.claim, overdue=overdue) as lease:
                self._draw()
                self._log(logging.INFO, "claimed", f"claimed {json.dumps(self.claim.parameters)}")
                trial = self._mirror.start(self.claim)
                self._trial = trial.number
                state, outcome = self._evaluate(trial, lease)
                self._ledger.finish(self.claim, state, outcome.value, outcome.report, outcome.artifact)
        except LeaseLostError as error:
            if outcome is not None and outcome.artifact is not None:
                remove(self._store, [outcome.artifact])
            if self._study_was_deleted(error):
                return
            self._log(logging.WARNING, "lost", "another worker took the point over; this attempt's result is dropped")
        except optuna.exceptions.UpdateFinishedTrialError:
            # If the lease was lost, a reconciler finished the trial; if not, somebody outside this program did.
            self._ledger.release(self.claim, FINISHED_ELSEWHERE, FaultKind.MACHINE)
            self._log(logging.WARNING, "lost", "somebody else finished the Optuna trial; the result is dropped")
        except StopRequestedError:
            self._give_back(Fault(FaultKind.INTERRUPTED, "the worker was asked to stop", False))
            self._log(logging.INFO, "released", "given back")
        except BaseException as error:
            if not self._study_was_deleted(error):
                self._fail(error)
        else:
            self.finished = True
            self._log(logging.INFO, state, f"{state} {outcome.value}")
            self._show_end(state, outcome)

    def _draw(self) -> None:
        """Draw the point if it is an empty slot of an adaptive design."""
        if not self.claim.drawn and self._served.drawing is not None:
            self.claim = self._served.drawing.draw(self.claim)

    def _evaluate(self, trial: optuna.Trial, lease: LeaseKeeper) -> tuple[AttemptState, Outcome]:
        """Return ``complete`` or ``pruned``, and the outcome; a pruned trial's value is its last intermediate value."""
        curve: list[float] = []
        pruning = self._served.pruning
        if pruning is not None:
            pruning.refresh()

        with Reporter(trial, afterwards=pruning.refresh if pruning else None) as reporter:

            def on_epoch(epoch: int, value: float) -> None:
                lease.finished_epoch()
                lease.check()
                if self._stop.overdue():
                    raise StopRequestedError
                reporter.report(epoch, value)
                if epoch <= len(curve):
                    return  # out of memory, the trial has started again
                curve.append(value)
                if pruning is not None and pruning.prunes(self.claim.number, curve):
                    raise optuna.TrialPruned

            try:
                return AttemptState.COMPLETE, self._objective(self.claim, trial, on_epoch, lease.advanced)
            except optuna.TrialPruned:
                if not curve:
                    return AttemptState.PRUNED, Outcome(None)
                return AttemptState.PRUNED, Outcome(curve[-1], PrunedReport(tuple(curve)))

    def _show_end(self, state: AttemptState, outcome: Outcome) -> None:
        """Show the end of the attempt, which the ledger holds already, in Optuna. A reconciler repeats what fails."""
        if self._trial is None:
            return
        try:
            report = None if outcome.report is None else outcome.report.to_json()
            self._mirror.tell(self._trial, state, outcome.value, report)
            self._ledger.mark_shown(self.claim.point_id, self.claim.attempt)
        except (RustOptunaError, *database_errors()) as error:
            name = type(error).__name__
            log.warning(
                "The end of trial %d is not shown in Optuna yet; a worker tries again soon: %s", self._trial, name
            )

    def _give_back(self, fault: Fault) -> None:
        if self._ledger.release(self.claim, fault.reason, fault.kind):
            self._show_end(AttemptState.RELEASED, Outcome(None))

    def _fail(self, error: BaseException) -> None:
        """End an attempt that raised: as failed if the error is the point's, else by giving the point back."""
        fault = classify(error)
        if not fault.of_the_point:
            self._give_back(fault)
            self._log(logging.ERROR, "released", f"given back: {fault.reason}")
            if isinstance(error, RustOptunaError) or not isinstance(error, Exception):
                raise error
            raise RustOptunaError(
                f"This machine failed while it ran point {self.claim.number} of {self.claim.study}; the point was "
                f"given back: {error}"
            ) from error
        self._log(logging.ERROR, "failed", f"failed: {fault.reason}\n{traceback.format_exc()}")
        if self._ledger.fail(self.claim, fault.reason, fault.kind):
            self._show_end(AttemptState.FAILED, Outcome(None))
        self.fault = fault

    def _study_was_deleted(self, error: BaseException) -> bool:
        """Return whether the deletion of the study ended the attempt, and log it if so."""
        deleted = caused_by_deletion(self._ledger.database, self.claim.study, self.claim.study_key, error)
        if deleted:
            log_deleted(self.claim.study)
        return deleted

    def _log(self, level: int, event: str, message: str) -> None:
        log.log(level, "%s", message, extra={"event": event, **self._log_fields})
