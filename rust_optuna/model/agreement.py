"""How far readers agree, and a model with them: ICC(2,1), quadratic-weighted kappa and Krippendorff's α.

The same functions serve several readers, and a model beside the label. Each takes ratings, (readers, units) with NaN
where a reader gave none, and rows of weights, (B, units), whole numbers: a unit of weight 2 counts as two units with
the same ratings. Each returns a number for every row of weights, (B,), NaN where it is not defined.

All three are 1 where the readers agree in everything and about 0 where they agree no more than by chance; none of them
is defined where all ratings are equal. They differ in what they do with missing ratings: the intraclass correlation
needs units that every reader rated, kappa takes each pair of readers on the units that both rated, and α uses each unit
that at least two readers rated.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from rust_optuna.model.weighted import mean_of_defined

ROUNDING = 1e-12
"""A denominator below this share of the terms that it is the difference of is a rounding error of 0."""


def intraclass_correlation(ratings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return ICC(2,1): the agreement in absolute values of single ratings, by readers who stand for other readers.

    With the mean squares of units, MSR, of readers, MSC, and of the rest, MSE, for k readers and n units:

        ICC(2,1) = (MSR − MSE) / (MSR + (k − 1) MSE + k (MSC − MSE)/n)

    It is *not* ICC(3,1), which forgives a reader who always gives more than the others.

    Args:
        ratings: (readers, units), NaN where a reader gave none; units that lack a rating are left out.
        weights: (B, units).

    Returns:
        (B,), NaN where fewer than two units are left or the ratings do not vary.

    Raises:
        ValueError: there are fewer than two readers, or the shapes do not fit.

    References:
        P. E. Shrout and J. L. Fleiss, "Intraclass correlations: uses in assessing rater reliability", Psychological
        Bulletin 86 (1979).
    """
    ratings = _checked(ratings, weights)
    complete = ~np.isnan(ratings).any(axis=0)
    rated, weights = ratings[:, complete].T, weights[:, complete]
    readers = rated.shape[1]
    units = weights.sum(axis=1)
    of_units, squares = rated.mean(axis=1), (rated**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_readers = weights @ rated / units[:, np.newaxis]
        mean = of_readers.mean(axis=1)
        total = weights @ squares - readers * units * mean**2
        between_units = readers * (weights @ of_units**2 - units * mean**2)
        between_readers = units * ((of_readers - mean[:, np.newaxis]) ** 2).sum(axis=1)
        rest = (total - between_units - between_readers) / ((units - 1) * (readers - 1))
        between_units, between_readers = between_units / (units - 1), between_readers / (readers - 1)
        spread = between_units + (readers - 1) * rest + readers * (between_readers - rest) / units
        return _ratio(between_units - rest, spread, weights @ squares)


def quadratic_kappa(ratings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa with quadratic weights, the mean over all pairs of readers (Light's kappa).

    With a and b the ratings of two readers, and a′ and b′ such ratings drawn each for itself:

        κ = 1 − E(a − b)² / E(a′ − b′)²

    Neither the number of categories nor categories that nobody used matter.

    Args:
        ratings: (readers, units), NaN where a reader gave none; a pair of readers is compared where both gave one.
        weights: (B, units).

    Returns:
        (B,), the mean over the pairs for which kappa is defined: those whose ratings are not all the same one.

    Raises:
        ValueError: there are fewer than two readers, or the shapes do not fit.

    References:
        J. Cohen, "Weighted kappa", Psychological Bulletin 70 (1968). R. J. Light, "Measures of response agreement for
        qualitative data", Psychological Bulletin 76 (1971).
    """
    ratings = _checked(ratings, weights)
    pairs = itertools.combinations(ratings, 2)
    return mean_of_defined(np.stack([_kappa(first, second, weights) for first, second in pairs], axis=1))


def krippendorff_alpha(
    ratings: np.ndarray, weights: np.ndarray, level: Literal["ordinal", "interval"] = "ordinal"
) -> np.ndarray:
    """Return Krippendorff's α = 1 − (disagreement observed) / (disagreement to be expected by chance).

    Two ratings disagree by the square of their difference. At the ordinal level a rating counts as its place among all
    ratings of the units that can be compared, equal ones sharing the middle of their places; at the interval level it
    counts as it is.

    Args:
        ratings: (readers, units), NaN where a reader gave none; a unit with fewer than two ratings is left out.
        weights: (B, units).
        level: of measurement.

    Returns:
        (B,), NaN where no unit is left or the ratings do not vary.

    Raises:
        ValueError: there are fewer than two readers, or the shapes do not fit.

    References:
        K. Krippendorff, Content Analysis (4th edition 2018), chapter 12.
    """
    ratings = _checked(ratings, weights)
    paired = (~np.isnan(ratings)).sum(axis=0) > 1
    ratings, weights = ratings[:, paired], weights[:, paired]
    given = ~np.isnan(ratings)
    values = np.where(given, ratings, 0)[np.newaxis]
    if level == "ordinal":
        values = np.where(given, _middle_places(values[0], given, weights), 0)
    count = given.sum(axis=0)
    sums, squares = values.sum(axis=1), (values**2).sum(axis=1)
    observed = (weights * (count * squares - sums**2) / (count - 1)).sum(axis=1)
    number = weights @ count
    square = number * (weights * squares).sum(axis=1)
    expected = square - (weights * sums).sum(axis=1) ** 2
    return 1 - _ratio((number - 1) * observed, expected, square)


def _kappa(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    both = ~np.isnan(first) & ~np.isnan(second)
    first, second, weights = first[both], second[both], weights[:, both]
    units = weights.sum(axis=1)
    squares = units * (weights @ (first**2 + second**2))
    expected = squares - 2 * (weights @ first) * (weights @ second)
    return 1 - _ratio(units * (weights @ (first - second) ** 2), expected, squares)


def _middle_places(values: np.ndarray, given: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return, for each row of weights, the middle of the places that each value takes, (B, readers, units)."""
    levels, codes = np.unique(values, return_inverse=True)
    codes = codes.reshape(values.shape)
    at_level = (codes == np.arange(len(levels))[:, np.newaxis, np.newaxis]) & given
    counts = weights @ at_level.sum(axis=1).T
    return np.asarray((counts.cumsum(axis=1) - counts / 2)[:, codes])


def _ratio(numerator: np.ndarray, denominator: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the quotient, NaN where the denominator is no more than a rounding error of the scale."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > ROUNDING * scale)
    return quotient


def _checked(ratings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ratings less a whole number in their midst, which changes no agreement but what is rounded."""
    ratings = np.asarray(ratings, dtype=np.float64)
    if ratings.ndim != 2 or len(ratings) < 2:
        raise ValueError(f"ratings are {ratings.shape}, not (two readers or more, units)")
    if weights.ndim != 2 or weights.shape[1] != ratings.shape[1]:
        raise ValueError(f"weights are {weights.shape}, not (rows, {ratings.shape[1]})")
    given = ratings[~np.isnan(ratings)]
    return ratings - np.rint(given.mean()) if given.size else ratings
