"""The mirror of a study in Optuna: each attempt is an Optuna trial, so that dashboards and notebooks can read it.

The ledger decides, and this module repeats its decisions in Optuna's tables. No transaction spans both, so after a
crash at any line ``Mirror.reconcile`` brings Optuna's trials back in step. It may run anywhere and any number of times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from rust_optuna.config import plain_values
from rust_optuna.errors import LeaseLostError, StudyError
from rust_optuna.search import design
from rust_optuna.search.ledger import Claim, Ledger
from rust_optuna.search.note import note_of, write_note
from rust_optuna.search.results import status
from rust_optuna.search.studies import Study, count_films, find_study
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import AttemptState

T = TypeVar("T")

POINT, ATTEMPT, RESULT = "point", "attempt", "result"
"""The names of a trial's user attributes."""

SHOWN_OF_SOURCE = ("study", "number", "point", "value", "differences", "candidates")
"""What the Optuna study shows of the study from which it takes values."""

_STATES = {AttemptState.COMPLETE: TrialState.COMPLETE, AttemptState.PRUNED: TrialState.PRUNED}

LONGEST_RESULT = 60_000
"""The greatest length of a result that Optuna shows, in characters, since an attribute holds 64 KB in MariaDB. The
ledger keeps results of any length."""


class Mirror:
    """The Optuna study that shows a study of the ledger.

    It is loaded with ``RandomSampler``, whichever sampler drew the design, because a sampler that sees finished trials
    might act on them: ``GridSampler`` would stop the study. It is loaded with Optuna's own pruner of the study's type,
    which only a stand-in objective asks; `rust_optuna.search.pruning` judges the real one.

    Args:
        database: the database of both studies.
        study: the study in the ledger.
        create: whether to make the Optuna study if it is missing; only the creation of a study does.

    Raises:
        StudyError: there is no such Optuna study, because the study was deleted in the meantime.
    """

    def __init__(self, database: Database, study: Study, *, create: bool = False) -> None:
        self.database = database
        self.ledger = Ledger(database)
        self.study = study
        self.storage = database.storage
        if create:
            optuna.create_study(study_name=study.name, storage=self.storage, direction="maximize", load_if_exists=True)
        try:
            sampler, pruner = optuna.samplers.RandomSampler(seed=0), _pruner(study)
            self.optuna_study = self._patiently(
                lambda: optuna.load_study(study_name=study.name, storage=self.storage, sampler=sampler, pruner=pruner)
            )
        except KeyError:
            raise StudyError(f"{study.name} was deleted") from None
        self.optuna_study_id = self._patiently(lambda: self.storage.get_study_id_from_name(study.name))
        self.constant = study.constant_hyperparameters
        self.distributions = design.distributions(study.configuration, self.constant)
        self._ids: dict[int, int] = {}

    def describe(self, runtime: Mapping[str, Any]) -> None:
        """Show on the Optuna study what computes its values, so that no stand-in's values pass for real scores.

        Raises:
            StudyError: the study was deleted in the meantime.
        """
        try:
            self._patiently(lambda: self.optuna_study.set_user_attr("runtime", dict(runtime)))
        except KeyError:
            raise StudyError(f"{self.study.name} was deleted") from None

    def describe_study(self) -> None:
        """Show on the Optuna study what its trials have in common, and the note; write only what has changed."""
        study = self.study
        development = count_films(self.database, study)
        source = study.source.to_json() if study.source else None
        attributes: dict[str, Any] = {
            "fixed": plain_values(study.configuration.fixed),
            "inherited": plain_values(study.inherited),
            "model": plain_values(study.own_values),
            "source": source and {name: source[name] for name in SHOWN_OF_SOURCE if name in source},
            "cross_validation": {"folds": study.configuration.folds, "seed": study.configuration.seed},
            "development": {**development, "fingerprint": study.fingerprint.films},
            "weights": list(study.fingerprint.weights),
            "fingerprint": study.fingerprint.sha256,
        }
        shown = self._patiently(lambda: self.storage.get_study_user_attrs(self.optuna_study_id))
        for name, value in attributes.items():
            if name not in shown or shown[name] != value:
                self._patiently(partial(self.storage.set_study_user_attr, self.optuna_study_id, name, value))
        self.write_note()

    def write_note(self) -> None:
        """Bring the study's note in optuna-dashboard up to date."""
        study = find_study(self.database, self.study.name)
        if study is not None and study.key == self.study.key:
            body = note_of(status(self.database, study))
            self._patiently(lambda: write_note(self.storage, self.optuna_study_id, body))

    def enqueue(self) -> None:
        """Make the waiting trial of every point that has none, in order. An empty slot gets its trial once it is drawn.

        The caller must hold the study's exclusive lock. If this is killed halfway, the next call goes on where it
        stopped: it recognises trials that the ledger does not know yet by their attributes.
        """
        rows = self._points_without_trial()
        if not rows:
            return
        trials = self.optuna_study.get_trials(deepcopy=False)
        known = {t.user_attrs[POINT]: t.number for t in trials if t.user_attrs.get(ATTEMPT) == 1}
        for row in rows:
            number = known.get(row.number)
            if number is None:
                number = self._add(TrialState.WAITING, json.loads(row.parameters), row.number, 1)
            self.ledger.show_waiting(row.id, number)

    def start(self, claim: Claim) -> optuna.Trial:
        """Return the running trial that shows a claimed attempt.

        Raises:
            LeaseLostError: the claim is no longer valid.
            UpdateFinishedTrialError: somebody else has finished the trial already.
        """
        number = claim.trial
        if number is None:
            number = self._make_trial(claim)
            try:
                self.ledger.record_trial(claim, number)
            except LeaseLostError:
                self.tell(number, AttemptState.LOST, None, None)
                raise
        else:
            self._patiently(lambda: self.storage.set_trial_state_values(self._trial_id(number), TrialState.RUNNING))
        return self._patiently(lambda: optuna.Trial(self.optuna_study, self._trial_id(number)))

    def tell(self, number: int, outcome: AttemptState, value: float | None, result: Mapping[str, Any] | None) -> None:
        """Show how an attempt ended; leave the trial alone if it is finished already, as by a quicker reconciler.

        Args:
            number: the trial's number.
            outcome: the attempt's outcome in the ledger.
            value: the attempt's value, if the outcome has one.
            result: the trial's ``result`` attribute: the JSON of its report, as the ledger keeps it.
        """
        self._patiently(lambda: self._tell(number, outcome, value, result))

    def reconcile(self) -> int:
        """Show in Optuna every ended attempt that it does not show yet; return the number of these attempts.

        Normally the worker that made an attempt shows its end. If it died before it could, this method does so. Any
        number of processes may call it at once. If nothing is left to show, it costs one small query, however many
        trials there are. A trial without this module's attributes is somebody else's and is left alone.
        """
        untold = tables.attempt.c.shown == 0, tables.attempt.c.outcome != AttemptState.RUNNING
        if not self._attempts(*untold):
            return 0
        with self.database.exclusive(f"mirror:{self.study.name}"):
            rows = self._attempts(*untold)
            try:
                # An attempt that died before it recorded its trial may have left the trial running.
                running = self._running_trials() if any(row.trial is None for row in rows) else {}
                for row in rows:
                    recorded = [] if row.trial is None else [row.trial]
                    for number in recorded or running.get((row.point, row.number), []):
                        self._tell_attempt(number, row)
                    self.ledger.mark_shown(row.point_id, row.number)
            except KeyError:
                return 0  # the study was deleted in the meantime
            return len(rows)

    def settle(self) -> None:
        """Reconcile, sweep, and bring the note up to date, as a worker or a supervisor does before it ends."""
        self.reconcile()
        self.sweep()
        with suppress(KeyError):  # the study was deleted in the meantime
            self.write_note()

    def sweep(self) -> int:
        """Fail the running trials that no running attempt owns; return their number.

        Such a trial is left if a worker dies, or its lease ends, after it made the trial and before it recorded it.
        """
        with self.database.exclusive(f"mirror:{self.study.name}"):
            try:
                # Trials are read before the ledger, so that an attempt that begins in between is seen as running.
                running = self._running_trials()
            except KeyError:
                return 0  # the study was deleted in the meantime
            # If an attempt ends between the two reads, its trial gets the attempt's outcome.
            points = tables.point.c.number.in_({point for point, _ in running})
            attempts = {(row.point, row.number): row for row in self._attempts(points)} if running else {}
            orphans = 0
            for key, numbers in running.items():
                row = attempts.get(key)
                for number in numbers:
                    if row is not None and row.trial == number:
                        if row.outcome != AttemptState.RUNNING:
                            self._tell_attempt(number, row)
                    # A running attempt that has recorded no trial yet may be about to, so its trial is left alone.
                    elif row is None or row.outcome != AttemptState.RUNNING or row.trial is not None:
                        self.tell(number, AttemptState.LOST, None, None)
                        orphans += 1
            return orphans

    def _tell(self, number: int, outcome: AttemptState, value: float | None, result: Mapping[str, Any] | None) -> None:
        state = _STATES.get(outcome, TrialState.FAIL)
        try:
            trial_id = self._trial_id(number)
            if result is not None and len(json.dumps(result)) <= LONGEST_RESULT:
                self.storage.set_trial_user_attr(trial_id, RESULT, dict(result))
            values = [value] if state is not TrialState.FAIL and value is not None else None
            self.storage.set_trial_state_values(trial_id, state, values)
        except (optuna.exceptions.UpdateFinishedTrialError, KeyError):
            return  # another process was quicker, or the study was deleted in the meantime
        self._ids.pop(number, None)

    def _tell_attempt(self, number: int, row: sa.Row[Any]) -> None:
        self.tell(number, row.outcome, row.value, json.loads(row.result) if row.result else None)

    def _attempts(self, *conditions: sa.ColumnElement[bool]) -> list[sa.Row[Any]]:
        """Return the study's attempts that meet all conditions, with the number and the value of their points."""
        point, attempt = tables.point, tables.attempt
        query = (
            sa.select(point.c.number.label("point"), point.c.value, attempt.c.point_id, attempt.c.number)
            .add_columns(attempt.c.outcome, attempt.c.trial, attempt.c.result)
            .join(point, attempt.c.point_id == point.c.id)
            .where(point.c.study_id == self.study.id, *conditions)
        )
        return self.database.transact(lambda connection: list(connection.execute(query).all()))

    def _running_trials(self) -> dict[tuple[int, int], list[int]]:
        """Return the numbers of the running trials of each point and attempt, according to the trials' attributes.

        This bypasses the cache of Optuna's study, which would first read all finished trials.
        """
        numbers: dict[tuple[int, int], list[int]] = {}
        for trial in self._patiently(
            lambda: self.storage.get_all_trials(self.optuna_study_id, deepcopy=False, states=(TrialState.RUNNING,))
        ):
            if POINT in trial.user_attrs and ATTEMPT in trial.user_attrs:
                numbers.setdefault((trial.user_attrs[POINT], trial.user_attrs[ATTEMPT]), []).append(trial.number)
        return numbers

    def _patiently(self, function: Callable[[], T]) -> T:
        return self.database.patiently(function)

    def _points_without_trial(self) -> list[Any]:
        point = tables.point
        query = sa.select(point.c.id, point.c.number, point.c.parameters)
        query = query.where(point.c.study_id == self.study.id, point.c.trial.is_(None), point.c.attempt == 0)
        query = query.where(point.c.parameters != tables.EMPTY)
        return self.database.transact(lambda c: list(c.execute(query.order_by(point.c.number)).all()))

    def _add(self, state: TrialState, parameters: Mapping[str, Any], number: int, attempt: int) -> int:
        """Add a trial and return its number; Optuna checks its parameters against the distributions.

        The trial also shows the hyperparameters that the study does not search, so that Optuna's best parameters are
        always all four.
        """
        template = optuna.create_trial(
            state=state,
            params={**self.constant, **parameters},
            distributions=self.distributions,
            user_attrs={POINT: number, ATTEMPT: attempt},
        )
        return self.storage.get_trial_number_from_id(
            self.storage.create_new_trial(self.optuna_study_id, template_trial=template)
        )

    def _make_trial(self, claim: Claim) -> int:
        """Make the trial of an attempt exactly once, even if the answer of the database is lost; return its number."""
        tried = False

        def make() -> int:
            nonlocal tried
            numbers = self._running_trials().get((claim.number, claim.attempt)) if tried else None
            tried = True
            if numbers:
                return numbers[0]
            return self._add(TrialState.RUNNING, claim.parameters, claim.number, claim.attempt)

        return self._patiently(make)

    def _trial_id(self, number: int) -> int:
        """Return the row of a trial; the row of a trial that runs is cached."""
        if number not in self._ids:
            self._ids[number] = self.storage.get_trial_id_from_study_id_trial_number(self.optuna_study_id, number)
        return self._ids[number]


def _pruner(study: Study) -> optuna.pruners.BasePruner:
    pruner = study.configuration.pruner
    if pruner is None:
        return optuna.pruners.NopPruner()
    if pruner.type == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=pruner.n_startup_trials,
            n_warmup_steps=pruner.n_warmup_steps,
            interval_steps=pruner.interval_steps,
        )
    return optuna.pruners.HyperbandPruner(
        min_resource=pruner.min_resource,
        max_resource=int(study.configuration.largest("epochs", study.inherited)),
        reduction_factor=pruner.reduction_factor,
    )
