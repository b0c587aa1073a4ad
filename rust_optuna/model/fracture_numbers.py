"""What scores are worth fracture by fracture: the total over four cortices, and whether it is united.

A fracture is what the films of one visit show. Its total is the sum of the subscores of its four cortices: RUST, or
modified RUST (`rust_optuna.model.scale`). Where several films show a cortex, its label is the mean over those in which
it is readable. Its distribution is the mean over all of them, so that films in which a model cannot read it count less.

The distribution of a total is *not* that of a sum of independent subscores. Four cortices of a fracture share one stage
of healing, so that a model errs in the same direction in all of them, and an independent sum would be far too sure of
itself. Nor is its mean the sum of the expected subscores: each is drawn towards the mean as if the other three cortices
said nothing, so such sums vary too little. Both is made good on films that the model was not trained on: by a line from
expected to read totals, and by what that line misses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rust_optuna.errors import InvalidValueError
from rust_optuna.model.agreement import intraclass_correlation
from rust_optuna.model.bootstrap import estimates
from rust_optuna.model.conformal import FEWEST_PATIENTS, ROUNDING, conformal_quantile, patient_shares
from rust_optuna.model.cortex_numbers import subscore_distribution
from rust_optuna.model.logistic import calibration_intercept, calibration_slope
from rust_optuna.model.scale import Scale
from rust_optuna.model.scored import UNREADABLE, ScoredFilms
from rust_optuna.model.weighted import Ranking, divide

BLAND_ALTMAN = 1.96
"""How many standard deviations the limits of agreement lie from the bias."""
FLAT = 1e-3
"""Expected totals with a standard deviation below this, in points of the scale, tell no fracture from another."""
DIGITS = 12
"""Decimal places of probabilities; what lies below depends on the order in which shares are summed."""
BINS = 10
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TREATMENT_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True, eq=False)
class Fractures:
    """The fractures of films: visits whose films show all four cortices, each readable in one film at least.

    Args:
        visits: the visit of each of f fractures.
        patients: its patient.
        first: (f,) position of one of its films; all of them have the same patient.
        labels: (f,) float64, the totals read.
        expected: (f,) float64, the totals to be expected by the films' scores, given that each cortex is readable.
        off_scale: how many further fractures hold a subscore that the scale lacks. They are left out.
    """

    visits: tuple[str, ...]
    patients: tuple[str, ...]
    first: np.ndarray
    labels: np.ndarray
    expected: np.ndarray
    off_scale: int

    @classmethod
    def of(cls, films: ScoredFilms, scale: Scale) -> Fractures:
        """Find the fractures of films.

        Args:
            films: with the scores of which the expected totals are taken.
            scale: on which the totals are.
        """
        visits, first, visit_of = np.unique(np.asarray(films.visits), return_index=True, return_inverse=True)
        subscores = np.where(films.classes == UNREADABLE, np.nan, films.classes + 1.0)
        labels = _mean_by(visit_of, subscores[:, :, np.newaxis], len(visits))[:, :, 0]
        distributions = np.where(films.shown[:, :, np.newaxis], subscore_distribution(films.scores), np.nan)
        of_cortex = _mean_by(visit_of, distributions, len(visits))[:, :, : scale.highest]
        expected = of_cortex @ np.arange(1.0, scale.highest + 1) / of_cortex.sum(axis=2)
        whole = ~np.isnan(labels + expected).any(axis=1)
        highest = np.zeros(len(visits))
        np.maximum.at(highest, visit_of, np.nan_to_num(subscores).max(axis=1))
        fits = highest <= scale.highest
        chosen = np.flatnonzero(whole & fits)
        return cls(
            visits=tuple(visits[chosen].tolist()),
            patients=tuple(films.patients[film] for film in first[chosen]),
            first=first[chosen],
            labels=labels[chosen].sum(axis=1),
            expected=expected[chosen].sum(axis=1),
            off_scale=int((whole & ~fits).sum()),
        )

    def __len__(self) -> int:
        return len(self.visits)


@dataclass(frozen=True)
class TotalCalibration:
    """How read totals lie about expected ones in films that a model was not trained on.

    A line of least squares leads from the expected total to the predicted one. It never falls: where expected totals
    say nothing, everything is predicted to be the mean. A new total is the predicted one plus one of the residuals,
    rounded to a whole number and kept within the scale. Each residual is taken from the line through the fractures of
    the other patients. Of m patients each has the weight 1/(m + 1), which its fractures share; the new one's, whose
    residual is not known, is spread evenly over all totals. So no total has the probability 0.

    Args:
        scale: on which the totals are.
        threshold: the total from which on a fracture counts as united.
        intercept: of the line.
        slope: of the line, 0 or more. With fewer than 9 patients the line is that of equality, 0 and 1.
        residuals: label − predicted total of each calibration fracture.
        shares: what each counts, adding up to the number of patients.
    """

    scale: Scale
    threshold: float
    intercept: float
    slope: float
    residuals: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def fit(cls, out_of_fold: ScoredFilms, threshold: float | None = None) -> TotalCalibration:
        """Return the line and the residuals of films' fractures.

        Args:
            out_of_fold: films with scores of models that were trained without them.
            threshold: the total from which on a fracture counts as united; None: what is usual on the films' scale.

        Raises:
            InvalidValueError: the threshold does not divide the scale.
        """
        scale = Scale.of(out_of_fold)
        lowest, highest = scale.totals
        if threshold is not None and not lowest < threshold <= highest:
            raise InvalidValueError(
                f"a threshold of {threshold:g} for united fractures does not divide the totals of {scale.words}, which "
                f"go from {lowest} to {highest}: name one above {lowest} and up to {highest}"
            )
        found = Fractures.of(out_of_fold, scale)
        names, patient_of = np.unique(np.asarray(found.patients), return_inverse=True)
        shares = patient_shares(found.patients)
        intercept, slope, without = 0.0, 1.0, found.expected
        if len(names) >= FEWEST_PATIENTS:
            ((intercept,), (slope,)) = _lines(found.expected, found.labels, shares[np.newaxis])
            others = np.arange(len(names))[:, np.newaxis] != patient_of
            intercepts, slopes = _lines(found.expected, found.labels, shares * others)
            without = intercepts[patient_of] + slopes[patient_of] * found.expected
        return cls(
            scale=scale,
            threshold=float(scale.united if threshold is None else threshold),
            intercept=float(intercept),
            slope=float(slope),
            residuals=tuple((found.labels - np.clip(without, lowest, highest)).tolist()),
            shares=tuple(shares.tolist()),
        )

    @property
    def patients(self) -> int:
        """How many patients the residuals are of."""
        return round(sum(self.shares))

    @property
    def half_width(self) -> float:
        """How far the 90% interval reaches from the predicted total; infinite with fewer than 9 patients.

        It is the hierarchical conformal quantile of the absolute residuals, so a new patient's total lies inside with a
        chance of about 90%, on the conditions that `rust_optuna.model.conformal` names.
        """
        return conformal_quantile(np.abs(self.residuals), np.array(self.shares))

    def predicted(self, expected: np.ndarray) -> np.ndarray:
        """Return the predicted totals of expected ones, (f,), within the scale."""
        return np.clip(self.intercept + self.slope * expected, *self.scale.totals)

    def intervals(self, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and the upper end of the 90% interval of each total, within the scale, (f,) each."""
        (lowest, highest), predicted = self.scale.totals, self.predicted(expected)
        return np.maximum(predicted - self.half_width, lowest), np.minimum(predicted + self.half_width, highest)

    def distribution(self, expected: np.ndarray) -> np.ndarray:
        """Return how probable each total of the scale is, from the lowest to the highest, (f, totals)."""
        lowest, highest = self.scale.totals
        predicted = self.predicted(expected)[:, np.newaxis] + np.array(self.residuals)
        # Half a point is rounded up, and so is what lies below it by rounding errors alone.
        whole = np.clip(np.floor(predicted + 0.5 + ROUNDING), lowest, highest)
        shares = np.array(self.shares)
        totals = np.arange(lowest, highest + 1)
        weight = np.stack([(whole == total) @ shares for total in totals], axis=1)
        return np.asarray((weight + 1 / len(totals)) / (self.patients + 1))

    def united(self, expected: np.ndarray) -> np.ndarray:
        """Return the probability that a fracture is united, (f,): that of all totals from the threshold on.

        Probabilities that differ by rounding errors alone are made equal, to the bit: they are ties.
        """
        lowest, highest = self.scale.totals
        from_threshold = np.arange(lowest, highest + 1) >= self.threshold
        return np.asarray(np.round(self.distribution(expected)[:, from_threshold].sum(axis=1), DIGITS))

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as a JSON object."""
        return {
            "scale": self.scale.value,
            "threshold": self.threshold,
            "intercept": self.intercept,
            "slope": self.slope,
            "residuals": list(self.residuals),
            "shares": list(self.shares),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TotalCalibration:
        """Return what `to_json` made a JSON object of.

        Raises:
            KeyError: something is missing.
            ValueError: there is no such scale.
        """
        return cls(
            scale=Scale(document["scale"]),
            threshold=float(document["threshold"]),
            intercept=float(document["intercept"]),
            slope=float(document["slope"]),
            residuals=tuple(map(float, document["residuals"])),
            shares=tuple(map(float, document["shares"])),
        )


def fracture_numbers(
    films: ScoredFilms, calibrations: Mapping[str, TotalCalibration], weights: np.ndarray
) -> dict[str, Any]:
    """Return the numbers of the fractures.

    Args:
        films: with the scores to judge.
        calibrations: for the model and each baseline (`ScoredFilms.by_scorer`), fitted on its own out-of-fold scores;
            all of them on one scale and with one threshold.
        weights: (resamples, n), of `rust_optuna.model.bootstrap.patient_weights`.

    Returns:
        ``scale``, ``threshold``, the numbers of ``fractures``, their ``patients`` and ``calibration_patients``,
        ``off_scale`` (fractures left out because RUST lacks one of their subscores), and, each None where there is no
        fracture:

        - ``total``: for each scorer ``mean_absolute_error``, ``icc`` (ICC(2,1) of label and predicted total), ``bias``
          with ``lower_limit`` and ``upper_limit`` (Bland and Altman's: the mean of predicted − label, and 1.96
          standard deviations about it), ``coverage`` and ``mean_width`` of the 90% interval (each patient counts once,
          as in the calibration); ``error_difference``: the model's mean absolute error less that of ``view_only``,
          below 0 where the model is better.
        - ``united``: ``prevalence`` and, for each scorer, ``roc_auc``, ``brier``, ``calibration_slope`` and
          ``calibration_intercept`` (`rust_optuna.model.logistic`), ``calibration_curve`` (for each tenth of the
          probabilities its ``fractures`` and the mean probability ``predicted`` beside the share ``observed``) and
          ``probabilities`` (quantiles of the probability, without intervals, among ``united`` fractures and among
          ``not_united`` ones).
        - ``net_benefit``: by threshold t, from 0.05 to 0.95, hits/N − false alarms/N × t/(1 − t), where each scorer
          calls united what has at least the probability t; beside it ``all`` (everything is called united) and ``none``
          (nothing is: 0).

    References:
        J. M. Bland and D. G. Altman, "Statistical methods for assessing agreement between two methods of clinical
        measurement", Lancet 327 (1986).
        A. J. Vickers and E. B. Elkin, "Decision curve analysis", Medical Decision Making 26 (2006).
    """
    calibration = calibrations["model"]
    found = {
        name: Fractures.of(films.with_scores(scores), calibration.scale) for name, scores in films.by_scorer.items()
    }
    fractures = found["model"]
    size = {
        "scale": calibration.scale.value,
        "threshold": calibration.threshold,
        "fractures": len(fractures),
        "patients": len(set(fractures.patients)),
        "calibration_patients": calibration.patients,
        "off_scale": fractures.off_scale,
    }
    if not len(fractures):
        return {**size, "total": None, "united": None, "net_benefit": None}
    scored = {name: _Scored(of_scorer, calibrations[name]) for name, of_scorer in found.items()}
    outcomes = scored["model"].outcomes

    def statistics(weights: np.ndarray) -> dict[str, Any]:
        weights = weights.T[fractures.first].T
        totals = {name: each.total(weights) for name, each in scored.items()}
        difference = totals["model"]["mean_absolute_error"] - totals["view_only"]["mean_absolute_error"]
        every = np.ones((len(fractures), 1), dtype=bool)
        return {
            "total": {**totals, "error_difference": difference},
            "united": {
                "prevalence": divide(weights @ outcomes.astype(np.float64), weights.sum(axis=1)),
                **{name: each.united(weights) for name, each in scored.items()},
            },
            "net_benefit": {
                **{name: each.net_benefit(weights) for name, each in scored.items()},
                "all": _net_benefit(every, outcomes, weights),
                "none": _net_benefit(~every, outcomes, weights),
            },
        }

    numbers = estimates(statistics, weights)
    for name, each in scored.items():
        curve = numbers["united"][name]["calibration_curve"]
        for place, (interval, means) in enumerate(curve.items()):
            curve[interval] = {"fractures": int((each.bins == place).sum()), **means}
        numbers["united"][name]["probabilities"] = {
            "united": _quantiles(each.probabilities[outcomes]),
            "not_united": _quantiles(each.probabilities[~outcomes]),
        }
    return {**size, **numbers}


def words(numbers: Mapping[str, Any]) -> list[str]:
    """Return, in sentences, where the model's totals are not better than the baseline that sees only the view.

    Args:
        numbers: of `fracture_numbers`, its estimates as JSON objects.
    """
    if not numbers["fractures"]:
        return ["No visit has films of all four cortices with a readable label, so nothing can be said of totals."]
    found = []
    difference = numbers["total"]["error_difference"]
    if difference["high"] >= 0:
        worse = difference["low"] > 0
        ours, theirs = (numbers["total"][name]["mean_absolute_error"]["value"] for name in ("model", "view_only"))
        found.append(
            f"The model's totals are {'further from' if worse else 'not closer to'} the label than those of a baseline "
            f"that sees only the view: their mean absolute error is {ours:.2f}, the baseline's {theirs:.2f}, and the "
            f"interval of the difference, {difference['low']:.2f} to {difference['high']:.2f}, "
            f"{'lies above' if worse else 'reaches'} 0."
        )
    if numbers["calibration_patients"] < FEWEST_PATIENTS:
        found.append(
            f"The interval of a total is the whole scale: it rests on {numbers['calibration_patients']} patients with "
            f"out-of-fold totals, and 90% coverage needs {FEWEST_PATIENTS}."
        )
    if numbers["off_scale"]:
        found.append(
            f"{numbers['off_scale']} fractures are left out of the totals: they have a subscore of 4, which the "
            "training films' scale, RUST, lacks."
        )
    return found


class _Scored:
    """Fractures as one scorer sees them.

    Args:
        fractures: with the scorer's expected totals.
        calibration: of the scorer.
    """

    def __init__(self, fractures: Fractures, calibration: TotalCalibration) -> None:
        self.fractures = fractures
        self.outcomes = fractures.labels >= calibration.threshold
        self.probabilities = calibration.united(fractures.expected)
        self.bins = np.minimum(np.floor(self.probabilities * BINS + ROUNDING), BINS - 1)
        self._predicted = calibration.predicted(fractures.expected)
        self._errors = self._predicted - fractures.labels
        low, high = calibration.intervals(fractures.expected)
        covered = np.abs(self._errors) <= calibration.half_width + ROUNDING
        self._intervals = np.stack([covered, high - low], axis=1)
        self._shares = patient_shares(fractures.patients)
        self._ranking = Ranking.of(self.outcomes.astype(np.uint8), self.probabilities)
        self._called = self.probabilities[:, np.newaxis] >= np.array(TREATMENT_THRESHOLDS) - ROUNDING

    def total(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        count = weights.sum(axis=1)
        bias = divide(weights @ self._errors, count)
        squares = weights @ self._errors**2 - count * bias**2
        limit = BLAND_ALTMAN * np.sqrt(divide(np.maximum(squares, 0), count - 1))
        shares = weights * self._shares
        of_intervals = divide(shares @ self._intervals, shares.sum(axis=1, keepdims=True))
        return {
            "mean_absolute_error": divide(weights @ np.abs(self._errors), count),
            "icc": intraclass_correlation(np.stack([self.fractures.labels, self._predicted]), weights),
            "bias": bias,
            "lower_limit": bias - limit,
            "upper_limit": bias + limit,
            "coverage": of_intervals[:, 0],
            "mean_width": of_intervals[:, 1],
        }

    def united(self, weights: np.ndarray) -> dict[str, Any]:
        squares = (self.probabilities - self.outcomes) ** 2
        return {
            "roc_auc": self._ranking.counts(weights).roc_auc(),
            "brier": divide(weights @ squares, weights.sum(axis=1)),
            "calibration_slope": calibration_slope(self.probabilities, self.outcomes, weights),
            "calibration_intercept": calibration_intercept(self.probabilities, self.outcomes, weights),
            "calibration_curve": self._curve(weights),
        }

    def _curve(self, weights: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        inside = (self.bins[:, np.newaxis] == np.arange(BINS)).astype(np.float64)
        count = weights @ inside
        predicted = divide(weights @ (inside * self.probabilities[:, np.newaxis]), count)
        observed = divide(weights @ (inside * self.outcomes[:, np.newaxis]), count)
        return {
            f"{place / BINS:.1f} to {(place + 1) / BINS:.1f}": {
                "predicted": predicted[:, place],
                "observed": observed[:, place],
            }
            for place in range(BINS)
        }

    def net_benefit(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        return _net_benefit(self._called, self.outcomes, weights)


def _lines(expected: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intercept and slope of the lines of least squares that do not fall, (B,) each, for weights (B, f)."""
    middle = expected.mean()
    x, mass = expected - middle, weights.sum(axis=1)
    mean_x, mean_y = weights @ x / mass, weights @ labels / mass
    variance = weights @ x**2 / mass - mean_x**2
    covariance = weights @ (x * labels) / mass - mean_x * mean_y
    slopes = np.zeros(len(weights))
    np.divide(np.maximum(covariance, 0), variance, out=slopes, where=variance > FLAT**2)
    return mean_y - slopes * (mean_x + middle), slopes


