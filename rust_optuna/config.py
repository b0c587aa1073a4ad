"""The configuration of a study and of one trial: every key there is, its type, its range and its default.

``study_file`` reads these from TOML. A *trial key* (those of ``KEYS``) may stand in its own section, in ``[fixed]`` or
in ``[search_space]``, in one of them only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

Value = bool | int | float | str | tuple[int, ...]
"""What a trial key can be."""


def plain(value: Value | None) -> Any:
    """Return a value as what TOML and JSON can hold: a list for a tuple."""
    return list(value) if isinstance(value, tuple) else value


def plain_values(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return values as what TOML and JSON can hold."""
    return {name: plain(value) for name, value in values.items()}


@dataclass(frozen=True)
class Key:
    """One trial key: where it stands in the study file, and which values it takes.

    Args:
        section: the TOML section; ``""`` for a hyperparameter, which only ``[fixed]`` or ``[search_space]`` may name.
        type: ``int``, ``float``, ``str``, ``bool`` or ``tuple`` (of positive integers).
        default: None where the key must be given.
        low: the lowest value; ``exclusive_low`` says that it must be exceeded.
        high: the highest value; ``exclusive_high`` likewise.
        choices: the only values, for a string.
        named: how to speak of ``choices`` where there are too many to list.
    """

    section: Literal["", "model", "cross_validation"]
    type: type
    default: Value | None = None
    low: float | None = None
    high: float | None = None
    exclusive_low: bool = False
    exclusive_high: bool = False
    choices: tuple[str, ...] = ()
    named: str = ""

    def violation(self, value: object) -> str | None:
        """Say what is wrong with ``value``, or None."""
        if self.type is tuple:
            good = isinstance(value, list | tuple) and value and all(type(v) is int and v > 0 for v in value)
            return None if good else f"{value!r} is not a list of positive integers"
        accepted = (int, float) if self.type is float else (self.type,)
        if type(value) not in accepted:
            names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
            return f"{value!r} is not {names[self.type]}"
        if value == "":
            return "is empty"
        if self.choices and value not in self.choices:
            return f"{value!r} is not {self.named or 'one of ' + ', '.join(self.choices)}"
        return self._out_of_range(value) if isinstance(value, int | float) else None

    def _out_of_range(self, value: float) -> str | None:
        if isinstance(value, float) and not math.isfinite(value):
            return f"{value!r} is not a finite number"
        above = self.low is None or (value > self.low if self.exclusive_low else value >= self.low)
        below = self.high is None or (value < self.high if self.exclusive_high else value <= self.high)
        if above and below:
            return None
        bounds = []
        if self.low is not None:
            bounds.append(f"{'above' if self.exclusive_low else 'at least'} {_limit(self.low)}")
        if self.high is not None:
            bounds.append(f"{'below' if self.exclusive_high else 'at most'} {_limit(self.high)}")
        return f"{value!r} is out of range: it must be {' and '.join(bounds)}"

    def convert(self, value: Any) -> Value:
        """Return a valid ``value`` in the key's own type (TOML's ``1`` for a float becomes ``1.0``)."""
        converted: Value = tuple(value) if self.type is tuple else self.type(value)
        return converted


def _limit(number: float) -> str:
    """Return a limit to be read and typed: whole, for a rounded one may be out of range itself."""
    return f"{number:,}" if isinstance(number, int) else repr(number)


def _numbered(kind: str, count: int) -> tuple[str, ...]:
    """Return the names that Keras gives to ``count`` unnamed layers of one kind."""
    return (kind, *(f"{kind}_{number}" for number in range(1, count)))


LAYERS = (
    *(f"mixed{number}" for number in range(11)),
    *("mixed9_0", "mixed9_1"),
    *(name for kind in ("conv2d", "batch_normalization", "activation") for name in _numbered(kind, 94)),
    *_numbered("max_pooling2d", 4),
    *_numbered("average_pooling2d", 9),
    *_numbered("concatenate", 2),
)
"""The layers of InceptionV3 without its top that have features, by the names they have in a fresh process."""

PRECISIONS = ("float32", "bfloat16")
"""Of matrix products and convolutions; whatever is kept between them (weights, moments, features) is float32."""

KEYS: Mapping[str, Key] = {
    "batch_size": Key("", int, low=1),
    "dropout_rate": Key("", float, low=0, high=1, exclusive_high=True),
    "learning_rate": Key("", float, low=0, exclusive_low=True),
    "epsilon": Key("", float, low=0, exclusive_low=True),
    "weights": Key("model", str, "imagenet"),
    "weights_seed": Key("model", int, 0, low=0),
    "output": Key(
        "model", str, "mixed10", choices=LAYERS, named="a layer of InceptionV3: mixed0 to mixed10 are the usual ones"
    ),
    "pooling": Key("model", str, "max", choices=("max", "average")),
    "image_size": Key("model", int, 299, low=75, high=2048),
    "resize": Key("model", str, "stretch", choices=("stretch", "pad")),
    "bits": Key("model", int, 16, low=9, high=16),
    "features": Key("model", str, "cached", choices=("cached", "live")),
    "extraction_precision": Key("model", str, "float32", choices=PRECISIONS),
    "training_precision": Key("model", str, "float32", choices=PRECISIONS),
    "flips": Key("model", str, "both", choices=("both", "horizontal", "vertical", "none")),
    "standardize": Key("model", bool, False),
    "hidden_units": Key("model", tuple, (1024, 512, 256)),
    "epochs": Key("cross_validation", int, 20, low=1),
}
HYPERPARAMETERS = tuple(name for name, key in KEYS.items() if key.default is None)
"""The keys without a default: a study searches them or fixes them."""


