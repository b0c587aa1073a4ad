"""The configuration of a study and of one trial: every key with its type, range and default.

``study_file`` reads these from TOML. A *trial key* (a key of ``KEYS``) stands in exactly one place: its own section,
``[fixed]`` or ``[search_space]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Literal

Value = bool | int | float | str | tuple[int, ...]
"""The types that the value of a trial key can have."""


def plain(value: Value | None) -> Any:
    """Return a value in the form that TOML and JSON can hold: a list for a tuple."""
    return list(value) if isinstance(value, tuple) else value


def plain_values(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return values in the form that TOML and JSON can hold."""
    return {name: plain(value) for name, value in values.items()}


@dataclass(frozen=True)
class Key:
    """One trial key: where it stands in the study file, and which values it takes.

    Args:
        section: the TOML section; ``""`` for a hyperparameter, which only ``[fixed]`` or ``[search_space]`` may name.
        type: ``int``, ``float``, ``str``, ``bool`` or ``tuple`` (of positive integers).
        default: the default; None if the key is required.
        low: the lowest value.
        high: the highest value.
        exclusive_low: whether ``low`` itself is out of range.
        exclusive_high: whether ``high`` itself is out of range.
        choices: the permitted values of a string.
        named: a description of ``choices`` for messages, if there are too many to list.
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
        """Return a description of what is wrong with ``value``, or None."""
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
        """Convert a valid ``value`` to the key's own type: TOML's ``1`` for a float becomes ``1.0``."""
        converted: Value = tuple(value) if self.type is tuple else self.type(value)
        return converted


def _limit(number: float) -> str:
    """Return a limit in full precision, because a rounded one may itself be out of range."""
    return f"{number:,}" if isinstance(number, int) else repr(number)


def _numbered(kind: str, count: int) -> tuple[str, ...]:
    """Return the names that Keras gives ``count`` unnamed layers of one kind."""
    return (kind, *(f"{kind}_{number}" for number in range(1, count)))


LAYERS = (
    *(f"mixed{number}" for number in range(11)),
    *("mixed9_0", "mixed9_1"),
    *(name for kind in ("conv2d", "batch_normalization", "activation") for name in _numbered(kind, 94)),
    *_numbered("max_pooling2d", 4),
    *_numbered("average_pooling2d", 9),
    *_numbered("concatenate", 2),
)
"""The layers of InceptionV3 without its top that have features, by the names they get in a fresh process."""

PRECISIONS = ("float32", "bfloat16")
"""The precisions of matrix products and convolutions; stored values (weights, moments, features) are float32."""

KEYS: Mapping[str, Key] = {
    "batch_size": Key("", int, low=1),
    "dropout_rate": Key("", float, low=0, high=1, exclusive_high=True),
    "learning_rate": Key("", float, low=0, exclusive_low=True),
    "epsilon": Key("", float, low=0, exclusive_low=True),
    "architecture": Key("model", str, "inception_v3", choices=("inception_v3", "lenet_1998")),
    "train": Key("model", str, "head", choices=("head", "all")),
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
    "micro_batch": Key("model", int, 32, low=1),
    "epochs": Key("cross_validation", int, 20, low=1),
}
HYPERPARAMETERS = tuple(name for name, key in KEYS.items() if key.default is None)
"""The keys without a default, which a study searches or fixes."""

LATER_KEYS = ("bits", "architecture", "train", "micro_batch")
"""The keys that the first version did not have. A fingerprint leaves out their defaults, so that studies older than a
key keep theirs."""
UNSEARCHED = ("architecture", "train")
"""The keys that cannot be searched, because other keys mean nothing for some of their values."""
FROZEN_ONLY = ("weights_seed", "features", "extraction_precision", "standardize")
"""The keys of a frozen backbone and its features. A random start of what is trained end to end is drawn from the
fold's seed."""
INCEPTION_ONLY = ("weights", "output", "pooling", "hidden_units")
"""The other keys that LeNet-1998 does not have: its layers are fixed, and it starts from random weights."""

FOLDS = 6
SEED = 1337
"""The default seed of the folds, of training and of everything else that is drawn for a study."""
LEASE_SECONDS = 120
HOLDOUT = 0.15
"""The default share of films that is set aside as hold-out."""
CONTRAST = 1.0
"""The default contrast of drawn films, with which they show their scores as clearly as real films do."""


