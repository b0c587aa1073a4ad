"""Recompute the numbers of an evaluation from the scores in its model directory, with scikit-learn and NumPy alone.

    python docs/recompute_evaluation.py storage/models/NAME
    python docs/recompute_evaluation.py storage/models/NAME --report storage/reports/NAME-external-STEM
    python docs/recompute_evaluation.py storage/reports/NAME-by-source

Every value in metrics.json that was measured on films is compared, and what calibration.json holds: thresholds and
quantiles, fitted on the out-of-fold scores. By films that are really drawn again, so are the 95% intervals of two
numbers: average precision over the 16 subscores, and recall over all labels at 0.5.

Exits with 1 if any number differs by more than 1e-9.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    confusion_matrix,
    precision_score,
    recall_score,
    roc_auc_score,
)

VIEWS, CORTICES = ("anteroposterior", "lateral"), ("medial", "lateral", "anterior", "posterior")
LABELS = [f"view_{view}" for view in VIEWS] + [f"{cortex}_{score}" for cortex in CORTICES for score in (1, 2, 3, 4)]
SCORERS = {"model": "scores", "frequencies": "frequencies", "view_only": "view_only"}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CLASSES = ("1", "2", "3", "4", "unreadable")
TOLERANCE = 1e-9


def mean(values):
    """Return the mean of the values that are defined, or None."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def highest_f1(labels, scores):
    """Return the highest of the thresholds of highest F1; 0.5 for a label that no film has."""
    if not labels.any():
        return 0.5
    f1 = {t: 2 * labels[scores >= t].sum() / ((scores >= t).sum() + labels.sum()) for t in np.unique(scores)}
    return float(max(t for t, value in f1.items() if value == max(f1.values())))


def precision_and_recall(labels, predicted):
    """Return both; None for precision where nothing is predicted, and for recall where nothing is positive."""
    return (
        float(precision_score(labels, predicted)) if predicted.any() else None,
        float(recall_score(labels, predicted)) if labels.any() else None,
    )


def label_numbers(labels, scores, threshold):
    """Return the numbers of one label and one set of scores, at a threshold only where there is one."""
    precision, recall = precision_and_recall(labels, scores >= 0.5)
    numbers = {
        "average_precision": average_precision_score(labels, scores) if labels.any() else None,
        "roc_auc": roc_auc_score(labels, scores) if labels.any() and not labels.all() else None,
        "precision": precision,
        "recall": recall,
        "brier": float(np.mean((scores.astype(float) - labels) ** 2)),
    }
    return numbers if threshold is None else {**numbers, **at_threshold(labels, scores >= threshold)}


def at_threshold(labels, predicted):
    """Return precision and recall of what a threshold predicts."""
    names = ("precision_at_threshold", "recall_at_threshold")
    return dict(zip(names, precision_and_recall(labels, predicted), strict=True))


def micro_numbers(labels, scores, thresholds):
    """Return the numbers of all labels pooled."""
    numbers = label_numbers(labels.ravel(), scores.ravel(), None)
    if None not in thresholds:
        numbers |= at_threshold(labels.ravel(), (scores >= thresholds).ravel())
    return {name: value for name, value in numbers.items() if name not in ("average_precision", "brier")}


def untied_precision(labels, scores):
    """Return the average precision to be expected once ties are broken at random, place by place."""
    total, films, positives = 0.0, 0, 0
    for score in sorted(set(scores.tolist()), reverse=True):
        tied = labels[scores == score]
        n, R = len(tied), int(tied.sum())
        # A positive at place j has j of the other n − 1 before it, each a positive with a chance of (R − 1)/(n − 1).
        for j in range(n if R else 0):
            others = j * (R - 1) / (n - 1) if n > 1 else 0
            total += R / n * (positives + 1 + others) / (films + 1 + j)
        films, positives = films + n, positives + R
    return total / positives