class StudyKind(StrEnum):
    """What the points of a study are."""

    SEARCH = "search"
    """Hyperparameters, each cross-validated."""
    EVALUATION = "evaluation"
    """The folds of one model's fresh cross-validation."""
    SOURCES = "sources"
    """The folds of a cross-validation that leaves out one hospital or earlier study at a time."""


FOLD_KEYS: Mapping[str, Key] = {"repeat": Key("", int, low=0), "fold": Key("", int, low=0)}
"""The parameters of a point that is one fold: which training seed, and which fold is left out."""


@dataclass(frozen=True)
class BackboneConfiguration:
    """All that determines a film's features: the frozen backbone, where it is tapped, and how a film enters it."""

    weights: str
    weights_seed: int = 0
    output: str = "mixed10"
    pooling: str = "max"
    image_size: int = 299
    resize: str = "stretch"
    extraction_precision: str = "float32"
    bits: int = 16


@dataclass(frozen=True)
class TrialConfiguration:
    """Everything one trial is trained with: a design point merged with what its study fixes."""

    batch_size: int
    dropout_rate: float
    learning_rate: float
    epsilon: float
    backbone: BackboneConfiguration
    epochs: int = 20
    standardize: bool = False
    flips: str = "both"
    hidden_units: tuple[int, ...] = (1024, 512, 256)
    features: str = "cached"
    training_precision: str = "float32"

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> TrialConfiguration:
        """Build it from one value for every trial key."""
        in_backbone = BackboneConfiguration.__dataclass_fields__
        backbone = BackboneConfiguration(**{name: values[name] for name in in_backbone})
        others = {name: values[name] for name in KEYS if name not in in_backbone}
        return cls(backbone=backbone, **others)


@dataclass(frozen=True)
class Range:
    """One axis of a search space: an interval of numbers or a list of values.

    Args:
        type: ``int``, ``float`` or ``categorical``.
        low: the lowest value, for numbers.
        high: the highest value, included.
        log: draw uniformly in the logarithm.
        step: draw multiples of this above ``low``.
        choices: the values, for ``categorical``.
    """

    type: Literal["int", "float", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()


@dataclass(frozen=True)
class StudyConfiguration:
    """A whole study file, validated.

    Args:
        name: the study's name, unique in its storage.
        manifest: the path as given, relative to the home; None once read back from the database, which holds no paths
            of films.
        sampler: ``random`` or ``grid``.
        sampler_seed: seed of the design.
        n_trials: design points of a random study; None for a grid, which has one point a cell.
        search_space: the searched keys.
        fixed: trial keys given in ``[fixed]``.
        from_best_of: the study whose best point gives a value to all that this file does not name.
        model: trial keys of ``[model]`` and ``[cross_validation]`` as given; defaults are filled in by ``values``.
        folds: number of cross-validation folds.
        seed: seed of the folds and of all training.
        lease_seconds: how long a worker may be silent before its point goes to another.
        kind: what its points are. A study file describes a search; other kinds are made by commands.
        left_open: those of ``folds`` and ``seed`` that the file does not name: ``from_best_of`` may give them another
            value than their default.
        source: what to call it in messages: the path of the file, as a rule.
    """

    name: str
    manifest: str | None
    sampler: Literal["random", "grid"]
    sampler_seed: int
    n_trials: int | None
    search_space: Mapping[str, Range]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    from_best_of: str | None = None
    model: Mapping[str, Value] = field(default_factory=dict)
    folds: int = 6
    seed: int = 1337
    lease_seconds: int = 120
    kind: StudyKind = StudyKind.SEARCH
    left_open: frozenset[str] = frozenset()
    source: str = field(default="", compare=False)

    def with_trials(self, n_trials: int) -> StudyConfiguration:
        """Return the same study with another number of trials."""
        return replace(self, n_trials=n_trials)

    def with_folds(self, folds: int | None, seed: int | None) -> StudyConfiguration:
        """Return the same study with these folds and seed where its file names none; None leaves the default."""
        given = {"folds": folds, "seed": seed}
        taken = {name: value for name, value in given.items() if value is not None and name in self.left_open}
        return replace(self, **taken, left_open=frozenset())  # type: ignore[arg-type]

    def values(self, parameters: Mapping[str, Any], inherited: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a value for every trial key that has one: defaults, sections, inherited, ``[fixed]``, then the point.

        Args:
            parameters: the design point.
            inherited: what ``from_best_of`` brought.
        """
        defaults = {name: key.default for name, key in KEYS.items() if key.default is not None}
        return {**defaults, **self.model, **(inherited or {}), **self.fixed, **parameters}

    def open_hyperparameters(self, inherited: Mapping[str, Any]) -> list[str]:
        """Return the hyperparameters that nothing gives a value to."""
        given = {*self.search_space, *self.fixed, *inherited}
        return [name for name in HYPERPARAMETERS if name not in given]
