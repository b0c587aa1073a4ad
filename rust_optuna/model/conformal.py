"""Sets of subscores that hold a cortex's label in 90% of cases, whatever the label is, and the quantiles behind them.

**What is guaranteed.** Take patients who are exchangeable, those of the calibration and a new one; scores by a model
that saw none of them; a class, such as subscore 2 of the medial cortex; and a film of that class, drawn at random from
those of a patient who has one, drawn at random likewise. Then the chance that the film's set holds its class is at
least 90%. It is a mean over calibrations and patients: for one calibration it varies, the more so the fewer patients
there are, and nothing is said of one patient's films.

Here the condition on the model is kept in part only. The calibration's scores are out-of-fold, so they come from the
models of several folds, and the sets are for another model of the same recipe, trained on all or most of these patients
(cross-conformal). That usually covers what it should, but no theorem promises more than 1 − 2α, 80%, in the worst case,
and that for a set that compares the new film with each fold's model, as CV+ does.

References:
    V. Vovk, "Conditional validity of inductive conformal predictors", Asian Conference on Machine Learning (2012).
    M. Sadinle, J. Lei and L. Wasserman, "Least ambiguous set-valued classifiers with bounded error levels", Journal of
    the American Statistical Association 114 (2019).
    Y. Romano, M. Sesia and E. Candès, "Classification with valid and adaptive coverage", NeurIPS (2020).
    R. F. Barber, E. Candès, A. Ramdas and R. Tibshirani, "Predictive inference with the jackknife+", Annals of
    Statistics 49 (2021).
    Y. Lee, R. F. Barber and R. Willett, "Distribution-free inference with hierarchical data", arXiv:2306.06342 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rust_optuna.data.manifest import CORTICES, SUBSCORES
from rust_optuna.model.bootstrap import estimates
from rust_optuna.model.cortex_numbers import CLASSES, most_probable, subscore_distribution
from rust_optuna.model.scale import Scale
from rust_optuna.model.scored import UNREADABLE, ScoredFilms
from rust_optuna.model.weighted import divide, mean_of_defined

COVERAGE = 0.9
FEWEST_PATIENTS = 9
"""How many calibration patients a coverage of 90% needs: n/(n + 1) ≥ 0.9."""
ROUNDING = 1e-9
"""Numbers that differ by less are equal but for rounding: a label at the very end of an interval is inside."""
CLASS_NAMES = (*map(str, SUBSCORES), "unreadable")


def patient_shares(patients: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return what each film, or fracture, counts where each patient counts once: 1 / (those of its patient), (n,)."""
    _, patient_of, counts = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[patient_of])


def conformal_quantile(values: np.ndarray, shares: np.ndarray, coverage: float = COVERAGE) -> float:
    """Return the bound that a new patient's value keeps with a chance of at least ``coverage``.

    Each of m patients has the weight 1/(m + 1), which its values share, and the new one, whose value may be anything,
    has the rest. The bound is the lowest value up to which the weights add up to ``coverage``.

    Args:
        values: (n,), of m patients; a patient may have several.
        shares: (n,), of `patient_shares`.
        coverage: between 0 and 1.

    Returns:
        infinity where the patients are too few: fewer than 9 for a coverage of 90%.
    """
    patients = round(float(shares.sum()))
    order = np.argsort(values, kind="stable")
    enough = shares[order].cumsum() >= coverage * (patients + 1) - ROUNDING
    return float(values[order[enough.argmax()]]) if enough.any() else math.inf


