"""The metrics of a set of scores: average precision, ROC-AUC, precision and recall, and the baseline beside them.

Everything here is exact, in NumPy, and agrees with scikit-learn's definitions, including ties. scikit-learn itself
takes thirty times as long for a fold's 18 labels, which are scored 120 times per trial.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rust_optuna.data.manifest import CORTICES, LABELS, SUBSCORES, VIEWS

THRESHOLD = 0.5


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the average precision of each label.

    Average precision summarises a precision-recall curve as the mean of the precisions at each threshold, weighted by
    the increase in recall from the threshold before:

        AP = Σₙ (Rₙ − Rₙ₋₁) Pₙ

    where Pₙ and Rₙ are precision and recall at the n-th threshold, and every distinct score is a threshold. Films with
    equal scores enter together, so a constant score gives the label's prevalence. It is *not* the area under the curve
    by the trapezoidal rule, which is too optimistic, nor ``keras.metrics.AUC(curve="PR")``, which interpolates between
    200 fixed thresholds.

    The sum runs over positives here: a positive film at the n-th threshold contributes Pₙ/(number of positives), which
    is the same.

    Args:
        labels: (films, labels), 0 and 1.
        scores: (films, labels), finite; only their order matters.

    Returns:
        (labels,) float64 in [0, 1]; NaN for a label without positives, where scikit-learn gives 0.0 and a warning.

    Raises:
        ValueError: the shapes differ or are not (films, labels), a label is neither 0 nor 1, or a score is not finite.

    References:
        `sklearn.metrics.average_precision_score`, of which this is the value for every column.

    Examples:
        >>> labels = np.array([[0], [0], [1], [1]])
        >>> average_precision(labels, np.array([[0.1], [0.4], [0.35], [0.8]])).round(2)
        array([0.83])
        >>> average_precision(labels, np.zeros((4, 1)))
        array([0.5])
    """
    labels, scores = _checked(labels, scores)
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(labels, order, axis=0)
    _, last = _tied_runs(np.take_along_axis(scores, order, axis=0))
    true_positives = np.take_along_axis(ranked.cumsum(axis=0), last, axis=0)
    precision = true_positives / (last + 1)
    return _divide((ranked * precision).sum(axis=0), labels.sum(axis=0))