def group_numbers(kept, which, columns):
    """Return average precision over some labels among some films, and the lift over the view-only baseline."""
    some = [c for c in columns if kept["labels"][which, c].any()]
    labels = {c: kept["labels"][which, c] for c in some}
    model, view_only = (
        mean([average_precision_score(labels[c], kept[key][which, c]) for c in some]) for key in ("scores", "view_only")
    )
    untied = mean([untied_precision(labels[c], kept["view_only"][which, c]) for c in some])
    return {
        "films": int(which.sum()),
        "patients": len(set(kept["patients"][which])),
        "model": {"average_precision": model},
        "view_only": {"average_precision": view_only},
        "view_only_untied": {"average_precision": untied},
        "lift": None if model is None else model - untied,
    }


def shown_cortices(kept):
    """Return, for each cortex, which films' view shows it."""
    views = kept["labels"][:, :2].argmax(axis=1)
    return {c: np.isin(views, [v for v, view in enumerate(VIEWS) if c in kept[f"cortices_{view}"]]) for c in CORTICES}


def by_label(kept, thresholds):
    """Return all numbers that look at labels one by one, as the document names them."""
    labels = kept["labels"].astype(int)
    each = {
        scorer: [label_numbers(labels[:, c], kept[key][:, c], thresholds[scorer][c]) for c in range(18)]
        for scorer, key in SCORERS.items()
    }
    macro = {
        start: {s: {name: mean([n[name] for n in of[start:]]) for name in of[0]} for s, of in each.items()}
        for start in (0, 2)
    }
    whole = group_numbers(kept, np.ones(len(labels), dtype=bool), range(2, 18))
    return {
        "by_label": {
            label: {
                "positives": int(labels[:, c].sum()),
                "prevalence": float(labels[:, c].mean()),
                **{s: of[c] for s, of in each.items()},
            }
            for c, label in enumerate(LABELS)
        },
        "macro_18": macro[0],
        "macro_16": {**macro[2], **{name: whole[name] for name in ("view_only_untied", "lift")}},
        "micro": {s: micro_numbers(labels, kept[key], thresholds[s]) for s, key in SCORERS.items()},
        "cortices": {
            cortex: group_numbers(kept, shown, range(2 + 4 * number, 6 + 4 * number))
            for number, (cortex, shown) in enumerate(shown_cortices(kept).items())
            if shown.any()
        },
    }


def by_subgroup(kept):
    """Return average precision in parts of the films."""
    of_visit = Counter(kept["visits"].tolist())
    groups = {
        "view": np.array(VIEWS)[kept["labels"][:, :2].argmax(axis=1)],
        "films_of_visit": np.array([str(of_visit[visit]) for visit in kept["visits"]]),
        **({"source": kept["sources"]} if "sources" in kept else {}),
    }
    return {
        kind: {name: group_numbers(kept, names == name, range(2, 18)) for name in sorted(set(names.tolist()))}
        for kind, names in groups.items()
    }


def distributions(scores):
    """Return how probable subscores 1 to 4 and unreadable are, (films, cortices, 5), from four independent scores."""
    s = np.clip(scores[:, 2:].astype(float).reshape(-1, 4, 4), 1e-7, 1 - 1e-7)
    parts = [s[..., k] * np.prod(np.delete(1 - s, k, axis=2), axis=2) for k in range(4)]
    parts = np.stack([*parts, np.prod(1 - s, axis=2)], axis=2)
    return parts / parts.sum(axis=2, keepdims=True)


def most_probable(chances):
    """Return the most probable class; of classes that are equal but for rounding, the first."""
    return np.round(chances, 12).argmax(axis=-1)


def classes(kept):
    """Return the class of each cortex: 0 to 3 for subscores 1 to 4, 4 for unreadable."""
    subscores = kept["labels"][:, 2:].reshape(-1, 4, 4)
    return np.where(subscores.any(axis=2), subscores.argmax(axis=2), 4)


