"""The fixed design of a study: every point it will run, drawn once by the study's own Optuna sampler.

Because it is drawn centrally, a design is the same for one worker and for a hundred. If each worker ran Optuna's
sampler itself, workers with the same seed would repeat each other's random points, and cells of a grid would run twice
or never. An adaptive design has empty slots instead, which `rust_optuna.search.drawing` fills.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rust_optuna.config import Range, StudyConfiguration, TrialConfiguration

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


def distributions(
    configuration: StudyConfiguration, constant: Mapping[str, Any] | None = None
) -> dict[str, BaseDistribution]:
    """Return the Optuna distribution of each searched key; a constant key's distribution holds its single value."""
    from optuna.distributions import FloatDistribution, IntDistribution

    single = {
        name: IntDistribution(value, value) if isinstance(value, int) else FloatDistribution(value, value)
        for name, value in (constant or {}).items()
    }
    return {**{name: _distribution(axis) for name, axis in configuration.search_space.items()}, **single}


def sampled_distributions(configuration: StudyConfiguration) -> dict[str, BaseDistribution]:
    """Return the distribution of each searched key as a sampler gets it: a list of choices stays a list."""
    from optuna.distributions import CategoricalDistribution

    return {
        name: CategoricalDistribution(axis.choices) if axis.type == "categorical" else _distribution(axis)  # type: ignore[arg-type]
        for name, axis in configuration.search_space.items()
    }


def _distribution(axis: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.type == "int":
        return IntDistribution(int(axis.low or 0), int(axis.high or 0), log=axis.log, step=int(axis.step or 1))
    if axis.type == "float":
        return FloatDistribution(float(axis.low or 0), float(axis.high or 0), log=axis.log, step=axis.step)
    numbers = [v for v in axis.choices if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(axis.choices) or len(numbers) < 2:
        return CategoricalDistribution(axis.choices)  # type: ignore[arg-type]
    # Numbers stay numbers so that dashboards draw an axis, which is logarithmic if it spans two decades or more.
    low, high = min(numbers), max(numbers)
    log = low > 0 and high / low >= 100
    if all(isinstance(v, int) for v in numbers):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def draw(configuration: StudyConfiguration) -> list[dict[str, Any]]:
    """Return the parameters of every point, in order.

    A random design is the beginning of the endless stream of its seed, so drawing more points continues it. A grid
    contains each cell once, in the order that its seed determines.

    Raises:
        ValueError: the design is adaptive, so that its points depend on results.
    """
    if configuration.adaptive:
        raise ValueError(f"{configuration.sampler} draws no point before it is run")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=_sampler(configuration))
    # The trials are asked for but never told: GridSampler treats a running cell as taken, but would stop the study once
    # the last cell is told.
    return [suggest(study.ask(), configuration) for _ in range(size(configuration))]


def slots(configuration: StudyConfiguration) -> Sequence[Mapping[str, Any] | None]:
    """Return the points of a design as they are entered at creation: None for each that is drawn later."""
    return [None] * size(configuration) if configuration.adaptive else draw(configuration)


def estimate(configuration: StudyConfiguration) -> list[dict[str, Any]]:
    """Return a design to reckon with before its points are known: random points in place of an adaptive design's."""
    return draw(replace(configuration, sampler="random") if configuration.adaptive else configuration)


def choices_of_features(configuration: StudyConfiguration) -> list[dict[str, Any]]:
    """Return one point for each combination of searched values that decides which features a trial is trained on.

    All other values are the lowest or the first of their axes.
    """
    axes = {
        name: axis.choices[: None if name in TrialConfiguration.FEATURE_KEYS else 1] or (axis.low,)
        for name, axis in configuration.search_space.items()
    }
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def size(configuration: StudyConfiguration) -> int:
    """Return the number of points in the whole design."""
    if configuration.n_trials is not None:
        return configuration.n_trials
    return math.prod(len(axis.choices) for axis in configuration.search_space.values())


def _sampler(configuration: StudyConfiguration) -> BaseSampler:
    import optuna

    if configuration.sampler == "random":
        return optuna.samplers.RandomSampler(seed=configuration.sampler_seed)
    axes = {name: list(axis.choices) for name, axis in configuration.search_space.items()}
    return optuna.samplers.GridSampler(axes, seed=configuration.sampler_seed)  # type: ignore[arg-type]


def suggest(trial: Any, configuration: StudyConfiguration) -> dict[str, Any]:
    """Let the sampler of a trial's study draw one point and return its parameters.

    The sampler gets a list of choices as it is; only the distribution that Optuna records may turn it into an interval.
    """
    parameters: dict[str, Any] = {}
    for name, axis in configuration.search_space.items():
        if axis.type == "categorical":
            parameters[name] = trial.suggest_categorical(name, axis.choices)
        elif axis.type == "int":
            parameters[name] = trial.suggest_int(name, axis.low, axis.high, log=axis.log, step=int(axis.step or 1))
        else:
            parameters[name] = trial.suggest_float(name, axis.low, axis.high, log=axis.log, step=axis.step)
    return parameters
