"""Recompute a study's numbers from its exported out-of-fold scores, with scikit-learn alone.

rust-optuna study export regime-1 storage/reports/regime-1
python docs/recompute.py storage/reports/regime-1
"""

import csv
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score


def fold_numbers(labels, scores):
    """Return each reported number of one fold."""
    some = [c for c in range(18) if labels[:, c].any()]
    both = [c for c in some if not labels[:, c].all()]
    precisions = {c: average_precision_score(labels[:, c], scores[:, c]) for c in some}
    return {
        "average_precision": np.mean(list(precisions.values())),
        "average_precision_16": np.mean([precisions[c] for c in some if c >= 2]),
        "roc_auc_macro": np.mean([roc_auc_score(labels[:, c], scores[:, c]) for c in both]),
        "roc_auc_micro": roc_auc_score(labels.ravel(), scores.ravel()),
        "precision": precision_score(labels, scores >= 0.5, average="micro", zero_division=0),
        "recall": recall_score(labels, scores >= 0.5, average="micro", zero_division=0),
    }


def view_only(labels, fold, number):
    """Return a fold's scores by a model that sees the view alone: frequencies given the view in the other folds."""
    train, here = labels[fold != number], labels[fold == number]
    return np.array([train[train[:, film[:2].argmax()] == 1].mean(axis=0) for film in here])


worst = 0.0
folder = Path(sys.argv[1])
for row in csv.DictReader((folder / "trials.csv").open()):
    kept = np.load(folder / f"trial-{row['number']}.npz")
    labels, scores, fold = kept["labels"], kept["scores"], kept["fold"]
    ours = [fold_numbers(labels[fold == k], scores[fold == k]) for k in np.unique(fold)]
    trivial = [fold_numbers(labels[fold == k], view_only(labels, fold, k)) for k in np.unique(fold)]
    for name in ours[0]:
        value = np.mean([numbers[name] for numbers in ours])
        baseline = np.mean([numbers[name] for numbers in trivial])
        reported = row["value"] if name == "average_precision" else row[name]
        worst = max(worst, abs(value - float(reported)), abs(baseline - float(row[f"baseline_view_only_{name}"])))
    worst = max(worst, *(abs(n["average_precision"] - float(row[f"fold_{k}"])) for k, n in enumerate(ours)))
    print(f"trial {row['number']}: average precision {np.mean([n['average_precision'] for n in ours]):.6f}")
print(f"largest difference from what was reported: {worst:.1e}")
sys.exit(worst > 1e-9)