def kappa(first, second):
    """Return Cohen's kappa with quadratic weights; None where it is not defined."""
    if len(set(first) | set(second)) < 2:
        return None
    return float(cohen_kappa_score(first, second, weights="quadratic", labels=range(4)))


def share(part):
    """Return the share that holds, or None of nothing."""
    return float(np.mean(part)) if len(part) else None


def cortex_numbers(labels, chances):
    """Return the numbers of one cortex by one scorer."""
    called, subscore, readable = most_probable(chances), most_probable(chances[:, :4]), labels < 4
    error = np.abs(labels - subscore)[readable]
    return {
        "confusion": confusion_matrix(labels, called, labels=range(5)).tolist(),
        "exact": share(error == 0),
        "within_one": share(error <= 1),
        "quadratic_kappa": kappa(labels[readable], subscore[readable]),
        "unreadable_found": share(called[~readable] == 4),
        "called_unreadable": share(called[readable] == 4),
    }


def by_cortex(kept):
    """Return the numbers of each cortex, and their means."""
    of, labels, found = {s: distributions(kept[key]) for s, key in SCORERS.items()}, classes(kept), {}
    for number, (cortex, shown) in enumerate(shown_cortices(kept).items()):
        if shown.any():
            found[cortex] = {
                "films": int(shown.sum()),
                "patients": len(set(kept["patients"][shown])),
                "readable": int((labels[shown, number] < 4).sum()),
                **{s: cortex_numbers(labels[shown, number], each[shown, number]) for s, each in of.items()},
            }
    names = ("exact", "within_one", "quadratic_kappa", "unreadable_found", "called_unreadable")
    return {
        "cortices": found,
        "mean": {s: {name: mean([each[s][name] for each in found.values()]) for name in names} for s in SCORERS},
    }


def shares(patients):
    """Return what each entry counts where each patient counts once."""
    counts = Counter(patients.tolist())
    return np.array([1 / counts[patient] for patient in patients.tolist()])


def conformal_quantile(values, weights, coverage=0.9):
    """Return the value up to which m patients of weight 1/(m + 1) each make up the coverage; None: no value does."""
    total = 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        total += weight / (round(sum(weights)) + 1)
        if total >= coverage - 1e-12:
            return float(value)
    return None


def conformal_fit(kept, key, highest):
    """Return each cortex's quantiles of 1 − probability by class, and on how many patients each rests."""
    chances, labels, shown = distributions(kept[key]), classes(kept), shown_cortices(kept)
    quantiles, patients = {}, {}
    for number, cortex in enumerate(CORTICES):
        of = {name: shown[cortex] & (labels[:, number] == kind) for kind, name in enumerate(CLASSES)}
        quantiles[cortex] = {
            name: conformal_quantile(1 - chances[films, number, kind], shares(kept["patients"][films]))
            for kind, (name, films) in enumerate(of.items())
        }
        patients[cortex] = {name: len(set(kept["patients"][films])) for name, films in of.items()}
    return {"scale": "modified_rust" if highest == 4 else "rust", "quantiles": quantiles, "patients": patients}


def conformal_set(chances, quantiles, highest):
    """Return the set of classes of one film's cortex."""
    allowed = [*range(highest), 4]
    found = {kind for kind in allowed if (q := quantiles[CLASSES[kind]]) is None or 1 - chances[kind] <= q + 1e-9} or {
        max(allowed, key=lambda kind: round(chances[kind], 12))
    }
    subscores = found - {4}
    return found | set(range(min(subscores), max(subscores) + 1)) if subscores else found


