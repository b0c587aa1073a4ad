"""Whether predicted probabilities are too bold or too low: logistic regressions for many rows of weights at once.

A calibrated model has slope 1 and intercept 0. A slope below 1 says that its probabilities lie too near 0 and 1, an
intercept above 0 that they are too low on the whole.

References:
    D. R. Cox, "Two further applications of a model for binary regression", Biometrika 45 (1958).
    B. Van Calster et al., "Calibration: the Achilles heel of predictive analytics", BMC Medicine 17 (2019).
"""

from __future__ import annotations

import numpy as np

STEPS = 100
RIDGE = 1e-14
"""What is added to the curvature's diagonal, as a share of its trace. It moves no maximum."""
TOLERANCE = 1e-10
"""A regression is done once a step moves no film's linear predictor by more than this."""


def calibration_slope(probabilities: np.ndarray, outcomes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the slope b of the regression logit P(outcome) = a + b logit p.

    Args:
        probabilities: (n,), between 0 and 1, neither of them.
        outcomes: (n,) bool.
        weights: (B, n), whole numbers.

    Returns:
        (B,), NaN where no slope is the likeliest: all outcomes are the same, or a probability separates them (or so
        nearly that the slope grows and grows).
    """
    logits = _logit(probabilities)
    overlap = _overlap(logits, outcomes, weights)
    design = np.stack([np.ones_like(logits), logits], axis=1)
    start = np.array([0.0, 1.0])
    slopes = np.full(len(weights), np.nan)
    slopes[overlap] = _fit(design, np.zeros_like(logits), outcomes, weights[overlap], start)[:, 1]
    return slopes


def calibration_intercept(probabilities: np.ndarray, outcomes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the intercept a of the regression logit P(outcome) = a + logit p, "calibration in the large".

    Args:
        probabilities: as in `calibration_slope`.
        outcomes: (n,) bool.
        weights: (B, n), whole numbers.

    Returns:
        (B,), NaN where all outcomes are the same.
    """
    positives = weights @ outcomes.astype(np.float64)
    both = (positives > 0) & (positives < weights.sum(axis=1))
    logits = _logit(probabilities)
    intercepts = np.full(len(weights), np.nan)
    intercepts[both] = _fit(np.ones((len(logits), 1)), logits, outcomes, weights[both], np.zeros(1))[:, 0]
    return intercepts


def _logit(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(probabilities) - np.log1p(-probabilities))


def _overlap(values: np.ndarray, outcomes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return for which rows no value has all positives on one side of it and all negatives on the other, (B,) bool."""

    def ends(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = weights[:, which] > 0
        lowest = np.where(drawn, values[which], np.inf).min(axis=1, initial=np.inf)
        return lowest, np.where(drawn, values[which], -np.inf).max(axis=1, initial=-np.inf)

    lowest_negative, highest_negative = ends(~outcomes)
    lowest_positive, highest_positive = ends(outcomes)
    return np.asarray((highest_negative > lowest_positive) & (highest_positive > lowest_negative))


def _fit(
    design: np.ndarray, offset: np.ndarray, outcomes: np.ndarray, weights: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Return the likeliest coefficients of each row of weights, (B, p), by Newton's method.

    No step moves a linear predictor by more than 1. The likelihood then rises with each step, since its curvature
    changes by no more than a factor of e on the way, and the maximum is found from any start that is not too far away.

    Args:
        design: (n, p).
        offset: (n,), added to the linear predictor.
        outcomes: (n,) bool.
        weights: (B, n).
        start: (p,).

    Returns:
        NaN where `STEPS` steps have not reached a maximum.
    """
    terms = design.shape[1]
    products = (design[:, :, np.newaxis] * design[:, np.newaxis, :]).reshape(-1, terms * terms)
    coefficients = np.tile(start, (len(weights), 1))
    active = np.arange(len(weights))
    for _ in range(STEPS):
        rows = weights[active]
        chances = 1 / (1 + np.exp(-(coefficients[active] @ design.T + offset)))
        gradient = (rows * (outcomes - chances)) @ design
        curvature = ((rows * chances * (1 - chances)) @ products).reshape(-1, terms, terms)
        ridge = RIDGE * np.trace(curvature, axis1=1, axis2=2)[:, np.newaxis, np.newaxis] * np.eye(terms)
        step = np.linalg.solve(curvature + ridge, gradient[:, :, np.newaxis])[:, :, 0]
        largest = np.abs(step @ design.T).max(axis=1)
        coefficients[active] += step / np.maximum(largest, 1)[:, np.newaxis]
        active = active[largest > TOLERANCE]
        if not active.size:
            break
    coefficients[active] = np.nan
    return coefficients