@dataclass(frozen=True)
class CortexConformal:
    """How improbable a model may find a class, cortex by cortex, that is still to be in the set.

    A class c is in the set where 1 − p_c is at most the quantile of the same over the calibration films whose label is
    c. A class with fewer than 9 calibration patients is in every set. Subscores are ordered, so those between two that
    are in the set are in it too, which covers no less; unreadable stands apart. A set that would be empty holds the
    most probable class. Subscore 4 is in no set where the scale is RUST, which has none.

    Args:
        scale: of the calibration films.
        quantiles: by cortex, one for each subscore and for unreadable; infinite where there are too few patients.
        patients: how many calibration patients each rests on.
    """

    scale: Scale
    quantiles: tuple[tuple[float, ...], ...]
    patients: tuple[tuple[int, ...], ...]

    @classmethod
    def fit(cls, out_of_fold: ScoredFilms) -> CortexConformal:
        """Return the quantiles of films.

        Args:
            out_of_fold: films with scores of models that were trained without them.
        """
        distributions, names = subscore_distribution(out_of_fold.scores), np.array(out_of_fold.patients)
        quantiles, patients = np.zeros((len(CORTICES), CLASSES)), np.zeros((len(CORTICES), CLASSES), dtype=int)
        for cortex, kind in np.ndindex(quantiles.shape):
            of_class = out_of_fold.shown[:, cortex] & (out_of_fold.classes[:, cortex] == kind)
            shares = patient_shares(names[of_class])
            quantiles[cortex, kind] = conformal_quantile(1 - distributions[of_class, cortex, kind], shares)
            patients[cortex, kind] = len(set(names[of_class]))
        return cls(Scale.of(out_of_fold), _rows(quantiles), _rows(patients))

    def sets(self, scores: np.ndarray) -> np.ndarray:
        """Return the set of each cortex of each film.

        Args:
            scores: (n, 18), probabilities.

        Returns:
            (n, 4, 5) bool, subscores 1 to 4 and unreadable. A cortex that the film's view does not show has a set too,
            which means nothing.
        """
        distributions = subscore_distribution(scores)
        distributions[:, :, self.scale.highest : UNREADABLE] = 0
        found = 1 - distributions <= np.array(self.quantiles) + ROUNDING
        found[:, :, self.scale.highest : UNREADABLE] = False
        empty = ~found.any(axis=2)
        found[empty, most_probable(distributions)[empty]] = True
        subscores = found[:, :, :UNREADABLE]
        from_below = np.logical_or.accumulate(subscores, axis=2)
        from_above = np.logical_or.accumulate(subscores[:, :, ::-1], axis=2)[:, :, ::-1]
        found[:, :, :UNREADABLE] = from_below & from_above
        return np.asarray(found)

    def to_json(self) -> dict[str, Any]:
        """Return the scale, and for each cortex and class the quantile (None for infinity) and its patients."""
        return {
            "scale": self.scale.value,
            "quantiles": _by_name([[None if math.isinf(q) else q for q in row] for row in self.quantiles]),
            "patients": _by_name(self.patients),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CortexConformal:
        """Return what `to_json` made a JSON object of.

        Raises:
            KeyError: a cortex or a class is missing.
            ValueError: there is no such scale.
        """
        quantiles = [[math.inf if q is None else float(q) for q in row] for row in _by_place(document["quantiles"])]
        patients = [[int(number) for number in row] for row in _by_place(document["patients"])]
        return cls(Scale(document["scale"]), tuple(map(tuple, quantiles)), tuple(map(tuple, patients)))


def conformal_numbers(
    films: ScoredFilms, conformals: Mapping[str, CortexConformal], weights: np.ndarray
) -> dict[str, Any]:
    """Return how often the sets hold the label, and how large they are.

    Each patient counts once, as in the calibration: its films share its weight, or those of a class do.

    Args:
        films: with the scores to judge.
        conformals: for the model and each baseline (`ScoredFilms.by_scorer`), fitted on its own out-of-fold scores.
        weights: (resamples, n), of `rust_optuna.model.bootstrap.patient_weights`.

    Returns:
        - ``aim``: the coverage that was asked for.
        - ``cortices``: for each cortex that some film shows, and each scorer, ``coverage``, ``mean_size`` and, by
          ``classes``, the two for each class, with its numbers of ``films``, their ``patients`` and
          ``calibration_patients``.
        - ``classes``: the same for each class over all cortices.
        - ``mean``: for each scorer the means of the cortices' ``coverage`` and ``mean_size``.
    """
    sets = {name: conformals[name].sets(scores) for name, scores in films.by_scorer.items()}
    held = {
        name: np.take_along_axis(each, films.classes[:, :, np.newaxis], axis=2)[:, :, 0] for name, each in sets.items()
    }
    sizes = {name: each.sum(axis=2) for name, each in sets.items()}
    names = np.array(films.patients)

    def judge(where: np.ndarray) -> _Judged:
        """Judge the films' cortices in a mask, (n, 4)."""
        film_of, _ = np.nonzero(where)
        return _Judged(
            film_of,
            patient_shares(names[film_of]),
            {name: np.stack([held[name][where], sizes[name][where]], axis=1).astype(np.float64) for name in sets},
        )

    of_class = [films.shown & (films.classes == kind) for kind in range(CLASSES)]
    of_cortex = {
        cortex: films.shown & (np.arange(len(CORTICES)) == position)
        for position, cortex in enumerate(CORTICES)
        if films.shown[:, position].any()
    }
    classes = {name: judge(where) for name, where in zip(CLASS_NAMES, of_class, strict=True)}
    cortices = {cortex: judge(where) for cortex, where in of_cortex.items()}
    within = {
        cortex: {name: judge(of & where) for name, of in zip(CLASS_NAMES, of_class, strict=True)}
        for cortex, where in of_cortex.items()
    }

    def statistics(weights: np.ndarray) -> dict[str, Any]:
        overall = {cortex: judged.statistics(weights) for cortex, judged in cortices.items()}
        return {
            "cortices": {
                cortex: {
                    **found,
                    "classes": {name: judged.statistics(weights) for name, judged in within[cortex].items()},
                }
                for cortex, found in overall.items()
            },
            "classes": {name: judged.statistics(weights) for name, judged in classes.items()},
            "mean": {name: _mean([found[name] for found in overall.values()]) for name in sets},
        }

    numbers = estimates(statistics, weights)
    for name, judged in classes.items():
        numbers["classes"][name] = {**judged.size(), **numbers["classes"][name]}
    for cortex in cortices:
        patients = conformals["model"].patients[CORTICES.index(cortex)]
        of = numbers["cortices"][cortex]["classes"]
        for name, calibration_patients in zip(CLASS_NAMES, patients, strict=True):
            size = {**within[cortex][name].size(), "calibration_patients": calibration_patients}
            of[name] = {**size, **of[name]}
    return {"aim": COVERAGE, **numbers}


@dataclass(frozen=True, eq=False)
class _Judged:
    """Sets that are judged together.

    Args:
        film_of: (s,) the film of each.
        shares: (s,) what each counts.
        columns: for each scorer, (s, 2): whether the set holds the label, and its size.
    """

    film_of: np.ndarray
    shares: np.ndarray
    columns: Mapping[str, np.ndarray]

    def size(self) -> dict[str, int]:
        return {"films": len(set(self.film_of.tolist())), "patients": round(float(self.shares.sum()))}

    def statistics(self, weights: np.ndarray) -> dict[str, Any]:
        shares = weights.T[self.film_of].T * self.shares
        count = shares.sum(axis=1, keepdims=True)
        found = {name: divide(shares @ columns, count) for name, columns in self.columns.items()}
        return {name: {"coverage": means[:, 0], "mean_size": means[:, 1]} for name, means in found.items()}


def _mean(cortices: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: mean_of_defined(np.stack([of[name] for of in cortices], axis=1)) for name in cortices[0]}


def _rows(table: np.ndarray) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, table.tolist()))


def _by_name(table: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    return {cortex: dict(zip(CLASS_NAMES, row, strict=True)) for cortex, row in zip(CORTICES, table, strict=True)}


def _by_place(document: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    return [[document[cortex][name] for name in CLASS_NAMES] for cortex in CORTICES]