def expected_average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the expected average precision of each label when ties are broken at random.

    A model with distinct scores beats one with tied scores without knowing anything more: on few films, the average
    precision of a random ranking exceeds the prevalence, which is the value of a constant score. The gain is about
    H(n)/n for n films, where H(n) = 1 + 1/2 + … + 1/n: 0.05 for a hundred films. So a model that knows no more than a
    baseline reaches this expectation, not the average precision of the baseline's tied scores.

    Consider n tied films, R of them positive, below N films of which T are positive. A positive film among them takes
    each of the n places equally often, and its expected precision at place j is
    (T + 1 + (R − 1)(j − 1)/(n − 1)) / (N + j). For a constant score this is Bestgen's exact expectation.

    Args:
        labels: (films, labels), 0 and 1.
        scores: (films, labels), finite; only their order matters.

    Returns:
        (labels,) float64 in [0, 1]; NaN for a label without positives. Equal to `average_precision` without ties.

    Raises:
        ValueError: the arguments are invalid, as in `average_precision`.

    References:
        Y. Bestgen, "Exact Expected Average Precision of the Random Baseline for System Evaluation", Prague Bulletin of
        Mathematical Linguistics 103 (2015).

    Examples:
        >>> labels = np.array([[1], [0]])
        >>> expected_average_precision(labels, np.zeros((2, 1)))
        array([0.75])
        >>> average_precision(labels, np.zeros((2, 1)))
        array([0.5])
    """
    labels, scores = _checked(labels, scores)
    columns = zip(labels.T, scores.T, strict=True)
    sums = np.array([_expected_precisions(column, score) for column, score in columns])
    return _divide(sums, labels.sum(axis=0))


def _expected_precisions(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the sum of the expected precisions at the positives of one label when ties are broken at random."""
    total, films_above, positives_above = 0.0, 0, 0
    for score in np.unique(scores)[::-1]:
        tied = labels[scores == score]
        films, positives = len(tied), int(tied.sum())
        places = np.arange(films)
        before = positives_above + max(positives - 1, 0) * places / max(films - 1, 1)
        total += positives * float(np.mean((before + 1) / (films_above + places + 1)))
        films_above, positives_above = films_above + films, positives_above + positives
    return total


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the area under each label's receiver operating characteristic.

    It is the probability that a positive film scores above a negative one, where a tie counts one half: the
    Mann–Whitney statistic, computed from mid-ranks. Unlike average precision, it does not depend on the prevalence and
    it flatters rare labels: here a model that sees only the view reaches 0.81 (macro).

    Args:
        labels: (films, labels), 0 and 1.
        scores: (films, labels), finite; only their order matters.

    Returns:
        (labels,) float64 in [0, 1]; NaN for a label that lacks positives or negatives, for which it is not defined.

    Raises:
        ValueError: the arguments are invalid, as in `average_precision`.
    """
    labels, scores = _checked(labels, scores)
    order = np.argsort(scores, axis=0, kind="stable")
    first, last = _tied_runs(np.take_along_axis(scores, order, axis=0))
    middle = (first + last) / 2 + 1
    positives = labels.sum(axis=0)
    rank_sum = (np.take_along_axis(labels, order, axis=0) * middle).sum(axis=0)
    return _divide(rank_sum - positives * (positives + 1) / 2, positives * (len(labels) - positives))


def precision_and_recall(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return micro precision and recall, pooled over all labels and films; a score of 0.5 or more is positive.

    Precision is 0.0 if nothing is predicted (scikit-learn's ``zero_division=0``), and recall is 0.0 if nothing is
    positive.

    Args:
        labels: (films, labels), 0 and 1.
        scores: (films, labels), probabilities.

    Raises:
        ValueError: the arguments are invalid, as in `average_precision`.
    """
    labels, scores = _checked(labels, scores)
    predicted = scores >= THRESHOLD
    hits = int((predicted * labels).sum())
    return hits / max(int(predicted.sum()), 1), hits / max(int(labels.sum()), 1)


def macro(values: np.ndarray) -> float:
    """Return the unweighted mean over the labels that have a value; NaN if none has one."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def macro_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the objective: average precision, macro over the labels that have positives.

    Args:
        labels: (films, labels), 0 and 1.
        scores: (films, labels), finite.

    Raises:
        ValueError: the arguments are invalid, as in `average_precision`.
    """
    return macro(average_precision(labels, scores))


def view_only_scores(train_views: Sequence[str], train_labels: np.ndarray, views: Sequence[str]) -> np.ndarray:
    """Return the scores of a model that sees only a film's view, which are the baseline of every score.

    The score of a label is its frequency among the training films of that view. A view without training films gets the
    frequencies over all training films.

    Args:
        train_views: the views of the training films.
        train_labels: (training films, 18), 0 and 1.
        views: the views of the films to score.

    Returns:
        (films, 18) float64.

    Raises:
        ValueError: there is no training film.
    """
    if not len(train_labels):
        raise ValueError("a baseline needs training films")
    view_of = np.asarray(train_views)
    overall = train_labels.mean(axis=0, dtype=np.float64)
    frequencies = {view: train_labels[view_of == view].mean(axis=0, dtype=np.float64) for view in set(train_views)}
    return np.array([frequencies.get(view, overall) for view in views]).reshape(len(views), len(overall))