def conformal_numbers(kept, fitted, highest):
    """Return coverage and mean size of the sets: of each cortex, of each class, of each class of a cortex."""
    labels, shown = classes(kept), shown_cortices(kept)
    judged = []  # film, cortex, class, and for each scorer whether the set holds the class, and its size
    chances = {scorer: distributions(kept[key]) for scorer, key in SCORERS.items()}
    for number, cortex in enumerate(CORTICES):
        for film in np.flatnonzero(shown[cortex]):
            kind = int(labels[film, number])
            sets = {
                s: conformal_set(chances[s][film, number], fitted[s]["quantiles"][cortex], highest) for s in SCORERS
            }
            judged.append((film, cortex, CLASSES[kind], {s: (kind in each, len(each)) for s, each in sets.items()}))

    def of(rows):
        weight = shares(kept["patients"][[film for film, *_ in rows]]) if rows else np.array([])

        def average(scorer, place):
            return float(np.average([row[3][scorer][place] for row in rows], weights=weight)) if rows else None

        return {s: {"coverage": average(s, 0), "mean_size": average(s, 1)} for s in SCORERS}

    def size(rows):
        films = sorted({film for film, *_ in rows})
        return {"films": len(films), "patients": len(set(kept["patients"][films])) if films else 0}

    cortices = {}
    for cortex in (cortex for cortex in CORTICES if shown[cortex].any()):
        rows = [row for row in judged if row[1] == cortex]
        by_class = {name: [row for row in rows if row[2] == name] for name in CLASSES}
        calibrated = fitted["model"]["patients"][cortex]
        cortices[cortex] = {
            **of(rows),
            "classes": {
                name: {**size(each), "calibration_patients": calibrated[name], **of(each)}
                for name, each in by_class.items()
            },
        }
    by_class = {name: [row for row in judged if row[2] == name] for name in CLASSES}
    means = {
        s: {name: mean([each[s][name] for each in cortices.values()]) for name in ("coverage", "mean_size")}
        for s in SCORERS
    }
    return {
        "aim": 0.9,
        "cortices": cortices,
        "classes": {name: {**size(each), **of(each)} for name, each in by_class.items()},
        "mean": means,
    }


def fractures(kept, key, highest):
    """Return the patient, the label's total and the expected total of each visit whose four cortices are readable.

    Returns also how many visits are left out because the scale lacks one of their subscores.
    """
    subscores = np.where(classes(kept) < 4, classes(kept) + 1.0, np.nan)
    chances, shown = distributions(kept[key]), shown_cortices(kept)
    found, off_scale = [], 0
    for visit in sorted(set(kept["visits"].tolist())):
        films = kept["visits"] == visit
        label, expected = 0.0, 0.0
        for number, cortex in enumerate(CORTICES):
            readable = films & ~np.isnan(subscores[:, number])
            label += subscores[readable, number].mean() if readable.any() else np.nan
            mean_chances = chances[films & shown[cortex], number].mean(axis=0) if readable.any() else np.full(5, np.nan)
            expected += np.average(np.arange(1, highest + 1), weights=mean_chances[:highest])
        if np.isnan(label):
            continue
        if (subscores[films] > highest).any():
            off_scale += 1
        else:
            found.append((kept["patients"][films][0], label, expected))
    patients, labels, expected = zip(*found, strict=True) if found else ((), (), ())
    return np.array(patients), np.array(labels), np.array(expected), off_scale


def line(expected, labels, weights):
    """Return intercept and slope of the line of least squares; a level one where it would fall, or nothing varies."""
    middle, mean_label = np.average(expected, weights=weights), np.average(labels, weights=weights)
    variance = np.average((expected - middle) ** 2, weights=weights)
    covariance = np.average((expected - middle) * (labels - mean_label), weights=weights)
    slope = max(0.0, covariance / variance) if variance > 1e-6 else 0.0
    return float(mean_label - slope * middle), float(slope)


def predicted(expected, intercept, slope, highest):
    """Return predicted totals."""
    return np.clip(intercept + slope * expected, 4, 4 * highest)


