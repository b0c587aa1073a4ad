"""What scores are worth cortex by cortex: which subscore they call most probable, and whether they call one at all.

Each number has its interval and stands beside the same number of two trivial baselines on the same films. Films count
for a cortex where their view shows it, readable or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rust_optuna.data.manifest import CORTICES, SUBSCORES, VIEWS
from rust_optuna.model.agreement import quadratic_kappa
from rust_optuna.model.bootstrap import estimates
from rust_optuna.model.scored import UNREADABLE, ScoredFilms
from rust_optuna.model.weighted import divide, mean_of_defined

EPSILON = 1e-7
"""Scores count as no closer to 0 and 1 than this, so that their odds are finite; it is about float32's resolution."""
DECIMALS = 12
"""Probabilities that agree to so many decimals are equal: label frequencies often are, but for rounding."""
CLASSES = len(SUBSCORES) + 1
"""The four subscores and unreadable, which is the last."""


def subscore_distribution(scores: np.ndarray) -> np.ndarray:
    """Return how probable each subscore of each cortex is, and that the cortex is unreadable.

    A cortex has four scores, s₁ to s₄, as if its labels were independent. Given that at most one of them holds,

        p_k ∝ s_k ∏_{j≠k} (1 − s_j), and unreadable ∝ ∏ (1 − s_j),

    which is the same as odds, p_k ∝ s_k / (1 − s_k) and unreadable ∝ 1.

    Args:
        scores: (n, 18), probabilities, in the order of `LABELS`.

    Returns:
        (n, 4, 5) float64, above 0, summing to 1 over the last axis: cortices in the order of `CORTICES`, subscores 1 to
        4 and then unreadable. A cortex that the film's view does not show has one too, which means nothing.

    Examples:
        >>> scores = np.zeros((1, 18))
        >>> scores[0, 2:6] = 0.5, 0.5, 0.0, 0.0
        >>> subscore_distribution(scores)[0, 0].round(3)
        array([0.333, 0.333, 0.   , 0.   , 0.333])
    """
    sigmoids = np.asarray(scores, dtype=np.float64)[:, len(VIEWS) :].reshape(-1, len(CORTICES), len(SUBSCORES))
    sigmoids = np.clip(sigmoids, EPSILON, 1 - EPSILON)
    odds = np.concatenate([sigmoids / (1 - sigmoids), np.ones((*sigmoids.shape[:2], 1))], axis=2)
    return np.asarray(odds / odds.sum(axis=2, keepdims=True))


def most_probable(distributions: np.ndarray) -> np.ndarray:
    """Return the most probable class; of classes that are equal but for rounding, the first.

    Args:
        distributions: (..., classes), probabilities.

    Returns:
        (...) int.
    """
    return np.asarray(np.round(distributions, DECIMALS).argmax(axis=-1))


def cortex_numbers(films: ScoredFilms, weights: np.ndarray) -> dict[str, Any]:
    """Return the numbers of each cortex and their means over the cortices.

    Args:
        films: with the scores to judge.
        weights: (resamples, n), of `rust_optuna.model.bootstrap.patient_weights`.

    Returns:
        - ``cortices``: for each cortex that some film shows, its numbers of ``films``, ``patients`` and ``readable``
          films and, for each scorer:

          ``confusion`` (counts without intervals: a row for each label, 1 to 4 and unreadable, a column for each class
          called most probable); among the films with a readable label ``exact`` and ``within_one`` (accuracy of the
          most probable of the four subscores, exactly and give or take one), ``quadratic_kappa`` (of the same) and
          ``called_unreadable`` (the share for which unreadable is more probable than each subscore); among the others
          ``unreadable_found`` (the share of them for which it is).
        - ``mean``: for each scorer the means of these over the cortices in which they are defined.
    """
    positions = [position for position in range(len(CORTICES)) if films.shown[:, position].any()]
    distributions = {name: subscore_distribution(scores) for name, scores in films.by_scorer.items()}
    each = {
        CORTICES[position]: {
            name: _Cortex(films, position, distribution[:, position]) for name, distribution in distributions.items()
        }
        for position in positions
    }

    def statistics(weights: np.ndarray) -> dict[str, Any]:
        found = {
            cortex: {name: scorer.statistics(weights) for name, scorer in scorers.items()}
            for cortex, scorers in each.items()
        }
        return {"cortices": found, "mean": {name: _mean([of[name] for of in found.values()]) for name in distributions}}

    numbers = estimates(statistics, weights)
    for position in positions:
        cortex, shown = CORTICES[position], np.flatnonzero(films.shown[:, position])
        scorers = {
            name: {"confusion": scorer.confusion(), **numbers["cortices"][cortex][name]}
            for name, scorer in each[cortex].items()
        }
        numbers["cortices"][cortex] = {
            "films": len(shown),
            "patients": len({films.patients[film] for film in shown}),
            "readable": int((films.classes[shown, position] != UNREADABLE).sum()),
            **scorers,
        }
    return numbers


class _Cortex:
    """One cortex, as one scorer sees it.

    Args:
        films: which of them show it is looked up.
        position: of the cortex.
        distribution: (n, 5), of the cortex.
    """

    def __init__(self, films: ScoredFilms, position: int, distribution: np.ndarray) -> None:
        self._shown = films.shown[:, position]
        self._labels = films.classes[self._shown, position]
        self._called = most_probable(distribution[self._shown])
        self._subscore = most_probable(distribution[self._shown, :UNREADABLE])

    def confusion(self) -> list[list[int]]:
        counts = np.bincount(self._labels * CLASSES + self._called, minlength=CLASSES**2)
        return [[int(count) for count in row] for row in counts.reshape(CLASSES, CLASSES)]

    def statistics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        weights = weights.T[self._shown].T
        readable = self._labels != UNREADABLE
        called_unreadable = self._called == UNREADABLE
        error = np.abs(self._labels - self._subscore)

        def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
            return divide(weights @ (part & whole).astype(np.float64), weights @ whole.astype(np.float64))

        ratings = np.where(readable, np.stack([self._labels, self._subscore]), np.nan)
        return {
            "exact": share(error == 0, readable),
            "within_one": share(error <= 1, readable),
            "quadratic_kappa": quadratic_kappa(ratings, weights),
            "unreadable_found": share(called_unreadable, ~readable),
            "called_unreadable": share(called_unreadable, readable),
        }


def _mean(cortices: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = cortices[0]
    return {name: mean_of_defined(np.stack([cortex[name] for cortex in cortices], axis=1)) for name in names}
