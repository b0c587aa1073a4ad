"""The metrics of `rust_optuna.data.metrics` for many rows of weights at once.

A film of weight w, a whole number, counts as w films that are alike in everything, the score included. A metric takes
rows of weights, (B, n), and returns one number for each, (B,), NaN where it is not defined. What does not depend on the
weights, the order of the scores above all, is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ranking:
    """The films of one label by falling score, where films with equal scores form a run.

    Args:
        order: (n,) positions of the films.
        bounds: (b,) places in that order, rising from 0, at which something is to be counted.
        first: (r,) which of the bounds is the first place of each of the r runs that hold a positive film.
        after: (r,) which of them is the place after the last of each run; b for the end.
        positives: (p,) positions of the positive films, in the same order.
        first_positive: (r,) place among the positives of the first of each run.
    """

    order: np.ndarray
    bounds: np.ndarray
    first: np.ndarray
    after: np.ndarray
    positives: np.ndarray
    first_positive: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> Ranking:
        """Rank films.

        Args:
            labels: (n,), 0 and 1.
            scores: (n,), finite; only their order matters.
        """
        order = np.argsort(-scores, kind="stable")
        ranked, positive = scores[order], labels[order] == 1
        begins = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        ends = np.concatenate([begins[1:], [len(order)]])
        in_run = np.add.reduceat(positive, begins, dtype=np.int64)
        holds = in_run > 0
        bounds = np.unique(np.concatenate([[0], begins[holds], ends[holds]]))
        bounds = bounds[bounds < len(order)]
        first, after = np.searchsorted(bounds, begins[holds]), np.searchsorted(bounds, ends[holds])
        return cls(order, bounds, first, after, order[positive], (in_run.cumsum() - in_run)[holds])

    def counts(self, weights: np.ndarray) -> Counts:
        """Count the films of each run that holds a positive, and those above it.

        Args:
            weights: (B, n); quick where the weights of a film lie side by side (Fortran's order).
        """
        films = _running_sum(np.add.reduceat(weights.T[self.order], self.bounds, axis=0))
        in_run = np.zeros((0, len(weights)))
        if len(self.positives):
            in_run = np.add.reduceat(weights.T[self.positives], self.first_positive, axis=0)
        positives = _running_sum(in_run)
        return Counts(
            films=films[-1],
            above=films[self.first],
            through=films[self.after],
            positives=positives[-1],
            positives_above=positives[:-1],
            positives_through=positives[1:],
            in_run=in_run,
        )


@dataclass(frozen=True, eq=False)
class Counts:
    """Weighted numbers of films for B rows of weights and the r runs of a ranking that hold a positive.

    Args:
        films: (B,) all of them.
        above: (r, B) films above each run.
        through: (r, B) films above each run or in it.
        positives: (B,) all that are positive.
        positives_above: (r, B) positive films above each run.
        positives_through: (r, B) positive films above each run or in it.
        in_run: (r, B) positive films of each run.
    """

    films: np.ndarray
    above: np.ndarray
    through: np.ndarray
    positives: np.ndarray
    positives_above: np.ndarray
    positives_through: np.ndarray
    in_run: np.ndarray

    def average_precision(self) -> np.ndarray:
        """Return the average precision, as `rust_optuna.data.metrics.average_precision` defines it."""
        # Where a row leaves out all films down to here, there are no positives either.
        precision = self.positives_through / np.maximum(self.through, 1)
        return divide((self.in_run * precision).sum(axis=0), self.positives)

    def roc_auc(self) -> np.ndarray:
        """Return the area under the receiver operating characteristic, as `rust_optuna.data.metrics.roc_auc`."""
        negatives = self.films - self.positives
        # Of the negatives that are tied with a positive, a half stands above it.
        above = ((self.above - self.positives_above) + (self.through - self.positives_through)) / 2
        below = (self.in_run * (negatives - above)).sum(axis=0)
        return divide(below, self.positives * negatives)

    def expected_average_precision(self) -> np.ndarray:
        """Return the average precision to be expected once ties are broken at random, copies of a film apart too.

        That is `rust_optuna.data.metrics.expected_average_precision`. With a = (R − 1)/(n − 1), the mean over the n
        places of a run is a sum of harmonic numbers H:

            (1/n) Σⱼ (T + 1 + a (j − 1))/(N + j) = a + (T + 1 − a (N + 1)) (H(N + n) − H(N))/n
        """
        most = int(self.films.max(initial=0))
        harmonic = np.concatenate([[0.0], (1 / np.arange(1, most + 1)).cumsum()])
        tied = self.through - self.above
        slope = np.maximum(self.in_run - 1, 0) / np.maximum(tied - 1, 1)
        steps = harmonic[self.through.astype(np.intp)] - harmonic[self.above.astype(np.intp)]
        rest = (self.positives_above + 1 - slope * (self.above + 1)) * steps / np.maximum(tied, 1)
        return divide((self.in_run * (slope + rest)).sum(axis=0), self.positives)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, NaN where the denominator is 0."""
    quotient = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of the values that are no NaN; NaN where none is."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def _running_sum(values: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, … rows."""
    sums = np.zeros((len(values) + 1, values.shape[1]))
    for row, value in enumerate(values):  # three times as quick as NumPy's cumsum over the first axis
        np.add(sums[row], value, out=sums[row + 1])
    return sums
