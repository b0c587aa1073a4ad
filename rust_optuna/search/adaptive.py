"""An adaptive design in memory: the points so far, from which Optuna's own sampler draws the next one.

The points are kept as an Optuna study in this process, whose trial of each number shows the slot of that number. A draw
depends on that study, on the sampler's seed and on the slot's number, and on nothing else: not on the process, and not
on the order in which results arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from rust_optuna.config import StudyConfiguration
from rust_optuna.errors import MissingExtraError
from rust_optuna.search import design

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

NAME = "design"
"""The name of the study in memory."""


class SlotState(Enum):
    """What a sampler knows of a slot."""

    DRAWN = "drawn"
    """It waits or runs."""
    COMPLETE = "complete"
    PRUNED = "pruned"
    HOLE = "hole"


@dataclass(frozen=True)
class Notes:
    """What a sampler noted at a draw, and must read again at later draws; TPE notes nothing.

    Args:
        trial: the system attributes that it gave to the trial it drew.
        study: the system attributes that it gave to the study.
    """

    trial: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Notes:
        """Return the notes that `to_json` wrote."""
        return cls(document["trial"], document["study"])

    def to_json(self) -> dict[str, Any]:
        """Return a document that JSON can hold."""
        return {"trial": dict(self.trial), "study": dict(self.study)}


@dataclass(frozen=True)
class Slot:
    """A slot that has been drawn.

    Args:
        number: its number, from 0.
        state: its state.
        parameters: what was drawn.
        value: its value, if it is complete; if it was pruned, the last value of its curve, or None.
        curve: if it was pruned, its value after each epoch, as far as it is known.
    """

    number: int
    state: SlotState
    parameters: Mapping[str, Any]
    value: float | None = None
    curve: Sequence[float] = ()


class ChangedSlotError(Exception):
    """A slot whose new state does not follow from the one that is known, such as a hole that is tried again."""


class AdaptiveDesign:
    """The points so far of one study, and its sampler.

    Args:
        configuration: the study, whose sampler is adaptive.
    """

    def __init__(self, configuration: StudyConfiguration) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._configuration = configuration
        self._distributions = design.sampled_distributions(configuration)
        self._storage = optuna.storages.InMemoryStorage()
        optuna.create_study(study_name=NAME, storage=self._storage, direction="maximize")
        self._study_id = self._storage.get_study_id_from_name(NAME)
        self.known: dict[int, SlotState] = {}
        """The state of each slot that has been shown or drawn."""

    def show(self, slot: Slot, notes: Notes | None = None) -> None:
        """Let later draws see a slot, or its new state.

        Args:
            slot: the slot.
            notes: what the sampler noted when it drew the slot; needed when the slot is shown first.

        Raises:
            ChangedSlotError: the slot was shown in a state that does not change.
        """
        from optuna.trial import TrialState

        known = self.known.get(slot.number)
        if known is slot.state:
            return
        if known not in (None, SlotState.DRAWN):
            raise ChangedSlotError
        trial = self._trial(slot.number)
        if known is None:
            self._storage.set_trial_state_values(trial, TrialState.RUNNING)
            for name, value in slot.parameters.items():
                distribution = self._distributions[name]
                self._storage.set_trial_param(trial, name, distribution.to_internal_repr(value), distribution)
            for name, value in (notes.trial if notes else {}).items():
                self._storage.set_trial_system_attr(trial, name, value)
            for name, value in (notes.study if notes else {}).items():
                self._storage.set_study_system_attr(self._study_id, name, value)
        if slot.state is SlotState.COMPLETE and slot.value is not None:
            self._storage.set_trial_state_values(trial, TrialState.COMPLETE, [slot.value])
        elif slot.state is SlotState.PRUNED:
            for epoch, value in enumerate(slot.curve, 1):
                self._storage.set_trial_intermediate_value(trial, epoch, value)
            self._storage.set_trial_state_values(trial, TrialState.PRUNED)
        elif slot.state is SlotState.HOLE:
            self._storage.set_trial_state_values(trial, TrialState.FAIL)
        self.known[slot.number] = slot.state

    def draw(self, number: int) -> tuple[dict[str, Any], Notes]:
        """Draw a slot; later draws see it.

        Returns:
            Its parameters, and what the sampler noted.
        """
        import optuna
        from optuna.trial import TrialState

        # A new sampler for each slot: its random numbers depend on the seed and the slot alone.
        state = np.random.SeedSequence((self._configuration.sampler_seed, number)).generate_state(1, np.uint32)
        sampler = _SAMPLERS[self._configuration.sampler](int(state[0]))
        study = optuna.load_study(study_name=NAME, storage=self._storage, sampler=sampler)
        before = self._storage.get_study_system_attrs(self._study_id)
        trial = self._trial(number)
        self._storage.set_trial_state_values(trial, TrialState.RUNNING)
        parameters = design.suggest(optuna.trial.Trial(study, trial), self._configuration)
        self.known[number] = SlotState.DRAWN
        if self._configuration.sampler == "tpe":
            # What TPE notes is for trials whose parameters are not all drawn yet.
            return parameters, Notes()
        after = self._storage.get_study_system_attrs(self._study_id)
        new = {name: value for name, value in after.items() if name not in before}
        return parameters, Notes(self._storage.get_trial_system_attrs(trial), new)

    def _trial(self, number: int) -> int:
        """Return the trial of a slot; those of empty slots wait."""
        import optuna
        from optuna.trial import TrialState

        for _ in range(self._storage.get_n_trials(self._study_id), number + 1):
            empty = optuna.create_trial(state=TrialState.WAITING)
            self._storage.create_new_trial(self._study_id, template_trial=empty)
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def refuse_missing_sampler(configuration: StudyConfiguration) -> None:
    """Check that this machine can draw a study's points.

    Raises:
        MissingExtraError: the sampler needs a package that is not installed.
    """
    if configuration.sampler == "cma-es":
        try:
            import cmaes  # noqa: F401
        except ImportError:
            raise MissingExtraError("cmaes", "cma-es") from None


def _tpe(seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    # A point that others run counts as a bad one, so that workers do not all draw at the same place.
    return TPESampler(seed=seed, constant_liar=True)


def _cma_es(seed: int) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _nsga_ii(seed: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed)


_SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "cma-es": _cma_es, "nsga-ii": _nsga_ii}