def misfit(key: str, architecture: str, train: str) -> str | None:
    """Return why a study may not set a key if its model is built and trained like this; None if it may.

    Args:
        key: a trial key that the study sets.
        architecture: the value of that key.
        train: the value of that key.

    Returns:
        The predicate of a sentence about the key.
    """
    if architecture == "lenet_1998":
        if key == "architecture" and train != "all":
            return 'is "lenet_1998", which has no frozen backbone: set train = "all"'
        if key in INCEPTION_ONLY or key in FROZEN_ONLY:
            return 'means nothing with architecture = "lenet_1998", whose layers are fixed: leave it out'
    if train == "all" and key in FROZEN_ONLY:
        return 'means nothing with train = "all", which has no frozen backbone: leave it out'
    if train == "head" and key == "micro_batch":
        return 'means nothing with train = "head": only train = "all" divides its batches into micro-batches'
    return None


def _default(name: str) -> Any:
    """Return the default of a trial key, for the field that holds its value."""
    return KEYS[name].default


class StudyKind(StrEnum):
    """What the points of a study are."""

    SEARCH = "search"
    """Hyperparameters, each cross-validated."""
    EVALUATION = "evaluation"
    """The folds of one model's fresh cross-validation."""
    SOURCES = "sources"
    """The folds of a cross-validation that leaves out one hospital or earlier study at a time."""
    COMPARISON = "comparison"
    """The folds of one configuration, which is compared with others."""


ADAPTIVE = ("tpe", "cma-es", "nsga-ii")
"""The samplers that draw each point when a worker is free, from the results so far."""
SAMPLERS = ("random", "grid", *ADAPTIVE)


@dataclass(frozen=True)
class Pruner:
    """The rule by which a trial ends early, applied after each epoch (`rust_optuna.search.pruning`).

    The options have the names, meanings and defaults of Optuna's ``MedianPruner`` and ``HyperbandPruner``.

    Args:
        type: ``median`` or ``hyperband``.
        n_startup_trials: for ``median``, the number of complete points before which none is pruned.
        n_warmup_steps: for ``median``, the first epoch after which a trial may be pruned.
        interval_steps: for ``median``, the number of epochs between judgements.
        min_resource: for ``hyperband``, the epoch of the first judgement in the strictest bracket.
        reduction_factor: for ``hyperband``, one in how many points goes on after each judgement.
    """

    type: Literal["median", "hyperband"]
    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    min_resource: int = 1
    reduction_factor: int = 3


PRUNER_OPTIONS: Mapping[str, Mapping[str, Key]] = {
    "none": {},
    "median": {
        "n_startup_trials": Key("", int, 5, low=0),
        "n_warmup_steps": Key("", int, 0, low=0),
        "interval_steps": Key("", int, 1, low=1),
    },
    "hyperband": {"min_resource": Key("", int, 1, low=1), "reduction_factor": Key("", int, 3, low=2)},
}
"""The types of pruners, each with its options."""

FOLD_KEYS: Mapping[str, Key] = {"repeat": Key("", int, low=0), "fold": Key("", int, low=0)}
"""The parameters of a point that is one fold: which training seed, and which fold is left out."""


@dataclass(frozen=True)
class BackboneConfiguration:
    """Everything that determines a film's features: the frozen backbone, its output layer and the preprocessing."""

    weights: str
    weights_seed: int = _default("weights_seed")
    output: str = _default("output")
    pooling: str = _default("pooling")
    image_size: int = _default("image_size")
    resize: str = _default("resize")
    extraction_precision: str = _default("extraction_precision")
    bits: int = _default("bits")


