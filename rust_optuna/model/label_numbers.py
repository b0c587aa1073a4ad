"""What scores are worth label by label: average precision, ROC-AUC, precision, recall and Brier score.

Each number has its interval and stands beside the same number of two trivial baselines on the same films. A number that
the films do not define is None: average precision and recall of a label that no film has, ROC-AUC of one that all have
too, and precision where nothing is predicted. A macro average is over the labels that define the number, as the
objective's is. In a resample without a film of a label, that label is left out of the resample's macro averages; its
own intervals are over the resamples that have one (`Estimate.resamples` says how many).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rust_optuna.data.manifest import CORTICES, LABELS, SUBSCORES, VIEWS
from rust_optuna.data.metrics import THRESHOLD
from rust_optuna.model.bootstrap import Inflated, estimates
from rust_optuna.model.scored import ScoredFilms
from rust_optuna.model.weighted import Ranking, divide, mean_of_defined

SUBSCORE_LABELS = slice(len(VIEWS), len(LABELS))
Statistics = Callable[[np.ndarray], dict[str, Any]]


@dataclass(frozen=True)
class LabelThresholds:
    """From which score on a film is said to have a label.

    Args:
        values: a threshold for each of `LABELS`; a score that equals it is above it.
    """

    values: tuple[float, ...]

    @classmethod
    def fit(cls, out_of_fold: ScoredFilms) -> LabelThresholds:
        """Return the thresholds of highest F1, F1 = 2 × hits / (predicted + positive).

        They belong to these scores: a baseline has its own. Of thresholds with equal F1 the highest is taken; a label
        that no film has gets 0.5.

        Args:
            out_of_fold: films with scores of models that were trained without them.
        """
        columns = zip(out_of_fold.labels.T, out_of_fold.scores.T, strict=True)
        return cls(tuple(_highest_f1(labels, scores) for labels, scores in columns))

    def to_json(self) -> dict[str, float]:
        """Return the thresholds by label."""
        return dict(zip(LABELS, self.values, strict=True))

    @classmethod
    def from_json(cls, document: Mapping[str, float]) -> LabelThresholds:
        """Return what `to_json` made a JSON object of.

        Raises:
            KeyError: a label is missing.
        """
        return cls(tuple(float(document[label]) for label in LABELS))


def label_numbers(
    films: ScoredFilms, thresholds: Mapping[str, LabelThresholds] | None, weights: np.ndarray
) -> dict[str, Any]:
    """Return the numbers of each label, macro and micro averages, and average precision by cortex.

    Args:
        films: with the scores to judge.
        thresholds: for the model and each baseline (`ScoredFilms.by_scorer`), fitted on its own out-of-fold scores;
            None where there are no scores to fit them on but those to judge, for no numbers at thresholds.
        weights: (resamples, n), of `rust_optuna.model.bootstrap.patient_weights`.

    Returns:
        - ``by_label``: for each of `LABELS` its ``positives`` (films), its ``prevalence`` and, for each scorer,
          ``average_precision``, ``roc_auc``, ``precision`` and ``recall`` at 0.5, ``precision_at_threshold`` and
          ``recall_at_threshold``, ``brier``.
        - ``macro_18`` and ``macro_16``: for each scorer the means of these over all labels and over the subscores; the
          latter with ``view_only_untied`` and the ``lift``, as `subgroups` has them.
        - ``micro``: for each scorer ``roc_auc``, ``precision``, ``recall`` and the two at thresholds, all labels of all
          films pooled: the numbers of the published study.
        - ``cortices``: what `subgroups` gives of a group, over the four subscores of each cortex among the films whose
          view shows it, unreadable ones included.
    """
    of_scorer = {
        name: _of_scorer(films.labels, scores, None if thresholds is None else np.array(thresholds[name].values))
        for name, scores in films.by_scorer.items()
    }
    groups = {
        cortex: _average_precision(films, films.shown[:, position], _columns_of(position))
        for position, cortex in enumerate(CORTICES)
        if films.shown[:, position].any()
    }
    everywhere = np.ones(len(films), dtype=bool)
    overall = _average_precision(films, everywhere, SUBSCORE_LABELS)

    def statistics(weights: np.ndarray) -> dict[str, Any]:
        found = {scorer: numbers_of(weights) for scorer, numbers_of in of_scorer.items()}
        prevalence = divide(weights @ films.labels, weights.sum(axis=1, keepdims=True))
        whole = overall(weights)
        return {
            "by_label": {
                label: {
                    "prevalence": prevalence[:, column],
                    **{scorer: {m: v[:, column] for m, v in each.items()} for scorer, (each, _) in found.items()},
                }
                for column, label in enumerate(LABELS)
            },
            "macro_18": {scorer: _macro(each, slice(None)) for scorer, (each, _) in found.items()},
            "macro_16": {
                **{scorer: _macro(each, SUBSCORE_LABELS) for scorer, (each, _) in found.items()},
                **{name: whole[name] for name in ("view_only_untied", "lift")},
            },
            "micro": {scorer: pooled for scorer, (_, pooled) in found.items()},
            "cortices": {cortex: group(weights) for cortex, group in groups.items()},
        }

    numbers = estimates(statistics, weights)
    for label, positives in zip(LABELS, films.labels.sum(axis=0, dtype=int).tolist(), strict=True):
        numbers["by_label"][label] = {"positives": positives, **numbers["by_label"][label]}
    for position, cortex in enumerate(CORTICES):
        if cortex in groups:
            numbers["cortices"][cortex] = {**_size(films, films.shown[:, position]), **numbers["cortices"][cortex]}
    return numbers


def subgroups(films: ScoredFilms, weights: np.ndarray) -> dict[str, Any]:
    """Return average precision over the 16 subscores in parts of the films.

    Args:
        films: with the scores to judge.
        weights: (resamples, n), of `rust_optuna.model.bootstrap.patient_weights`.

    Returns:
        for ``view``, ``films_of_visit`` (how many films the visit has) and, where it is known, ``source``: by the
        group's name, its numbers of ``films`` and ``patients``, the macro ``average_precision`` of the ``model``, of
        the baseline ``view_only`` and of ``view_only_untied`` (the same with its ties broken at random: what a model
        reaches that ranks at random within a view), and the ``lift``, the model's less that of ``view_only_untied``.
    """
    of_visit = Counter(films.visits)
    by = {
        "view": [VIEWS[view] for view in films.views],
        "films_of_visit": [str(of_visit[visit]) for visit in films.visits],
        **({} if films.sources is None else {"source": films.sources}),
    }
    masks = {kind: {name: np.array(names) == name for name in sorted(set(names))} for kind, names in by.items()}
    groups = {
        kind: {name: _average_precision(films, mask, SUBSCORE_LABELS) for name, mask in each.items()}
        for kind, each in masks.items()
    }
    numbers = estimates(
        lambda weights: {kind: {name: group(weights) for name, group in each.items()} for kind, each in groups.items()},
        weights,
    )
    return {
        kind: {name: {**_size(films, mask), **numbers[kind][name]} for name, mask in each.items()}
        for kind, each in masks.items()
    }


def mean_over_sources(films: ScoredFilms, weights: np.ndarray) -> dict[str, Any]:
    """Return the means over the sources of what `subgroups` has of each, however many films each has.

    The scores of films that were left out one source at a time are by different heads, and each head's training films
    have other label frequencies. So films are ranked within their source only.

    Args:
        films: with their sources.
        weights: (resamples, n), of `rust_optuna.model.bootstrap.patient_weights`.
    """
    sources = np.array(films.sources)
    groups = [
        _average_precision(films, sources == source, SUBSCORE_LABELS) for source in sorted(set(films.sources or ()))
    ]

    def statistics(weights: np.ndarray) -> dict[str, Any]:
        each = [group(weights) for group in groups]
        scorers = ("model", "view_only", "view_only_untied")
        return {
            **{
                scorer: {"average_precision": Inflated(_mean([of[scorer]["average_precision"].values for of in each]))}
                for scorer in scorers
            },
            "lift": Inflated(_mean([of["lift"].values for of in each]), limits=(-1.0, 1.0)),
        }

    return estimates(statistics, weights)


def source_words(groups: Mapping[str, Any], mean: Mapping[str, Any]) -> list[str]:
    """Return, in sentences, for which sources the model is not better than the baseline that sees only the view.

    Args:
        groups: the numbers of each source, as `subgroups` has them, their estimates as JSON objects.
        mean: of `mean_over_sources`, likewise.
    """
    named = {f"Films of {source}": group for source, group in groups.items()} | {"Mean over the sources": mean}
    return [f"{name}: {not_better(group)}" for name, group in named.items() if not is_better(group)]


def words(numbers: Mapping[str, Any]) -> list[str]:
    """Return, in sentences, where the model is not better than the baseline that sees only the view.

    It is better where the interval of its lift lies above 0.

    Args:
        numbers: of `label_numbers`, its estimates as JSON objects.
    """
    found = []
    overall = numbers["macro_16"]
    if is_better(overall):
        cortices = [cortex for cortex, group in numbers["cortices"].items() if not is_better(group)]
        if cortices:
            found.append(
                "The model is better than a baseline that sees only the view, but not in every cortex: not shown for "
                f"{_listed(cortices)}."
            )
    else:
        found.append(not_better(overall))
    if absent := [label for label, each in numbers["by_label"].items() if not each["positives"]]:
        found.append(f"No film has {_listed(absent)}: macro averages leave such labels out.")
    return found


def is_better(group: Mapping[str, Any]) -> bool:
    """Return whether the interval of a group's lift, an estimate as a JSON object, lies above 0."""
    return group["lift"]["low"] is not None and group["lift"]["low"] > 0


