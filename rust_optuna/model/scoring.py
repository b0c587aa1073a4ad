"""The four models that an evaluation compares, each made of the same heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rust_optuna.learn.fitting import Head

BEST_FOLD, MEAN, MEAN_FLIPS, WHOLE = "best_fold", "mean", "mean_flips", "whole"
"""The head of the best fold (as published), the mean of the heads of all folds, the same over the four flips of each
film, and one head that was fitted on the whole development set."""


def scores_by_model(folds: Sequence[Head], best: int, whole: Head, table: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of films by each of the four models.

    Args:
        folds: the head of each fold.
        best: the position of the best fold's head.
        whole: the head that was fitted on the whole development set.
        table: (films, 4, width) float32, the features of the films in all flips.

    Returns:
        the name of each model → (films, 18) float32.
    """
    by_fold = np.array([_scores_of_flips(head, table) for head in folds])
    return {
        BEST_FOLD: by_fold[best, :, 0],
        MEAN: by_fold[:, :, 0].mean(axis=0, dtype=np.float64).astype(np.float32),
        MEAN_FLIPS: by_fold.mean(axis=(0, 2), dtype=np.float64).astype(np.float32),
        WHOLE: whole.scores(table[:, 0]),
    }


def _scores_of_flips(head: Head, table: np.ndarray) -> np.ndarray:
    """Return (films, 4, 18) float32: the scores of films in all flips."""
    films, flips, width = table.shape
    return head.scores(table.reshape(-1, width)).reshape(films, flips, -1)
