"""Intervals by resampling patients: every number is a function of weights, for all resamples at once.

Films of one patient are no independent evidence, so whole patients are drawn. A resample is then a row of weights: how
often each film is in it. A statistic takes such rows and returns a number for each, NaN where the number is not
defined, as average precision is not for a label that no film of the resample has. A weight of 2 stands for the same
film twice, and weights of one give the number of the films themselves.

References:
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile intervals).
    C. A. Field and A. H. Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69 (2007).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rust_optuna.model.scored import Estimate

RESAMPLES = 2000
SEED = 0
CHUNK = 2**18
"""How many weights are looked at in one go: 2 MiB, and some ten times that in a statistic's intermediate results."""


def patient_weights(patients: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Draw as many patients as there are, with replacement, again and again.

    The same patients give the same weights on every machine, in whatever order their films stand.

    Args:
        patients: the patient of each of n films.
        resamples: how many times to draw.
        seed: of NumPy's PCG64.

    Returns:
        (resamples, n) float64 in Fortran's order, whole numbers: how often each film's patient was drawn. The films
        themselves, weights of one, are not among them.
    """
    names, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    counts = np.array([np.bincount(row, minlength=len(names)) for row in drawn], dtype=np.float64)
    return np.ascontiguousarray(counts.T)[patient_of].T


@dataclass(frozen=True, eq=False)
class Inflated:
    """Values of a statistic that resampling itself inflates; its interval is shifted down by as much.

    A resample holds some films twice. Average precision rewards that: in any ranking the copies stand together, so that
    each positive film seems to be found among more of its kind than there are. A mean over 16 labels varies too little
    to hide it: on 420 films whose subscores are ranked at random, the resamples' mean lies 0.012 above the value, more
    than a standard error. In simulations with 20 to 150 patients, percentiles as they are then covered the mean over
    all data sets in 74% of them, and called one model in four that knew nothing better than its baseline; with some
    skill they covered it in 83 to 87%. Shifted so that the resamples' mean is the value, they covered it in 93 to 99%,
    and one such model in fifty passed. The average precision of a single label needs no shift: its interval covers as
    much without.

    Args:
        values: (B,) float64, NaN where not defined.
        limits: between which the number lies; the interval ends there.
    """

    values: np.ndarray
    limits: tuple[float, float] = (0.0, 1.0)


def estimates(statistics: Callable[[np.ndarray], Mapping[str, Any]], weights: np.ndarray) -> dict[str, Any]:
    """Return numbers with their intervals, for statistics that share their work.

    Args:
        statistics: weights (B, n) → numbers by name, each (B,) float64, NaN where it is not defined; a value may be
            a mapping of further numbers, or `Inflated`.
        weights: (resamples, n), of `patient_weights`.

    Returns:
        the same names, each with its `Estimate`.
    """
    values = statistics(np.ones((1, weights.shape[1])))
    return _estimates(values, [statistics(rows) for rows in _chunks(weights)])


def _chunks(weights: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(CHUNK // weights.shape[1], 1)
    for start in range(0, len(weights), rows):
        yield weights[start : start + rows]


def _estimates(values: Mapping[str, Any], chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        of_name = [chunk[name] for chunk in chunks]
        if isinstance(value, Mapping):
            found[name] = _estimates(value, of_name)
        elif isinstance(value, Inflated):
            found[name] = _shifted(value, np.concatenate([each.values for each in of_name]))
        else:
            found[name] = Estimate.of(value.item(), np.concatenate(of_name))
    return found


def _shifted(value: Inflated, resampled: np.ndarray) -> Estimate:
    """Return the estimate of values whose mean over the resamples is made to be the value on the films themselves."""
    if np.isnan(resampled).all():
        return Estimate.of(value.values.item(), resampled)
    shift = value.values.item() - np.nanmean(resampled)
    return Estimate.of(value.values.item(), np.clip(resampled + shift, *value.limits))
