"""What a study takes from the best point of another, and how it still differs from that study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rust_optuna.config import KEYS, Value, plain, plain_values

FILMS, WEIGHTS_BYTES = "films", "weights_bytes"
"""The differences that no key of a study file stands for."""


@dataclass(frozen=True)
class Settings:
    """The whole configuration of one trial, as another study may inherit it.

    Args:
        values: the value of every trial key.
        folds: the number of folds of the cross-validation.
        seed: the seed of the folds and of all training.
    """

    values: Mapping[str, Value]
    folds: int
    seed: int


@dataclass(frozen=True)
class Difference:
    """One difference between a study and the one that it inherits from, in a key that it does not search.

    Args:
        key: a trial key, ``folds``, ``seed``, ``films`` (the development set) or ``weights_bytes``.
        here: the study's own value; for films, their number.
        there: the source study's value.
    """

    key: str
    here: Value
    there: Value

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Difference:
        """Return the difference that ``to_json`` wrote."""
        here, there = (tuple(v) if isinstance(v, list) else v for v in (document["here"], document["there"]))
        return cls(document["key"], here, there)

    def to_json(self) -> dict[str, Any]:
        """Return a document that JSON can hold."""
        return {"key": self.key, "here": plain(self.here), "there": plain(self.there)}

    def words(self, source: str) -> str:
        """Describe the difference in one clause.

        Args:
            source: the name of the source study.
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
        study: the source study's name.
        trial: the number of the Optuna trial that shows the source's best point; None if the source is a configuration
            that was compared with others, which has no best point.
        point: the number of that point; None likewise.
        value: the value of that point, or of the compared configuration.
        values: the inherited values, one for each trial key that the study's own file leaves out.
        folds: the inherited number of folds; None if the study names its own, or if an earlier version created it.
        seed: the inherited seed; None in the same cases.
        objective: the objective that computed the value.
        differences: how the study still differs from its source.
        candidates: the value of each configuration of which the source is the best; empty for a search.
    """

    study: str
    trial: int | None
    point: int | None
    value: float
    values: Mapping[str, Value]
    folds: int | None = None
    seed: int | None = None
    objective: str | None = None
    differences: tuple[Difference, ...] = field(default=())
    candidates: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """Where the values come from, as what follows "inherited from"."""
        if self.point is not None:
            return f"{self.study}, trial {self.trial} (point {self.point})"
        others = [f"{name} {value:.4f}" for name, value in self.candidates.items() if name != self.study]
        return f"{self.study} {self.value:.4f}" + (f", the best of it and {', '.join(others)}" if others else "")

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Inheritance:
        """Return the inheritance that ``to_json`` wrote, in this version or in an earlier one, which took no folds."""
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
            differences=tuple(Difference.from_json(difference) for difference in document.get("differences", [])),
            candidates=document.get("candidates", {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a document that JSON can hold."""
        taken = {"folds": self.folds, "seed": self.seed}
        return {
            "study": self.study,
            "number": self.trial,
            "point": self.point,
            "value": self.value,
            "params": plain_values(self.values),
            "cross_validation": {name: value for name, value in taken.items() if value is not None},
            "objective": self.objective,
            "differences": [difference.to_json() for difference in self.differences],
            **({"candidates": dict(self.candidates)} if self.candidates else {}),
        }
