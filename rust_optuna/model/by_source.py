"""The numbers of a cross-validation that leaves out one source (hospital or earlier study) at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rust_optuna.model.bootstrap import RESAMPLES, SEED, patient_weights
from rust_optuna.model.cortex_numbers import cortex_numbers
from rust_optuna.model.label_numbers import label_numbers, mean_over_sources, source_words, subgroups
from rust_optuna.model.scored import ScoredFilms, plain


@dataclass(frozen=True)
class SourceEvaluation:
    """How a model does on the films of sources that it was not trained on.

    Args:
        folder: the report.
        numbers: what ``numbers.json`` holds.
    """

    folder: Path
    numbers: Mapping[str, Any]


def measure_by_source(films: ScoredFilms, *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Any]:
    """Return the numbers of films that were scored by the head that did not see their source.

    All scores there are were made without the film's source, so none are left to calibrate with: there are no
    thresholds, no sets of subscores and no intervals of totals.

    Args:
        films: with sources, scores, and baselines of the films of the other sources.
        resamples: how many times patients are drawn.
        seed: of the draws.

    Returns:
        - ``films``, ``patients`` and ``visits``: how many; ``bootstrap``: ``resamples`` and ``seed``.
        - ``subgroups``: see `subgroups`; ``source`` is among them. ``mean_over_sources``: see `mean_over_sources`.
        - ``labels``: see `label_numbers`, all films pooled; ``subscores``: see `cortex_numbers`.
        - ``words``: see `source_words`.
    """
    weights = patient_weights(films.patients, resamples, seed)
    numbers = {
        **films.counts,
        "bootstrap": {"resamples": resamples, "seed": seed},
        "subgroups": subgroups(films, weights),
        "mean_over_sources": mean_over_sources(films, weights),
        "labels": label_numbers(films, None, weights),
        "subscores": cortex_numbers(films, weights),
    }
    document: dict[str, Any] = plain(numbers)
    return {**document, "words": source_words(document["subgroups"]["source"], document["mean_over_sources"])}