def summarise(labels: np.ndarray, scores: np.ndarray, cortices: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return every number that is reported about one fold's scores.

    Args:
        labels: (films, 18), 0 and 1, in the order of `LABELS`; the first two give a film's view.
        scores: (films, 18), probabilities.
        cortices: the cortices that the films of each view show. Average precision per cortex is macro over the cortex's
            four subscores among the films whose view shows it, including films on which it is unreadable.

    Returns:
        The numbers of `rust_optuna.data.scores.Scores` by name; NaN for a number that is not defined.

    Raises:
        ValueError: the arguments are invalid, as in `average_precision`.
    """
    of_labels = average_precision(labels, scores)
    precision, recall = precision_and_recall(labels, scores)
    return {
        "average_precision": macro(of_labels),
        "average_precision_16": macro(of_labels[len(VIEWS) :]),
        "roc_auc_macro": macro(roc_auc(labels, scores)),
        "roc_auc_micro": float(roc_auc(labels.reshape(-1, 1), scores.reshape(-1, 1))[0]),
        "precision": precision,
        "recall": recall,
        "per_cortex": {cortex: _of_cortex(labels, scores, cortices, cortex) for cortex in CORTICES},
    }


def summarise_untied(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return one fold's `expected_average_precision`, macro over all labels and over the 16 subscores.

    Args:
        labels: (films, 18), 0 and 1.
        scores: (films, 18), the scores of a baseline.

    Raises:
        ValueError: the arguments are invalid, as in `average_precision`.
    """
    of_labels = expected_average_precision(labels, scores)
    return {"average_precision": macro(of_labels), "average_precision_16": macro(of_labels[len(VIEWS) :])}


def deviation(folds: Sequence[float | None]) -> float | None:
    """Return the sample standard deviation over the folds that have a value; None if fewer than two have one."""
    defined = [value for value in folds if value is not None]
    return statistics.stdev(defined) if len(defined) > 1 else None


def lift(folds: Sequence[float | None], baseline: Sequence[float | None]) -> tuple[float, float] | None:
    """Return how far scores lie above a baseline: the mean of the folds' differences, and its standard error.

    Args:
        folds: the average precision in each fold.
        baseline: the baseline's average precision in the same folds.

    Returns:
        Mean and standard error; None if fewer than two folds have both values.
    """
    pairs = zip(folds, baseline, strict=True)
    differences = [value - base for value, base in pairs if value is not None and base is not None]
    spread = deviation(differences)
    return None if spread is None else (statistics.fmean(differences), spread / math.sqrt(len(differences)))


def labels_without_positives(labels: np.ndarray) -> list[str]:
    """Return the names of the labels that no film has, which macro averages leave out."""
    counts = np.asarray(labels).sum(axis=0)
    return [LABELS[position] for position in np.flatnonzero(counts == 0)]


def _of_cortex(labels: np.ndarray, scores: np.ndarray, cortices: Mapping[str, Sequence[str]], cortex: str) -> float:
    shown = np.zeros(len(labels), dtype=bool)
    for position, view in enumerate(VIEWS):
        if cortex in cortices.get(view, ()):
            shown |= labels[:, position] == 1
    start = len(VIEWS) + len(SUBSCORES) * CORTICES.index(cortex)
    columns = slice(start, start + len(SUBSCORES))
    return macro_average_precision(labels[shown, columns], scores[shown, columns])


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels as int64, and the scores.

    Raises:
        ValueError: the arguments are invalid, as in `average_precision`.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 2 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} are not both (films, labels)")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("a label is neither 0 nor 1")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return labels.astype(np.int64), scores


def _tied_runs(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each place of each sorted column, the first and the last place that holds an equal value."""
    count = len(ranked)
    places = np.arange(count)[:, np.newaxis]
    changes = ranked[1:] != ranked[:-1]
    edge = np.ones((min(count, 1), ranked.shape[1]), dtype=bool)
    starts = np.where(np.concatenate([edge, changes]), places, 0)
    ends = np.where(np.concatenate([changes, edge]), places, count)
    return np.maximum.accumulate(starts, axis=0), np.minimum.accumulate(ends[::-1], axis=0)[::-1]


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, which is NaN where the denominator is 0."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