@dataclass(frozen=True)
class TrialConfiguration:
    """Everything that one trial is trained with: a design point merged with the values that its study fixes."""

    batch_size: int
    dropout_rate: float
    learning_rate: float
    epsilon: float
    backbone: BackboneConfiguration
    epochs: int = _default("epochs")
    standardize: bool = _default("standardize")
    flips: str = _default("flips")
    hidden_units: tuple[int, ...] = _default("hidden_units")
    features: str = _default("features")
    training_precision: str = _default("training_precision")
    architecture: str = _default("architecture")
    train: str = _default("train")
    micro_batch: int = _default("micro_batch")

    @property
    def end_to_end(self) -> bool:
        """Whether every layer is trained on the films, and not only a head on a frozen backbone's features."""
        return self.train == "all"

    @property
    def cached(self) -> bool:
        """Whether it trains on features from the cache."""
        return not self.end_to_end and self.features == "cached"

    FEATURE_KEYS: ClassVar[tuple[str, ...]] = (*BackboneConfiguration.__dataclass_fields__, "features")
    """The trial keys that decide which features a trial is trained on."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> TrialConfiguration:
        """Build the configuration from one value for every trial key."""
        backbone_keys = BackboneConfiguration.__dataclass_fields__
        backbone = BackboneConfiguration(**{name: values[name] for name in backbone_keys})
        others = {name: values[name] for name in KEYS if name not in backbone_keys}
        return cls(backbone=backbone, **others)


@dataclass(frozen=True)
class Range:
    """One axis of a search space: an interval of numbers or a list of values.

    Args:
        type: ``int``, ``float`` or ``categorical``.
        low: the lowest value of an interval.
        high: the highest value of an interval, included.
        log: whether to draw uniformly in the logarithm.
        step: the distance between the values that are drawn, starting at ``low``; None for a continuous range.
        choices: the values of a categorical axis.
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
        manifest: the manifest's path as written in the file, relative to the home; None for a study read back from the
            database, which holds no paths of films.
        sampler: ``random``, ``grid`` or one of `ADAPTIVE`.
        sampler_seed: the seed of the design.
        n_trials: the number of design points; None for a grid, which has one point per cell.
        search_space: the searched keys.
        fixed: the trial keys of ``[fixed]``.
        from_best_of: the study whose best point gives a value to every key that this file does not name; or several
            compared configurations, of which the best one does so; empty for none.
        model: the trial keys of ``[model]`` and ``[cross_validation]``; ``values`` fills in the defaults.
        folds: the number of cross-validation folds.
        seed: the seed of the folds and of all training.
        lease_seconds: how long a worker may be silent before its point goes to another worker.
        kind: what its points are. A study file describes a search, or a configuration to compare with others; commands
            make the other kinds.
        pruner: the rule by which trials end early; None if all train to their last epoch.
        left_open: those of ``folds`` and ``seed`` that the file does not name, so that ``from_best_of`` may give them a
            value other than the default.
        source: the name of the study file in messages, usually its path.
    """

    name: str
    manifest: str | None
    sampler: Literal["random", "grid", "tpe", "cma-es", "nsga-ii"]
    sampler_seed: int
    n_trials: int | None
    search_space: Mapping[str, Range]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    from_best_of: tuple[str, ...] = ()
    model: Mapping[str, Value] = field(default_factory=dict)
    folds: int = FOLDS
    seed: int = SEED
    lease_seconds: int = LEASE_SECONDS
    kind: StudyKind = StudyKind.SEARCH
    pruner: Pruner | None = None
    left_open: frozenset[str] = frozenset()
    source: str = field(default="", compare=False)

    @property
    def adaptive(self) -> bool:
        """Whether each point is drawn when a worker is free, from the results so far."""
        return self.sampler in ADAPTIVE

    def largest(self, name: str, inherited: Mapping[str, Any] | None = None) -> Any:
        """Return the largest value that a point may have for a trial key that takes numbers."""
        axis = self.search_space.get(name)
        if axis is None:
            return self.values({}, inherited)[name]
        return axis.high if axis.high is not None else max(axis.choices)

    def with_trials(self, n_trials: int) -> StudyConfiguration:
        """Return the same study with another number of trials."""
        return replace(self, n_trials=n_trials)

    def with_folds(self, folds: int | None, seed: int | None) -> StudyConfiguration:
        """Return the same study with these folds and seed if its file names none; None keeps the default."""
        values = {"folds": folds, "seed": seed}
        changes = {name: value for name, value in values.items() if value is not None and name in self.left_open}
        return replace(self, **changes, left_open=frozenset())  # type: ignore[arg-type]

    def values(self, parameters: Mapping[str, Any], inherited: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the value of every trial key that has one.

        In rising precedence, the values come from the defaults, the sections, the inherited values, ``[fixed]`` and the
        design point.

        Args:
            parameters: the design point.
            inherited: the values that ``from_best_of`` brought.
        """
        defaults = {name: key.default for name, key in KEYS.items() if key.default is not None}
        return {**defaults, **self.model, **(inherited or {}), **self.fixed, **parameters}

    def open_hyperparameters(self, inherited: Mapping[str, Any]) -> list[str]:
        """Return the hyperparameters that have no value."""
        named = {*self.search_space, *self.fixed, *inherited}
        return [name for name in HYPERPARAMETERS if name not in named]
