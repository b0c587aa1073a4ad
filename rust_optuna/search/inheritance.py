"""What a study takes from the best point of another, and in what it differs from that study all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rust_optuna.config import KEYS, Value, plain, plain_values

FILMS, WEIGHTS_BYTES = "films", "weights_bytes"
"""The differences that are of no key of a study file."""


@dataclass(frozen=True)
class Settings:
    """The whole configuration of one trial, as another study may inherit it.

    Args:
        values: a value for every trial key.
        folds: of the cross-validation.
        seed: of the folds and of all training.
    """

    values: Mapping[str, Value]
    folds: int
    seed: int


@dataclass(frozen=True)
class Difference:
    """One thing in which a study differs from the one that it inherits from, although it does not search it.

    Args:
        key: a trial key, ``folds``, ``seed``, ``films`` (the development set) or ``weights_bytes``.
        here: the study's own; of films, how many there are.
        there: the other study's.
    """

    key: str
    here: Value
    there: Value

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Difference:
        """Return what ``as_json`` wrote."""
        here, there = (tuple(v) if isinstance(v, list) else v for v in (document["here"], document["there"]))
        return cls(document["key"], here, there)

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {"key": self.key, "here": plain(self.here), "there": plain(self.there)}

    def words(self, source: str) -> str:
        """Say it in one clause.

        Args:
            source: the name of the other study.
        """
        if self.key == FILMS:
            counts = f"{self.here} films here, {self.there} there"
            return f"the development films, their labels or their patients are not those of {source} ({counts})"
        if self.key == WEIGHTS_BYTES:
            return f"the bytes of the weights are not those of {source}"
        return f"{self.key} is {plain(self.here)} here and {plain(self.there)} in {source}"


@dataclass(frozen=True)
class Inheritance:
    """What a study took at its creation from the study that ``from_best_of`` names.

    Args:
        study: that study's name.
        trial: the number of the Optuna trial that shows its best point.
        point: the number of that point.
        value: its value.
        values: what was taken: the trial keys that the study says nothing about itself.
        folds: the number of folds that was taken; None where the study names its own, or an earlier version made it.
        seed: likewise.
        objective: what computed the value.
        differences: in what the study differs all the same.
    """

    study: str
    trial: int
    point: int
    value: float
    values: Mapping[str, Value]
    folds: int | None = None
    seed: int | None = None
    objective: str | None = None
    differences: tuple[Difference, ...] = field(default=())

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Inheritance:
        """Return what ``as_json`` wrote, by this version or by an earlier one, which took no folds."""
        taken = document.get("cross_validation", {})
        return cls(
            study=document["study"],
            trial=document["number"],
            point=document["point"],
            value=document["value"],
            values={name: KEYS[name].convert(value) for name, value in document["params"].items()},
            folds=taken.get("folds"),
            seed=taken.get("seed"),
            objective=document.get("objective"),
            differences=tuple(Difference.from_json(each) for each in document.get("differences", [])),
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        taken = {"folds": self.folds, "seed": self.seed}
        return {
            "study": self.study,
            "number": self.trial,
            "point": self.point,
            "value": self.value,
            "params": plain_values(self.values),
            "cross_validation": {name: value for name, value in taken.items() if value is not None},
            "objective": self.objective,
            "differences": [each.as_json() for each in self.differences],
        }
