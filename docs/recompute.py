"""Recompute a study's numbers from its exported out-of-fold scores, with scikit-learn and NumPy alone.

    rust-optuna study export regime-1 storage/reports/regime-1
    python docs/recompute.py storage/reports/regime-1

Every number in trials.csv is compared, the lift over the view-only baseline first. What was chosen (the epoch) or
measured (seconds) cannot be recomputed. If the folder holds what these commands print, that is compared too:

    rust-optuna best regime-1 --json > storage/reports/regime-1/best.json
    rust-optuna status --json > storage/reports/regime-1/status.json

Exits with 1 if any number differs by more than 1e-9.
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

LABELS, SUBSCORES = range(18), range(2, 18)  # the first two labels are the views
TOLERANCE = 1e-9


def mean(values):
    """Return the mean of the values that are defined, or None."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def deviation(values):
    """Return the sample standard deviation of the values that are defined; None for fewer than two."""
    defined = [value for value in values if value is not None]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else None


def fold_numbers(labels, scores):
    """Return each reported number of one fold."""
    some = [c for c in LABELS if labels[:, c].any()]
    both = [c for c in some if not labels[:, c].all()]
    precisions = {c: average_precision_score(labels[:, c], scores[:, c]) for c in some}
    return {
        "average_precision": mean(precisions.values()),
        "average_precision_16": mean(precisions[c] for c in some if c in SUBSCORES),
        "roc_auc_macro": mean(roc_auc_score(labels[:, c], scores[:, c]) for c in both),
        "roc_auc_micro": roc_auc_score(labels.ravel(), scores.ravel()),
        "precision": precision_score(labels, scores >= 0.5, average="micro", zero_division=0),
        "recall": recall_score(labels, scores >= 0.5, average="micro", zero_division=0),
    }


def view_only(labels, fold, number):
    """Return a fold's scores by a model that sees the view alone: frequencies given the view in the other folds."""
    train, here = labels[fold != number], labels[fold == number]
    # A view that the other folds lack gets the frequencies over all films.
    views = [train[train[:, view] == 1] if train[:, view].any() else train for view in (0, 1)]
    return np.array([views[film[:2].argmax()].mean(axis=0) for film in here])


def log_binomial(n, k):
    """Return the logarithm of n over k, elementwise; −∞ where there is no such choice."""
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, np.max(n) + 1)))])
    possible = (k >= 0) & (k <= n)
    chosen = np.where(possible, k, 0)
    return np.where(possible, factorial[n] - factorial[chosen] - factorial[n - chosen], -np.inf)


def untied_precision(labels, scores):
    """Return the average precision to be expected once ties are broken at random.

    Written out: a positive film among n tied ones, R of them positive, stands at each place j with a chance of 1/n.
    Before it stand j of the other n − 1 tied films, drawn blindly, so the positives among them, r, follow the
    hypergeometric distribution. Its precision there is one more than all positives before, by one more than all films.
    """
    total, films, positives = 0.0, 0, 0
    for score in sorted(set(scores.tolist()), reverse=True):
        tied = labels[scores == score]
        n, R = len(tied), int(tied.sum())
        if R:
            j, r = np.arange(n)[:, None], np.arange(R)[None, :]
            other = np.full((n, R), n - R)
            ways = log_binomial(np.full((n, R), R - 1), r + 0 * j) + log_binomial(other, j - r)
            chance = np.exp(ways - log_binomial(np.full((n, 1), n - 1), j)) / n
            total += R * float((chance * (positives + r + 1) / (films + j + 1)).sum())
        films, positives = films + n, positives + R
    return total / positives


def untied_numbers(labels, scores):
    """Return what `fold_numbers` does of average precision, with ties broken at random."""
    precisions = {c: untied_precision(labels[:, c], scores[:, c]) for c in LABELS if labels[:, c].any()}
    return {
        "average_precision": mean(precisions.values()),
        "average_precision_16": mean(value for c, value in precisions.items() if c in SUBSCORES),
    }


