"""Drawing the slots of an adaptive design, each by the worker that has claimed it, from all results so far.

The worker claims an empty slot as it claims any point, so that the ledger alone decides who draws it. It then draws
under a lock of the study, which makes each draw see those before it, and stores the parameters in the ledger, which
accepts them from the lease's holder only. If it dies before that, the slot is still empty and is drawn anew by the next
worker; if it dies after that, the slot keeps its parameters.

CMA-ES and NSGA-II read again what they noted at earlier draws. These notes are kept where Optuna's samplers keep them,
in system attributes: those of the Optuna study, one for each slot, written before the ledger gets the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from rust_optuna.learn.pruned_report import curve_of
from rust_optuna.search.adaptive import AdaptiveDesign, ChangedSlotError, Notes, Slot, SlotState
from rust_optuna.search.ledger import Claim, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.storage import tables
from rust_optuna.storage.states import PointState

NOTES = "rust_optuna:draw:"
"""The system attribute of the Optuna study that holds a sampler's notes on a slot, followed by the slot's number."""
AT_ONCE = 500
"""The number of points that one query names: SQLite takes a limited number of values."""

_STATES = {
    PointState.WAITING: SlotState.DRAWN,
    PointState.RUNNING: SlotState.DRAWN,
    PointState.COMPLETE: SlotState.COMPLETE,
    PointState.PRUNED: SlotState.PRUNED,
    PointState.HOLE: SlotState.HOLE,
}


class Drawing:
    """The design of one study, as this process knows it. Each draw reads only what has changed since the last.

    Args:
        mirror: the mirror of the study, whose sampler is adaptive.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._database = mirror.database
        self._study = mirror.study
        self._ledger = Ledger(mirror.database)
        self._design: AdaptiveDesign | None = None

    def draw(self, claim: Claim) -> Claim:
        """Draw the empty slot of a claim, and return the claim with its parameters.

        Raises:
            LeaseLostError: this worker no longer holds the slot.
            KeyError: the study was deleted in the meantime.
        """
        with self._database.exclusive(f"draw:{self._study.name}"):
            try:
                design = self._up_to_date()
                parameters, notes = design.draw(claim.number)
                if notes != Notes():
                    self._note(claim.number, notes)
                self._ledger.record_draw(claim, parameters)
            except BaseException:
                # The design in memory may hold a draw that the ledger does not.
                self._design = None
                raise
        return replace(claim, parameters=parameters, drawn=True)

    def _up_to_date(self) -> AdaptiveDesign:
        """Return the design with everything that the ledger holds by now."""
        try:
            return self._read(self._design or AdaptiveDesign(self._study.configuration))
        except ChangedSlotError:
            return self._read(AdaptiveDesign(self._study.configuration))

    def _read(self, design: AdaptiveDesign) -> AdaptiveDesign:
        self._design = design
        changed = [number for number, state in self._states() if design.known.get(number) is not state]
        notes = self._notes() if any(number not in design.known for number in changed) else {}
        for slot in self._slots(changed):
            design.show(slot, notes.get(slot.number))
        return design

    def _states(self) -> list[tuple[int, SlotState]]:
        """Return the number and the state of every slot that is drawn, in order."""
        point = tables.point
        query = sa.select(point.c.number, point.c.state).order_by(point.c.number)
        query = query.where(point.c.study_id == self._study.id, point.c.parameters != tables.EMPTY)
        rows = self._database.transact(lambda connection: connection.execute(query).all())
        return [(row.number, _STATES[row.state]) for row in rows]

    def _slots(self, numbers: Sequence[int]) -> Iterator[Slot]:
        """Yield the named slots, in order."""
        point, attempt = tables.point, tables.attempt
        # The results of complete points are long, and no sampler reads more of them than their values.
        pruned = sa.and_(
            attempt.c.point_id == point.c.id,
            attempt.c.number == point.c.attempt,
            point.c.state == PointState.PRUNED,
        )
        columns = (point.c.number, point.c.state, point.c.parameters, point.c.value, attempt.c.result)
        query = sa.select(*columns).outerjoin(attempt, pruned).order_by(point.c.number)
        for start in range(0, len(numbers), AT_ONCE):
            some = point.c.number.in_(numbers[start : start + AT_ONCE])
            part = query.where(point.c.study_id == self._study.id, some)
            for row in self._database.transact(partial(_all, part)):
                curve = curve_of(row.result)
                yield Slot(row.number, _STATES[row.state], json.loads(row.parameters), row.value, curve)

    def _notes(self) -> dict[int, Notes]:
        """Return what the sampler noted at each draw; an empty dictionary for a sampler that notes nothing."""
        if self._study.configuration.sampler == "tpe":
            return {}
        storage, study = self._mirror.storage, self._mirror.optuna_study_id
        attributes = self._database.patiently(lambda: storage.get_study_system_attrs(study))
        return {
            int(name.removeprefix(NOTES)): Notes.from_json(document)
            for name, document in attributes.items()
            if name.startswith(NOTES)
        }

    def _note(self, number: int, notes: Notes) -> None:
        storage, study = self._mirror.storage, self._mirror.optuna_study_id
        document = notes.to_json()
        self._database.patiently(lambda: storage.set_study_system_attr(study, f"{NOTES}{number}", document))


def _all(query: sa.Select[Any], connection: sa.Connection) -> list[sa.Row[Any]]:
    return list(connection.execute(query).all())