def total_fit(kept, key, highest, threshold):
    """Return the line from expected to read totals, what it misses without the patient, and what each miss counts."""
    patients, labels, expected, _ = fractures(kept, key, highest)
    weights, through, residuals = shares(patients), (0.0, 1.0), np.zeros(len(labels))
    enough = len(set(patients.tolist())) >= 9
    for patient in set(patients.tolist()):
        own = patients == patient
        without = line(expected[~own], labels[~own], weights[~own]) if enough else through
        residuals[own] = labels[own] - predicted(expected[own], *without, highest)
    intercept, slope = line(expected, labels, weights) if enough else through
    return {
        "scale": "modified_rust" if highest == 4 else "rust",
        "threshold": threshold,
        "intercept": intercept,
        "slope": slope,
        "residuals": residuals.tolist(),
        "shares": weights.tolist(),
    }


def union_chances(expected, fitted, highest):
    """Return the probability that each fracture's total is the threshold or more."""
    lowest, top, m = 4, 4 * highest, round(sum(fitted["shares"]))
    over = []
    for e in predicted(expected, fitted["intercept"], fitted["slope"], highest):
        totals = np.clip(np.floor(e + np.array(fitted["residuals"]) + 0.5 + 1e-9), lowest, top)
        prior = np.mean(np.arange(lowest, top + 1) >= fitted["threshold"])
        over.append((np.array(fitted["shares"])[totals >= fitted["threshold"]].sum() + prior) / (m + 1))
    return np.round(over, 12)