def recompute(kept, baselines):
    """Return every number of a trial by its column, and its lists over folds as ``best --json`` names them.

    Args:
        kept: the trial's exported arrays.
        baselines: filled in once; they are those of films and folds alone.
    """
    labels, scores, fold = kept["labels"].astype(int), kept["scores"], kept["fold"]
    here = {number: fold == number for number in np.unique(fold)}
    key = labels.tobytes() + fold.tobytes()
    if key not in baselines:
        trivial = [(labels[films], view_only(labels, fold, number)) for number, films in here.items()]
        baselines[key] = [fold_numbers(*each) for each in trivial], [untied_numbers(*each) for each in trivial]
    tied, untied = baselines[key]
    ours = [fold_numbers(labels[films], scores[films]) for films in here.values()]

    def column(name, of=ours):
        return [numbers[name] for numbers in of]

    of_16, untied_16 = column("average_precision_16"), column("average_precision_16", untied)
    lifts = [a - b if None not in (a, b) else None for a, b in zip(of_16, untied_16, strict=True)]
    defined = sum(each is not None for each in lifts)
    numbers = {
        "lift_16": mean(lifts) if defined > 1 else None,
        "lift_16_standard_error": deviation(lifts) / math.sqrt(defined) if defined > 1 else None,
        "value": mean(column("average_precision")),
        "deviation": deviation(column("average_precision")),
        "deviation_16": deviation(of_16),
        **{f"fold_{number}": value for number, value in zip(here, column("average_precision"), strict=True)},
        **{name: mean(column(name)) for name in ours[0] if name != "average_precision"},
        **{f"baseline_view_only_{name}": mean(column(name, tied)) for name in tied[0]},
        **{f"baseline_view_only_untied_{name}": mean(column(name, untied)) for name in untied[0]},
    }
    lists = {
        "fold_values": column("average_precision"),
        "fold_values_16": of_16,
        "baseline_view_only_untied_fold_values_16": untied_16,
    }
    return numbers, lists


def as_best_names_them(numbers, lists):
    """Return a trial's numbers by their names in ``best --json``."""
    return {
        "value": numbers["value"],
        "average_precision_16": numbers["average_precision_16"],
        "baseline_view_only": numbers["baseline_view_only_average_precision"],
        "baseline_view_only_16": numbers["baseline_view_only_average_precision_16"],
        "baseline_view_only_untied_16": numbers["baseline_view_only_untied_average_precision_16"],
        **lists,
    }


class Comparison:
    """Counts numbers that were compared, and keeps the largest difference."""

    def __init__(self):
        self.count, self.worst, self.wrong = 0, 0.0, False

    def compare(self, where, recomputed, reported):
        """Compare two numbers, either of which may be undefined: None, or an empty cell."""
        reported = None if reported in (None, "") else float(reported)
        undefined = (recomputed is None, reported is None)
        difference = (0.0 if all(undefined) else math.inf) if any(undefined) else abs(recomputed - reported)
        self.count, self.worst = self.count + 1, max(self.worst, difference)
        if not difference <= TOLERANCE:
            self.wrong = True
            print(f"{where}: reported {reported}, recomputed {recomputed}")


def shown(value, form=".6f"):
    """Return a number as text, a dash for one that is not defined."""
    return "–" if value is None else format(value, form)


def compare_best(comparison, document, best, trial):
    """Compare what ``best --json`` printed with the trial of the highest value."""
    comparison.compare("best.json, number", int(best["number"]), document["number"])
    expected = as_best_names_them(*trial)
    for name, value in expected.items():
        reported = document[name]
        if not isinstance(value, list):
            comparison.compare(f"best.json, {name}", value, reported)
            continue
        comparison.compare(f"best.json, length of {name}", len(value), len(reported))
        for fold, (ours, theirs) in enumerate(zip(value, reported, strict=False)):
            comparison.compare(f"best.json, {name}, fold {fold}", ours, theirs)


def main(folder):
    """Compare everything in a folder; return whether all agrees."""
    comparison, baselines, trials = Comparison(), {}, {}
    with (folder / "trials.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        with np.load(folder / f"trial-{row['number']}.npz", allow_pickle=False) as kept:
            trials[row["number"]] = recompute(kept, baselines)
        numbers = trials[row["number"]][0]
        for name, value in numbers.items():
            comparison.compare(f"trial {row['number']}, {name}", value, row.get(name))
        print(
            f"trial {row['number']}: lift {shown(numbers['lift_16'], '+.6f')} ± "
            f"{shown(numbers['lift_16_standard_error'])}, average precision {shown(numbers['value'])}"
        )
    # The best is the highest value, the lowest point among equals.
    best = max(rows, key=lambda row: (trials[row["number"]][0]["value"], -int(row["point"])))
    if (folder / "best.json").exists():
        document = json.loads((folder / "best.json").read_text(encoding="utf-8-sig"))
        if isinstance(document, list):  # `best` without a name shows every study
            sys.exit(f"best.json holds {len(document)} studies: rust-optuna best NAME --json shows the one")
        compare_best(comparison, document, best, trials[best["number"]])
        if (folder / "status.json").exists():
            studies = json.loads((folder / "status.json").read_text(encoding="utf-8-sig"))
            (study,) = (study for study in studies if study["study"] == document["study"])
            comparison.compare("status.json, best_value", trials[best["number"]][0]["value"], study["best_value"])
            comparison.compare("status.json, complete", len(rows), study["complete"])
    print(f"{comparison.count} numbers compared, largest difference {comparison.worst:.1e}")
    return not comparison.wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder that `rust-optuna study export` wrote")
    chosen = parser.parse_args().folder
    if not (chosen / "trials.csv").is_file():
        parser.error(f"there is no trials.csv in {chosen}: rust-optuna study export NAME {chosen} writes one")
    sys.stdout.reconfigure(errors="replace")  # where a terminal is not UTF-8
    sys.exit(not main(chosen))
