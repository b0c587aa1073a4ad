"""All numbers of an evaluation in one document, and all that is fitted on out-of-fold scores before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rust_optuna.model.bootstrap import RESAMPLES, SEED, patient_weights
from rust_optuna.model.conformal import CortexConformal, conformal_numbers
from rust_optuna.model.cortex_numbers import cortex_numbers
from rust_optuna.model.fracture_numbers import TotalCalibration, fracture_numbers
from rust_optuna.model.fracture_numbers import words as fracture_words
from rust_optuna.model.label_numbers import LabelThresholds, label_numbers, subgroups
from rust_optuna.model.label_numbers import words as label_words
from rust_optuna.model.reader_numbers import reader_numbers
from rust_optuna.model.scored import ScoredFilms, plain

FEW_PATIENTS = 20
"""The number of patients below which intervals by resampling patients are clearly too narrow."""


@dataclass(frozen=True)
class Calibration:
    """What is fitted on out-of-fold scores, for the model and each baseline (`ScoredFilms.by_scorer`) on its own.

    Args:
        thresholds: from which score on a film is said to have a label.
        conformals: how improbable a subscore may be that is still in a cortex's set.
        totals: how far a fracture's total lies from the expected one, and from which total on it is united.
    """

    thresholds: Mapping[str, LabelThresholds]
    conformals: Mapping[str, CortexConformal]
    totals: Mapping[str, TotalCalibration]

    @classmethod
    def fit(cls, out_of_fold: ScoredFilms, threshold: float | None = None) -> Calibration:
        """Fit everything.

        Args:
            out_of_fold: films with scores of models, and of baselines, that were fitted without them.
            threshold: the total from which on a fracture is united; None for the usual one of the scale.

        Raises:
            InvalidValueError: the threshold does not divide the totals of the films' scale.
        """
        films = {name: out_of_fold.with_scores(scores) for name, scores in out_of_fold.by_scorer.items()}
        return cls(
            thresholds={name: LabelThresholds.fit(each) for name, each in films.items()},
            conformals={name: CortexConformal.fit(each) for name, each in films.items()},
            totals={name: TotalCalibration.fit(each, threshold) for name, each in films.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything by kind and scorer."""
        return {
            "thresholds": {name: each.to_json() for name, each in self.thresholds.items()},
            "conformals": {name: each.to_json() for name, each in self.conformals.items()},
            "totals": {name: each.to_json() for name, each in self.totals.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Calibration:
        """Return what `to_json` made a JSON object of.

        Raises:
            KeyError: something is missing.
            ValueError: something is none of what it should be.
        """
        return cls(
            thresholds={name: LabelThresholds.from_json(each) for name, each in document["thresholds"].items()},
            conformals={name: CortexConformal.from_json(each) for name, each in document["conformals"].items()},
            totals={name: TotalCalibration.from_json(each) for name, each in document["totals"].items()},
        )


def measure(
    films: ScoredFilms, calibration: Calibration, *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Any]:
    """Return all numbers of scored films, with intervals and beside two trivial baselines, as a JSON document.

    A number with an interval is an object with ``value``, ``low``, ``high`` and ``resamples``
    (`rust_optuna.model.scored.Estimate`); one that is not defined is None.

    Args:
        films: with the scores to judge; none of them was trained on or calibrated with.
        calibration: fitted on out-of-fold scores of the same kind of model.
        resamples: how many times patients are drawn.
        seed: of the draws.

    Returns:
        - ``films``, ``patients`` and ``visits``: how many; ``bootstrap``: ``resamples`` and ``seed``.
        - ``labels``: see `label_numbers`; ``subgroups``: see `subgroups`.
        - ``subscores``: see `cortex_numbers`; ``sets``: see `conformal_numbers`; ``fractures``: see `fracture_numbers`.
        - ``readers``, where the films have any: see `reader_numbers`.
    """
    weights = patient_weights(films.patients, resamples, seed)
    numbers = {
        **films.counts,
        "bootstrap": {"resamples": resamples, "seed": seed},
        "labels": label_numbers(films, calibration.thresholds, weights),
        "subgroups": subgroups(films, weights),
        "subscores": cortex_numbers(films, weights),
        "sets": conformal_numbers(films, calibration.conformals, weights),
        "fractures": fracture_numbers(films, calibration.totals, weights),
    }
    if films.readers is not None:
        numbers["readers"] = reader_numbers(films, weights)
    document: dict[str, Any] = plain(numbers)
    return document


def words(document: Mapping[str, Any]) -> list[str]:
    """Return, in sentences, what a reader of the numbers must not miss, bad news above all.

    Args:
        document: of `measure`.
    """
    patients = document["patients"]
    few = []
    if patients < FEW_PATIENTS:
        counted = "1 patient" if patients == 1 else f"{patients} patients"
        few.append(f"The intervals rest on {counted}: resampling so few gives intervals that are too narrow.")
    return few + label_words(document["labels"]) + fracture_words(document["fractures"])