def _net_benefit(called: np.ndarray, outcomes: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the net benefit at each of `TREATMENT_THRESHOLDS` of calling fractures united, (f, thresholds) bool."""
    thresholds = np.array(TREATMENT_THRESHOLDS)
    odds = thresholds / (1 - thresholds)
    gain = called * np.where(outcomes[:, np.newaxis], 1.0, -odds)
    benefit = divide(weights @ gain, weights.sum(axis=1, keepdims=True))
    return {f"{threshold:.2f}": benefit[:, place] for place, threshold in enumerate(TREATMENT_THRESHOLDS)}


def _mean_by(group_of: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Return the means of the values that are no NaN, (groups, 4, k), of values (n, 4, k); NaN where there is none."""
    given = ~np.isnan(values)
    sums, counts = np.zeros((groups, *values.shape[1:])), np.zeros((groups, *values.shape[1:]))
    np.add.at(sums, group_of, np.where(given, values, 0))
    np.add.at(counts, group_of, given)
    return divide(sums, counts)


def _quantiles(probabilities: np.ndarray) -> dict[str, float | None]:
    found = np.quantile(probabilities, QUANTILES).tolist() if probabilities.size else [None] * len(QUANTILES)
    return {f"{share:.2f}": value for share, value in zip(QUANTILES, found, strict=True)}
