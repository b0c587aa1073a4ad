"""Reports of trials that never ran, for tests of what is made of a report."""

from __future__ import annotations

from typing import Any

from rust_optuna.data.manifest import CORTICES
from rust_optuna.data.scores import AveragePrecisions, Score, Scores
from rust_optuna.learn.trial_report import BatchSizes, Seeds, TrialReport


def flat(value: float) -> Score:
    """Return a score that is the same in all three folds."""
    return Score(value, (value,) * 3)


def scores(**given: Score) -> Scores:
    """Return scores of which a test gives those that it looks at; the others are 0.5."""
    names = ("average_precision", "average_precision_16", "roc_auc_macro", "roc_auc_micro", "precision", "recall")
    others = {name: flat(0.5) for name in names}
    return Scores(**{**others, **given}, per_cortex={cortex: flat(0.5) for cortex in CORTICES})


def report(**given: Any) -> TrialReport:
    """Return a report of three folds, in which nothing speaks against the trial, with what a test gives in its place.

    What an earlier version may not have written is missing, but for the baseline with its ties broken at random.
    """
    values: dict[str, Any] = {
        "epoch": 2,
        "value": 0.7,
        "curve": (0.6, 0.7),
        "fold_values": (0.6, 0.7, 0.8),
        "diverged_folds": (),
        "scores": scores(average_precision_16=Score(0.5, (0.4, 0.5, 0.6))),
        "baseline": scores(average_precision=flat(0.45), average_precision_16=flat(0.3)),
        "untied_baseline": AveragePrecisions(flat(0.35), flat(0.3)),
        "labels_left_out": ((), ("posterior_4",), ()),
        "batch_size": BatchSizes(32, (32, 32, 30)),
        "seeds": Seeds(5, 1, (11, 12, 13)),
        "features_sha256": "ab" * 32,
        "device": "CPU: a processor",
        "host": "lab",
        "versions": {"python": "3.11.7", "rust_optuna": "0.1.0"},
        "seconds": 1.5,
    }
    return TrialReport(**{**values, **given})
