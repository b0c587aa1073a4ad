"""The scores of a trial: each number's mean over the folds beside the folds' own values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from rust_optuna.data.metrics import macro


@dataclass(frozen=True)
class Score:
    """One number of a trial.

    Args:
        mean: over the folds where it is defined; None where no fold defines it.
        folds: its value in each fold; None where it is not defined.
    """

    mean: float | None
    folds: tuple[float | None, ...]


@dataclass(frozen=True)
class AveragePrecisions:
    """Average precision, macro over the labels that have positives.

    Args:
        average_precision: over all 18 labels.
        average_precision_16: over the 16 subscores, without the two view labels.
    """

    average_precision: Score
    average_precision_16: Score

    @classmethod
    def over_folds(cls, folds: Sequence[Mapping[str, Any]]) -> Self:
        """Return each number's mean and values over folds.

        Args:
            folds: what `summarise` (for `Scores`) or `summarise_untied` returned, one a fold. A fold where a number is
                NaN is left out of its mean.
        """
        return cls(**{each.name: _over_folds([fold[each.name] for fold in folds]) for each in fields(cls)})

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        folds = document["folds"]
        return cls(**{each.name: _from_json(document[each.name], folds[each.name]) for each in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """Return the means by name and, under ``folds``, the lists that they are means of."""
        scores = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            **_of_each(scores, lambda score: score.mean),
            "folds": _of_each(scores, lambda score: list(score.folds)),
        }


@dataclass(frozen=True)
class Scores(AveragePrecisions):
    """Every number that is reported of a set of scores.

    Args:
        roc_auc_macro: area under the receiver operating characteristic, macro over the labels.
        roc_auc_micro: the same with all labels of all films pooled.
        precision: with all labels pooled, positive where the score is 0.5 or more.
        recall: likewise.
        per_cortex: average precision, macro over each cortex's four subscores among the films that show it.
    """

    roc_auc_macro: Score
    roc_auc_micro: Score
    precision: Score
    recall: Score
    per_cortex: Mapping[str, Score]


def _over_folds(values: Sequence[Any]) -> Any:
    """Return the score of one number, or of each number of a table, given its value in each fold."""
    if isinstance(values[0], Mapping):
        return {name: _over_folds([each[name] for each in values]) for name in values[0]}
    return Score(_none_for_nan(macro(np.array(values))), tuple(_none_for_nan(value) for value in values))


def _from_json(mean: Any, folds: Any) -> Any:
    """Return a score, or each score of a table, given its means and its values in the folds as JSON holds them."""
    if isinstance(mean, Mapping):
        return {name: _from_json(mean[name], folds[name]) for name in mean}
    return Score(mean, tuple(folds))


def _of_each(scores: Mapping[str, Any], part: Callable[[Score], Any]) -> dict[str, Any]:
    """Return a part of each score, those of inner tables too."""
    return {
        name: _of_each(score, part) if isinstance(score, Mapping) else part(score) for name, score in scores.items()
    }


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