def icc(*readers):
    """Return ICC(2,1) from its table of variances; None where it is not defined."""
    x = np.stack(readers, axis=1)
    n, k = x.shape
    if n < 2 or np.ptp(x) == 0:
        return None
    rows, columns = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    msr = k * ((rows - x.mean()) ** 2).sum() / (n - 1)
    msc = n * ((columns - x.mean()) ** 2).sum() / (k - 1)
    mse = ((x - rows - columns + x.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    return float((msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n))


def alpha(ratings):
    """Return Krippendorff's ordinal α from its matrix of coincidences; None where it is not defined."""
    together = np.zeros((5, 5))
    for unit in ratings.T:
        given = unit[~np.isnan(unit)].astype(int)
        for one, other in itertools.permutations(given, 2):
            together[one, other] += 1 / (len(given) - 1)
    n = together.sum(axis=0)
    places = n.cumsum() - n / 2
    distances = (places[:, None] - places[None, :]) ** 2
    expected = (np.outer(n, n) * distances).sum()
    return float(1 - (n.sum() - 1) * (together * distances).sum() / expected) if expected else None


def reader_numbers(kept):
    """Return how far the label and further readers agree, and the label and the model."""
    model = most_probable(distributions(kept["scores"])[:, :, :4]) + 1.0
    labels, found = np.where(classes(kept) < 4, classes(kept) + 1.0, np.nan), {}
    for number, cortex in enumerate(CORTICES):
        which = ~np.isnan(labels[:, number]) & ~np.isnan(kept["readers"][:, :, number]).all(axis=0)
        label = labels[which, number]
        if not which.any():
            continue
        of = {
            "readers": np.stack([label, *kept["readers"][:, which, number]]),
            "model": np.stack([label, model[which, number]]),
        }
        numbers = {"quadratic_kappa": {}, "intraclass_correlation": {}, "krippendorff_alpha": {}}
        for who, ratings in of.items():
            pairs = [pair[:, ~np.isnan(pair).any(axis=0)] for pair in map(np.stack, itertools.combinations(ratings, 2))]
            numbers["quadratic_kappa"][who] = mean([kappa(*(pair - 1)) for pair in pairs])
            numbers["intraclass_correlation"][who] = icc(*ratings[:, ~np.isnan(ratings).any(axis=0)])
            numbers["krippendorff_alpha"][who] = alpha(ratings)
        found[cortex] = {"films": int(which.sum()), **numbers}
    names = [name for name in next(iter(found.values()), {}) if name != "films"]
    return {
        "cortices": found,
        "mean": {n: {w: mean([c[n][w] for c in found.values()]) for w in ("readers", "model")} for n in names},
    }


def logistic(p, outcomes):
    """Return calibration slope and intercept; None where outcomes are all alike, or separated."""
    if outcomes.all() or not outcomes.any():
        return None, None
    logits = np.log(p / (1 - p))
    low, high = -50.0, 50.0  # the intercept with slope 1 makes the mean probability the share of outcomes
    for _ in range(200):
        middle = (low + high) / 2
        too_high = (1 / (1 + np.exp(-middle - logits))).mean() > outcomes.mean()
        low, high = (low, middle) if too_high else (middle, high)
    yes, no = logits[outcomes], logits[~outcomes]
    if no.max() <= yes.min() or yes.max() <= no.min():
        return None, middle
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    return float(model.fit(logits[:, None], outcomes).coef_[0, 0]), middle


def net_benefit(called, outcomes, threshold):
    """Return hits less false alarms, which count the odds of the threshold, per fracture."""
    return float(((called & outcomes).sum() - (called & ~outcomes).sum() * threshold / (1 - threshold)) / len(called))


def fracture_numbers(kept, fitted, highest):
    """Return all numbers of fractures."""
    patients, labels, _, off_scale = fractures(kept, "scores", highest)
    threshold = fitted["model"]["threshold"]
    size = {
        "scale": fitted["model"]["scale"],
        "threshold": threshold,
        "fractures": len(labels),
        "patients": len(set(patients.tolist())),
        "calibration_patients": round(sum(fitted["model"]["shares"])),
        "off_scale": off_scale,
    }
    if not len(labels):
        return {**size, "total": None, "united": None, "net_benefit": None}
    outcomes, counts = labels >= threshold, shares(patients)
    total, united, benefit = {}, {"prevalence": float(outcomes.mean())}, {}
    steps = [round(0.05 * step, 2) for step in range(1, 20)]
    for scorer, key in SCORERS.items():
        expected, fit = fractures(kept, key, highest)[2], fitted[scorer]
        total_of = predicted(expected, fit["intercept"], fit["slope"], highest)
        errors, reach = total_of - labels, conformal_quantile(np.abs(fit["residuals"]), fit["shares"])
        reach = np.inf if reach is None else reach
        width = np.minimum(total_of + reach, 4 * highest) - np.maximum(total_of - reach, 4)
        spread = 1.96 * errors.std(ddof=1) if len(errors) > 1 else None
        total[scorer] = {
            "mean_absolute_error": float(np.abs(errors).mean()),
            "icc": icc(labels, total_of),
            "bias": float(errors.mean()),
            "lower_limit": None if spread is None else float(errors.mean() - spread),
            "upper_limit": None if spread is None else float(errors.mean() + spread),
            "coverage": float(np.average(np.abs(errors) <= reach + 1e-9, weights=counts)),
            "mean_width": float(np.average(width, weights=counts)),
        }
        p = union_chances(expected, fit, highest)
        slope, intercept = logistic(p, outcomes)
        bins, curve = np.minimum(np.floor(p * 10), 9), {}
        for place in range(10):
            inside = bins == place
            curve[f"{place / 10:.1f} to {(place + 1) / 10:.1f}"] = {
                "fractures": int(inside.sum()),
                "predicted": share(p[inside]),
                "observed": share(outcomes[inside]),
            }
        united[scorer] = {
            "roc_auc": roc_auc_score(outcomes, p) if len(set(outcomes)) > 1 else None,
            "brier": float(((p - outcomes) ** 2).mean()),
            "calibration_slope": slope,
            "calibration_intercept": intercept,
            "calibration_curve": curve,
            "probabilities": {
                name: {f"{q:.2f}": float(np.quantile(part, q)) if len(part) else None for q in QUANTILES}
                for name, part in (("united", p[outcomes]), ("not_united", p[~outcomes]))
            },
        }
        benefit[scorer] = {f"{t:.2f}": net_benefit(p >= t, outcomes, t) for t in steps}
    total["error_difference"] = total["model"]["mean_absolute_error"] - total["view_only"]["mean_absolute_error"]
    every = np.ones(len(labels), dtype=bool)
    benefit |= {
        name: {f"{t:.2f}": net_benefit(called, outcomes, t) for t in steps}
        for name, called in (("all", every), ("none", ~every))
    }
    return {**size, "total": total, "united": united, "net_benefit": benefit}


def average_precision(labels, scores):
    """Return the average precision, as scikit-learn does, in a fiftieth of the time."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / hits[-1])


def two_intervals(kept, bootstrap):
    """Return the intervals of two numbers: patients drawn with replacement, their films repeated."""
    patients, patient_of = np.unique(kept["patients"], return_inverse=True)
    drawn = np.random.default_rng(bootstrap["seed"]).integers(
        len(patients), size=(bootstrap["resamples"], len(patients))
    )
    labels, scores = kept["labels"].astype(int), kept["scores"]

    def measure(films):
        some = [c for c in range(2, 18) if labels[films, c].any()]
        precision = mean([average_precision(labels[films, c], scores[films, c]) for c in some])
        return precision, (labels[films] * (scores[films] >= 0.5)).sum() / labels[films].sum()

    value, _ = measure(np.arange(len(labels)))
    films = np.arange(len(labels))
    found = [measure(np.repeat(films, np.bincount(row, minlength=len(patients))[patient_of])) for row in drawn]
    precisions = np.array([p for p, _ in found if p is not None])
    # Repeated films raise a mean of average precisions: its interval is shifted so that their mean is the value.
    shifted = np.clip(precisions - precisions.mean() + value, 0, 1)
    recalls = np.array([r for _, r in found])
    return {
        ("macro_16", "model", "average_precision"): np.percentile(shifted, (2.5, 97.5)).tolist(),
        ("micro", "model", "recall"): np.percentile(recalls, (2.5, 97.5)).tolist(),
    }


class Comparison:
    """Counts numbers that were compared, and keeps the largest difference."""

    def __init__(self):
        self.count, self.worst, self.wrong = 0, 0.0, False

    def compare(self, where, ours, reported):
        """Compare a number, or every number of a document; an estimate counts with its value."""
        if isinstance(reported, dict) and "value" in reported and not isinstance(ours, dict):
            reported = reported["value"]
        if isinstance(ours, dict) and isinstance(reported, dict) and set(ours) == set(reported):
            for name, value in ours.items():
                self.compare(f"{where}, {name}", value, reported[name])
        elif isinstance(ours, list) and isinstance(reported, list) and len(ours) == len(reported):
            for place, (one, other) in enumerate(zip(ours, reported, strict=True)):
                self.compare(f"{where}, {place}", one, other)
        else:
            self.compare_leaf(where, ours, reported)

    def compare_leaf(self, where, ours, reported):
        """Compare two numbers, either of which may be undefined; anything else must be equal."""
        numbers = all(isinstance(each, (int, float)) for each in (ours, reported))
        difference = abs(ours - reported) if numbers else 0.0 if ours == reported else float("inf")
        self.count, self.worst = self.count + 1, max(self.worst, difference)
        if not difference <= TOLERANCE:
            self.wrong = True
            print(f"{where}: reported {reported}, recomputed {ours}")


def arrays(path):
    """Return the arrays of a file."""
    with np.load(path, allow_pickle=False) as kept:
        return dict(kept)


def fit(kept, threshold):
    """Return all that is fitted on out-of-fold scores, as calibration.json has it, and the scale's highest subscore."""
    labels = kept["labels"].astype(int)
    highest = 4 if (classes(kept) == 3).any() else 3
    return highest, {
        "thresholds": {
            s: {label: highest_f1(labels[:, c], kept[key][:, c]) for c, label in enumerate(LABELS)}
            for s, key in SCORERS.items()
        },
        "conformals": {s: conformal_fit(kept, key, highest) for s, key in SCORERS.items()},
        "totals": {s: total_fit(kept, key, highest, threshold) for s, key in SCORERS.items()},
    }


def recompute(kept, fitted, highest):
    """Return the numbers of films as metrics.json has them."""
    thresholds = {scorer: [each[label] for label in LABELS] for scorer, each in fitted["thresholds"].items()}
    numbers = {
        "films": len(kept["content"]),
        "patients": len(set(kept["patients"].tolist())),
        "visits": len(set(kept["visits"].tolist())),
        "labels": by_label(kept, thresholds),
        "subgroups": by_subgroup(kept),
        "subscores": by_cortex(kept),
        "sets": conformal_numbers(kept, fitted["conformals"], highest),
        "fractures": fracture_numbers(kept, fitted["totals"], highest),
    }
    return {**numbers, "readers": reader_numbers(kept)} if "readers" in kept else numbers


def compare_intervals(comparison, name, kept, bootstrap, labels):
    """Compare the intervals of two numbers with those in a document's part ``labels``."""
    for (first, *others), interval in two_intervals(kept, bootstrap).items():
        reported = labels[first]
        for other in others:
            reported = reported[other]
        comparison.compare(f"{name}, interval of {first}", interval, [reported["low"], reported["high"]])


def mean_over_sources(sources):
    """Return the means over the sources of their average precision and lift."""
    scorers = ("model", "view_only", "view_only_untied")
    precision = {s: {"average_precision": mean([each[s]["average_precision"] for each in sources])} for s in scorers}
    return {**precision, "lift": mean([each["lift"] for each in sources])}


def compare_by_source(folder):
    """Compare the numbers of a cross-validation that left out one source at a time; return whether all agrees."""
    comparison, kept = Comparison(), arrays(folder / "out_of_fold.npz")
    document = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
    subgroups = by_subgroup(kept)
    ours = {
        "films": len(kept["content"]),
        "patients": len(set(kept["patients"].tolist())),
        "visits": len(set(kept["visits"].tolist())),
        "subgroups": subgroups,
        "mean_over_sources": mean_over_sources(subgroups["source"].values()),
        "labels": by_label(kept, dict.fromkeys(SCORERS, [None] * len(LABELS))),
        "subscores": by_cortex(kept),
    }
    comparison.compare("by source", ours, {name: document[name] for name in ours})
    compare_intervals(comparison, "by source", kept, document["bootstrap"], document["labels"])
    print(f"{comparison.count:,} numbers compared, largest difference {comparison.worst:.1e}")
    return not comparison.wrong


def main(folder, report=None):
    """Compare everything in a model directory, or its numbers on a second data set; return whether all agrees."""
    comparison = Comparison()
    kept_in = report or folder / "arrays"
    numbers = folder / "metrics.json" if report is None else report / "numbers.json"
    documents = json.loads(numbers.read_text(encoding="utf-8"))["holdout" if report is None else "external"]
    calibration = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    out_of_fold = arrays(folder / "arrays" / "out_of_fold.npz")
    highest, fitted = fit(out_of_fold, calibration["totals"]["model"]["threshold"])
    comparison.compare("calibration", fitted, calibration)
    for name, document in documents.items():
        kept = arrays(kept_in / f"{name}.npz")
        bootstrap = document.pop("bootstrap")
        comparison.compare(name, recompute(kept, fitted, highest), document)
        compare_intervals(comparison, name, kept, bootstrap, document["labels"])
    print(f"{comparison.count:,} numbers compared, largest difference {comparison.worst:.1e}")
    return not comparison.wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a model directory, or a report by source, of `rust-optuna evaluate`")
    parser.add_argument("--report", type=Path, help="its report on a second data set, to compare instead")
    given = parser.parse_args()
    chosen = given.folder
    sys.stdout.reconfigure(errors="replace")  # where a terminal is not UTF-8
    if (chosen / "out_of_fold.npz").is_file():
        sys.exit(not compare_by_source(chosen))
    if not (chosen / "metrics.json").is_file():
        parser.error(f"there is no metrics.json in {chosen}: rust-optuna evaluate writes one")
    sys.exit(not main(chosen, given.report))
