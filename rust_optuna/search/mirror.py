"""Optuna's side of a study: each attempt is an Optuna trial, so that dashboards and notebooks read everything.

The ledger decides; this module repeats its decisions in Optuna's tables. No transaction spans both, so after a crash at
any line ``Mirror.reconcile`` brings Optuna's trials back in step. It may run anywhere, any number of times.
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
"""Names of a trial's user attributes."""

_STATES = {AttemptState.COMPLETE: TrialState.COMPLETE, AttemptState.PRUNED: TrialState.PRUNED}

LONGEST_RESULT = 60_000
"""Characters of a result that Optuna shows: MariaDB's attributes hold 64 KB. The ledger keeps any length."""


class Mirror:
    """The Optuna study that shows one of ours.

    Args:
        database: where both live.
        study: ours.
        create: make the Optuna study where it is missing; only creation does.

    Raises:
        StudyError: there is no such Optuna study: ours was deleted meanwhile.

    It is loaded with ``RandomSampler`` whatever sampler drew the design: a sampler that only sees finished draws must
    not act on them (``GridSampler`` would stop the study).
    """

    def __init__(self, database: Database, study: Study, *, create: bool = False) -> None:
        self.database = database
        self.ledger = Ledger(database)
        self.study = study
        self.storage = database.storage
        if create:
            optuna.create_study(study_name=study.name, storage=self.storage, direction="maximize", load_if_exists=True)
        try:
            sampler = optuna.samplers.RandomSampler(seed=0)
            self.optuna_study = self._patiently(
                lambda: optuna.load_study(study_name=study.name, storage=self.storage, sampler=sampler)
            )
        except KeyError:
            raise StudyError(f"{study.name} was deleted") from None
        self.optuna_study_id = self._patiently(lambda: self.storage.get_study_id_from_name(study.name))
        self.constant = study.constant_hyperparameters
        self.distributions = design.distributions(study.configuration, self.constant)
        self._ids: dict[int, int] = {}

    def describe(self, runtime: Mapping[str, Any]) -> None:
        """Show on the Optuna study what computes its values: dashboards must not take a stand-in for real scores.

        Raises:
            StudyError: the study was deleted meanwhile.
        """
        try:
            self._patiently(lambda: self.optuna_study.set_user_attr("runtime", dict(runtime)))
        except KeyError:
            raise StudyError(f"{self.study.name} was deleted") from None

    def describe_study(self) -> None:
        """Show on the Optuna study what is the same for all its trials, and the note; what is shown is left alone."""
        study = self.study
        development = count_films(self.database, study)
        source = study.source.as_json() if study.source else None
        attributes: dict[str, Any] = {
            "fixed": plain_values(study.configuration.fixed),
            "inherited": plain_values(study.inherited),
            "model": plain_values(study.own_values),
            "source": source and {name: source[name] for name in ("study", "number", "point", "value", "differences")},
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
        """Make the waiting trial of every point that has none, in order.

        The caller holds the study's exclusive lock. Killed halfway and called again, it goes on where it stopped: a
        trial made but not yet noted in the ledger is recognised by its attributes.
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
            UpdateFinishedTrialError: somebody has finished the trial already.
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
        """Show how an attempt ended; leave a trial alone that is finished already (a reconciler was quicker).

        Args:
            number: the trial's number.
            outcome: the attempt's outcome in the ledger.
            value: its value where the outcome has one.
            result: the trial's ``result`` attribute: the JSON of its report, as the ledger keeps it.
        """
        self._patiently(lambda: self._tell(number, outcome, value, result))

    def reconcile(self) -> int:
        """Tell Optuna of every attempt that ended and that it has not been told of; return how many there were.

        Whoever made an attempt tells of its end. What died in between is repeated here: by any process, any number at
        once. It costs one small query where nothing is left to tell, however many trials there are. A trial without
        our attributes is somebody else's, and left alone.
        """
        untold = tables.attempt.c.shown == 0, tables.attempt.c.outcome != AttemptState.RUNNING
        if not self._attempts(*untold):
            return 0
        with self.database.exclusive(f"mirror:{self.study.name}"):
            rows = self._attempts(*untold)
            try:
                # An attempt that died before it noted its trial may have left one running.
                lost = self._running_trials() if any(row.trial is None for row in rows) else {}
                for row in rows:
                    noted = [] if row.trial is None else [row.trial]
                    for number in noted or lost.get((row.point, row.number), []):
                        self._tell_attempt(number, row)
                    self.ledger.mark_shown(row.point_id, row.number)
            except KeyError:
                return 0  # the study was deleted meanwhile
            return len(rows)

    def settle(self) -> None:
        """Reconcile, sweep and bring the note up to date: where a worker or its supervisor ends."""
        self.reconcile()
        self.sweep()
        with suppress(KeyError):  # the study was deleted meanwhile
            self.write_note()

    def sweep(self) -> int:
        """Fail the running trials that no running attempt owns; return how many there were.

        One is left where its maker died, or its lease ended, between making it and noting it in the ledger.
        """
        with self.database.exclusive(f"mirror:{self.study.name}"):
            try:
                # Trials first, ledger second: an attempt that begins in between is then seen as running.
                running = self._running_trials()
            except KeyError:
                return 0  # the study was deleted meanwhile
            # An attempt may end between the two readings: then its end is what its trial is told.
            points = tables.point.c.number.in_({point for point, _ in running})
            attempts = {(row.point, row.number): row for row in self._attempts(points)} if running else {}
            orphans = 0
            for key, numbers in running.items():
                row = attempts.get(key)
                for number in numbers:
                    if row is not None and row.trial == number:
                        if row.outcome != AttemptState.RUNNING:
                            self._tell_attempt(number, row)
                    # An attempt that has not noted its trial yet may be about to.
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
            return  # somebody was quicker, or the study was deleted meanwhile
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
        """Return the running trials of each point and attempt, by their own attributes.

        Past the cache of Optuna's study, which would first read all trials that are finished.
        """
        found: dict[tuple[int, int], list[int]] = {}
        for trial in self._patiently(
            lambda: self.storage.get_all_trials(self.optuna_study_id, deepcopy=False, states=(TrialState.RUNNING,))
        ):
            if POINT in trial.user_attrs and ATTEMPT in trial.user_attrs:
                found.setdefault((trial.user_attrs[POINT], trial.user_attrs[ATTEMPT]), []).append(trial.number)
        return found

    def _patiently(self, function: Callable[[], T]) -> T:
        return self.database.patiently(function)

    def _points_without_trial(self) -> list[Any]:
        point = tables.point
        query = sa.select(point.c.id, point.c.number, point.c.parameters)
        query = query.where(point.c.study_id == self.study.id, point.c.trial.is_(None), point.c.attempt == 0)
        return self.database.transact(lambda c: list(c.execute(query.order_by(point.c.number)).all()))

    def _add(self, state: TrialState, parameters: Mapping[str, Any], number: int, attempt: int) -> int:
        """Add a trial and return its number; parameters are checked against the distributions.

        It shows the hyperparameters that the study does not search, too: Optuna's best parameters are then all four.
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
        """Make the trial of an attempt once, though the answer to the making may be lost."""
        tried = False

        def make() -> int:
            nonlocal tried
            made = self._running_trials().get((claim.number, claim.attempt)) if tried else None
            tried = True
            return made[0] if made else self._add(TrialState.RUNNING, claim.parameters, claim.number, claim.attempt)

        return self._patiently(make)

    def _trial_id(self, number: int) -> int:
        """Return a trial's row; that of a trial which is being run is asked for once."""
        if number not in self._ids:
            self._ids[number] = self.storage.get_trial_id_from_study_id_trial_number(self.optuna_study_id, number)
        return self._ids[number]