def not_better(group: Mapping[str, Any]) -> str:
    """Say in a sentence that a model is not better than the baseline that sees only the view.

    Args:
        group: what `subgroups` has of a group, its estimates as JSON objects.
    """
    lift = group["lift"]
    if lift["value"] is None:
        return "No film has a readable subscore, so nothing can be said of the model's average precision."
    model, baseline = (group[name]["average_precision"]["value"] for name in ("model", "view_only_untied"))
    worse = lift["high"] < 0
    return (
        f"The model is {'worse' if worse else 'not better'} than a baseline that sees only the view: over the 16 "
        f"subscores its average precision is {model:.3f}, the baseline's {baseline:.3f} (ties broken at random), and "
        f"the 95% interval of the difference, {lift['low']:+.3f} to {lift['high']:+.3f}, "
        f"{'lies below' if worse else 'reaches'} 0."
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _highest_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    positives = int(labels.sum(dtype=int))
    if not positives:
        return THRESHOLD
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.concatenate([ranked[1:] != ranked[:-1], [True]]))
    hits = labels[order].cumsum(dtype=int)[last]
    return float(ranked[last[np.argmax(2 * hits / (last + 1 + positives))]])


def _of_scorer(
    labels: np.ndarray, scores: np.ndarray, thresholds: np.ndarray | None
) -> Callable[[np.ndarray], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Return a function from weights to the metrics of one set of scores: of each label (B, 18), and pooled (B,)."""
    rankings = [Ranking.of(*column) for column in zip(labels.T, scores.T, strict=True)]
    pooled = Ranking.of(labels.ravel(), scores.ravel())
    # Each entry of the pooled ranking weighs as much as its film.
    columns = labels.shape[1]
    pooled = dataclasses.replace(pooled, order=pooled.order // columns, positives=pooled.positives // columns)
    predicted = {"": scores >= THRESHOLD}
    if thresholds is not None:
        predicted["_at_threshold"] = scores >= thresholds
    hits = {name: (chosen & (labels == 1)).astype(np.float64) for name, chosen in predicted.items()}
    chosen = {name: each.astype(np.float64) for name, each in predicted.items()}
    squares = (scores.astype(np.float64) - labels) ** 2

    def statistics(weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        counts = [ranking.counts(weights) for ranking in rankings]
        positives = weights @ labels
        each = {
            "average_precision": np.stack([count.average_precision() for count in counts], axis=1),
            "roc_auc": np.stack([count.roc_auc() for count in counts], axis=1),
        }
        micro = {"roc_auc": pooled.counts(weights).roc_auc()}
        for name in predicted:
            found, claimed = weights @ hits[name], weights @ chosen[name]
            each |= {f"precision{name}": divide(found, claimed), f"recall{name}": divide(found, positives)}
            micro[f"precision{name}"] = divide(found.sum(axis=1), claimed.sum(axis=1))
            micro[f"recall{name}"] = divide(found.sum(axis=1), positives.sum(axis=1))
        each["brier"] = divide(weights @ squares, weights.sum(axis=1, keepdims=True))
        return each, micro

    return statistics


def _average_precision(films: ScoredFilms, which: np.ndarray, columns: slice) -> Statistics:
    """Return a function from weights to the average precision over some labels, among some films, and its lift."""
    labels = films.labels[which, columns]

    def rank(scores: np.ndarray) -> list[Ranking]:
        return [Ranking.of(*column) for column in zip(labels.T, scores[which, columns].T, strict=True)]

    ours, baseline = rank(films.scores), rank(films.view_only)

    def statistics(weights: np.ndarray) -> dict[str, Any]:
        weights = weights.T[which].T
        trivial = [ranking.counts(weights) for ranking in baseline]
        model = _mean([ranking.counts(weights).average_precision() for ranking in ours])
        untied = _mean([counts.expected_average_precision() for counts in trivial])
        return {
            "model": {"average_precision": Inflated(model)},
            "view_only": {"average_precision": Inflated(_mean([counts.average_precision() for counts in trivial]))},
            "view_only_untied": {"average_precision": Inflated(untied)},
            "lift": Inflated(model - untied, limits=(-1.0, 1.0)),
        }

    return statistics


def _mean(of_labels: Sequence[np.ndarray]) -> np.ndarray:
    return mean_of_defined(np.stack(of_labels, axis=1))


def _columns_of(cortex: int) -> slice:
    start = len(VIEWS) + len(SUBSCORES) * cortex
    return slice(start, start + len(SUBSCORES))


def _macro(of_labels: Mapping[str, np.ndarray], columns: slice) -> dict[str, np.ndarray | Inflated]:
    means = {name: mean_of_defined(values[:, columns]) for name, values in of_labels.items()}
    return {**means, "average_precision": Inflated(means["average_precision"])}


def _size(films: ScoredFilms, which: np.ndarray) -> dict[str, int]:
    chosen = np.flatnonzero(which)
    return {"films": len(chosen), "patients": len({films.patients[position] for position in chosen})}
