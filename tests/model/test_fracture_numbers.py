import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, mean_absolute_error, roc_auc_score

from rust_optuna.data.manifest import CORTICES, VIEWS
from rust_optuna.errors import InvalidValueError
from rust_optuna.model.agreement import intraclass_correlation
from rust_optuna.model.bootstrap import patient_weights
from rust_optuna.model.conformal import conformal_quantile, patient_shares
from rust_optuna.model.cortex_numbers import subscore_distribution
from rust_optuna.model.fracture_numbers import Fractures, TotalCalibration, fracture_numbers, words
from rust_optuna.model.logistic import calibration_intercept, calibration_slope
from rust_optuna.model.scale import Scale
from rust_optuna.model.scored import UNREADABLE, plain
from tests.model.films import draw_films
from tests.model.slow import assert_bootstrapped

THRESHOLDS = np.arange(1, 20) / 20


def fit(films, threshold=None):
    return {
        name: TotalCalibration.fit(films.with_scores(scores), threshold) for name, scores in films.by_scorer.items()
    }


def relabel(films, change):
    labels = films.labels.copy()
    change(labels)
    return dataclasses.replace(films, labels=labels)


def without_subscore_4(films):
    """Return the films with each subscore of 4 read as 3."""

    def change(labels):
        for column in (5, 9, 13, 17):
            labels[:, column - 1] |= labels[:, column]
            labels[:, column] = 0

    return relabel(films, change)


def with_a_third_film(films):
    """Return the films, where each third film has a double of other scores whose first cortex is unreadable."""
    doubled = films.take(np.concatenate([np.arange(len(films)), np.arange(0, len(films), 3)]))
    scores, labels = doubled.scores.copy(), doubled.labels.copy()
    scores[len(films) :] = np.random.default_rng(0).random(scores[len(films) :].shape)
    for film in range(len(films), len(doubled)):
        start = 2 + 4 * CORTICES.index(doubled.cortices[VIEWS[labels[film, 1]]][0])
        labels[film, start : start + 4] = 0
    content = tuple(f"{content}-{place}" for place, content in enumerate(doubled.content))
    return dataclasses.replace(doubled, content=content, scores=scores, labels=labels)


def slow_fractures(films, scores, highest):
    """Return the fractures by visit: label total, expected total, patient and visit."""
    found = {}
    distributions = subscore_distribution(scores)
    for visit in sorted(set(films.visits)):
        members = [film for film in range(len(films)) if films.visits[film] == visit]
        label, expected = 0.0, 0.0
        for position in range(len(CORTICES)):
            shown = [film for film in members if films.shown[film, position]]
            subscores = [films.classes[film, position] + 1 for film in shown]
            subscores = [each for each in subscores if each != UNREADABLE + 1]
            if not subscores:
                break
            label += sum(subscores) / len(subscores)
            chances = [np.mean([distributions[film, position, k] for film in shown]) for k in range(highest)]
            expected += sum((k + 1) * chance for k, chance in enumerate(chances)) / sum(chances)
        else:
            found[visit] = label, expected, films.patients[members[0]], visit
    return found


@pytest.mark.parametrize("scale", Scale)
@pytest.mark.parametrize("change", [lambda films: films, with_a_third_film])
def test_fractures_are_visits_of_four_readable_cortices(change, scale):
    films = change(draw_films(1, 40))
    if scale is Scale.RUST:
        films = without_subscore_4(films)
    found = Fractures.of(films, scale)
    expected = slow_fractures(films, films.scores, scale.highest)
    assert 20 < len(found) < len(set(films.visits))
    assert dict(zip(found.visits, found.patients, strict=True)) == {v: each[2] for v, each in expected.items()}
    np.testing.assert_allclose(found.labels, [expected[visit][0] for visit in found.visits])
    np.testing.assert_allclose(found.expected, [expected[visit][1] for visit in found.visits])
    assert [films.visits[film] for film in found.first] == list(found.visits)
    assert found.off_scale == 0


def test_a_fracture_with_a_subscore_that_rust_lacks_is_left_out_and_counted():
    films = draw_films(2, 40)
    on_modified, on_rust = (Fractures.of(films, scale) for scale in (Scale.MODIFIED_RUST, Scale.RUST))
    assert on_modified.off_scale == 0
    assert 0 < on_rust.off_scale == len(on_modified) - len(on_rust)
    assert on_rust.labels.max() <= 12 < on_modified.labels.max()
    assert on_rust.expected.max() <= 12


def fitted_line(expected, labels, shares):
    slope, intercept = np.polyfit(expected, labels, 1, w=np.sqrt(shares))
    return intercept, slope


def test_a_line_leads_to_the_labels_and_residuals_are_those_of_the_line_without_the_patient():
    films = draw_films(3, 40)
    fitted = TotalCalibration.fit(films)
    rows = slow_fractures(films, films.scores, 4).values()
    labels, expected, names = (np.array([row[place] for row in rows]) for place in range(3))
    shares = np.array([1 / (names == name).sum() for name in names])
    np.testing.assert_allclose(fitted.shares, shares)
    assert fitted.patients == len(set(names))
    assert (fitted.intercept, fitted.slope) == pytest.approx(fitted_line(expected, labels, shares))
    assert fitted.slope > 1.1  # the expected subscores of four cortices are each drawn to the mean
    for place, name in enumerate(names):
        others = names != name
        intercept, slope = fitted_line(expected[others], labels[others], shares[others])
        predicted = np.clip(intercept + slope * expected[place], 4, 16)
        assert fitted.residuals[place] == pytest.approx(labels[place] - predicted)


def test_probabilities_of_united_fractures_are_calibrated():
    new = Fractures.of(draw_films(1003, 400), Scale.MODIFIED_RUST)
    fitted = TotalCalibration.fit(draw_films(3, 200))
    p, outcomes = fitted.united(new.expected), new.labels >= 13
    assert 0.8 < calibration_slope(p, outcomes, np.ones((1, len(new)))).item() < 1.4
    assert p.mean() == pytest.approx(outcomes.mean(), abs=0.05)


def test_with_fewer_than_nine_patients_totals_are_taken_as_expected():
    films = draw_films(3, 7)
    fitted = TotalCalibration.fit(films)
    rows = slow_fractures(films, films.scores, 4).values()
    assert (fitted.intercept, fitted.slope) == (0, 1)
    np.testing.assert_allclose(fitted.residuals, [label - expected for label, expected, *_ in rows])


@pytest.mark.parametrize("scores", [np.zeros_like, lambda scores: 0.3 + 1e-5 * scores, lambda scores: 1 - scores])
def test_where_expected_totals_say_nothing_the_mean_is_predicted(scores):
    films = draw_films(4, 40)
    fitted = TotalCalibration.fit(films.with_scores(scores(films.scores)))
    found = Fractures.of(films, Scale.MODIFIED_RUST)
    mean = np.average(found.labels, weights=patient_shares(found.patients))
    assert (fitted.intercept, fitted.slope) == (pytest.approx(mean), 0)
    np.testing.assert_allclose(fitted.predicted(np.array([4.0, 16.0])), mean)


def test_the_scale_gives_the_threshold_and_another_may_be_named():
    films = draw_films(4, 20)
    assert (TotalCalibration.fit(films).scale, TotalCalibration.fit(films).threshold) == (Scale.MODIFIED_RUST, 13)
    on_rust = TotalCalibration.fit(without_subscore_4(films))
    assert (on_rust.scale, on_rust.threshold) == (Scale.RUST, 10)
    assert TotalCalibration.fit(films, 14).threshold == 14
    with pytest.raises(
        InvalidValueError, match="a threshold of 13 for united fractures does not divide the totals of RUST"
    ):
        TotalCalibration.fit(without_subscore_4(films), 13)
    with pytest.raises(InvalidValueError, match="go from 4 to 16"):
        TotalCalibration.fit(films, 4)


def calibration(residuals, shares=None, scale=Scale.MODIFIED_RUST, threshold=13.0, line=(0.0, 1.0)):
    shares = np.ones(len(residuals)) if shares is None else shares
    return TotalCalibration(scale, threshold, *line, tuple(map(float, residuals)), tuple(map(float, shares)))


def test_a_prediction_lies_on_the_line_and_within_the_scale():
    fitted = calibration([0.0] * 9, line=(-4.0, 1.5))
    expected = np.array([5.0, 8.0, 14.0])
    assert fitted.predicted(expected).tolist() == [4, 8, 16]
    assert [each.tolist() for each in fitted.intervals(expected)] == [[4, 8, 16], [4, 8, 16]]
    assert fitted.distribution(expected).argmax(axis=1).tolist() == [0, 4, 12]


def test_a_new_total_is_expected_plus_a_residual_rounded_and_within_the_scale():
    # Three patients, one of them with two fractures; the new one's weight, a quarter, is spread over 13 totals.
    fitted = calibration([0.4, -1, 9, 2.5], [1, 1, 0.5, 0.5])
    (found,) = fitted.distribution(np.array([9.2]))
    expected = np.full(13, 1 / 13)
    expected[[10 - 4, 8 - 4]] += 1  # 9.6 and 8.2
    expected[[16 - 4, 12 - 4]] += 0.5  # 18.2 and 11.7
    np.testing.assert_allclose(found, expected / 4)
    assert fitted.united(np.array([9.2])).item() == pytest.approx((0.5 + 4 / 13) / 4)
    (low,) = calibration([-9.0] * 9).distribution(np.array([6.0]))
    assert low.argmax() == 0


def test_half_a_point_is_rounded_up_whatever_a_rounding_error_says():
    fitted = calibration([9.5 - 7.3])
    found = fitted.distribution(7.3 + np.array([-1e-14, 0, 1e-14]))
    assert found.argmax(axis=1).tolist() == [10 - 4] * 3


def test_without_residuals_nothing_is_known_of_a_total():
    fitted = calibration([])
    np.testing.assert_allclose(fitted.distribution(np.array([9.0])), 1 / 13)
    assert fitted.intervals(np.array([9.0])) == (4, 16)
    assert fitted.half_width == math.inf


@given(st.integers(0, 2**32), st.integers(0, 30), st.sampled_from(Scale))
@settings(max_examples=50, deadline=None)
def test_a_distribution_adds_up_and_none_of_its_totals_is_impossible(seed, count, scale):
    generator = np.random.default_rng(seed)
    shares = patient_shares([str(name) for name in generator.integers(0, max(count, 1), count)])
    fitted = calibration(generator.normal(0, 2, count), shares, scale, float(scale.united))
    expected = generator.uniform(*scale.totals, 5)
    found = fitted.distribution(expected)
    assert found.shape == (5, scale.totals[1] - 3)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
    united = fitted.united(expected)
    assert ((united > 0) & (united < 1)).all()
    assert (np.diff(fitted.united(np.sort(expected))) >= 0).all()


def test_intervals_reach_as_far_as_the_quantile_of_absolute_residuals_and_not_beyond_the_scale():
    residuals = np.array([-3.0, 1, 2, -1, 0.5, -0.5, 2.5, 0, 1.5, -2])
    fitted = calibration(residuals)
    assert fitted.half_width == conformal_quantile(np.abs(residuals), np.ones(10)) == 3.0
    low, high = fitted.intervals(np.array([10.0, 5.5, 15.0]))
    assert (low.tolist(), high.tolist()) == ([7, 4, 12], [13, 8.5, 16])
    assert calibration(residuals[:8]).half_width == math.inf


def test_rounding_errors_do_not_tell_fractures_apart():
    fitted = calibration([0.3, -0.7, 1.1], [1 / 3, 1 / 3, 1 / 3])
    expected = 11.2 + np.arange(-3, 4) * 1e-15
    assert len(set(fitted.united(expected).tolist())) == 1


def test_intervals_cover_the_totals_of_new_patients_in_ninety_percent():
    coverage = []
    for seed in range(20):
        new = Fractures.of(draw_films(1000 + seed, 60), Scale.MODIFIED_RUST)
        low, high = TotalCalibration.fit(draw_films(seed, 60)).intervals(new.expected)
        coverage.append(((low <= new.labels) & (new.labels <= high)).mean())
    assert 0.88 <= np.mean(coverage) <= 0.94


@given(st.integers(0, 2**32), st.integers(2, 30))
@settings(max_examples=10, deadline=None)
def test_a_calibration_survives_json_to_the_bit(seed, patients):
    fitted = TotalCalibration.fit(draw_films(seed, patients))
    document = json.loads(json.dumps(fitted.to_json(), allow_nan=False))
    assert TotalCalibration.from_json(document) == fitted


def share(part):
    return np.mean(part) if len(part) else np.nan


def slow_scorer(drawn, fitted):
    """Return the numbers of fractures, as `slow_fractures` gives them, of one scorer."""
    labels, expected, names, _ = (np.array(column) for column in zip(*drawn, strict=True))
    predicted = fitted.predicted(expected)
    outcomes, error = labels >= fitted.threshold, predicted - labels
    p, ones = fitted.united(expected), np.ones((1, len(labels)))
    low, high = fitted.intervals(expected)
    spread = 1.96 * np.std(error, ddof=1) if len(error) > 1 else np.nan
    # Each patient counts as often as it was drawn, whatever its fractures.
    each = [drawn.count(first) * (names == first[2]) / np.sum(names == first[2]) for first in firsts(drawn)]
    counts = np.sum(each, axis=0)
    covered = (labels >= low - 1e-9) & (labels <= high + 1e-9)
    total = {
        "mean_absolute_error": mean_absolute_error(labels, predicted),
        "icc": intraclass_correlation(np.array([labels, predicted]), ones).item(),
        "bias": error.mean(),
        "lower_limit": error.mean() - spread,
        "upper_limit": error.mean() + spread,
        "coverage": np.average(covered, weights=counts),
        "mean_width": np.average(high - low, weights=counts),
    }
    united = {
        ("roc_auc",): roc_auc_score(outcomes, p) if 0 < outcomes.sum() < len(outcomes) else np.nan,
        ("brier",): brier_score_loss(outcomes, p),
        ("calibration_slope",): calibration_slope(p, outcomes, ones).item(),
        ("calibration_intercept",): calibration_intercept(p, outcomes, ones).item(),
    }
    for place in range(10):
        inside = np.floor(p * 10 + 1e-9) == place
        name = f"{place / 10:.1f} to {(place + 1) / 10:.1f}"
        united["calibration_curve", name, "predicted"] = share(p[inside])
        united["calibration_curve", name, "observed"] = share(outcomes[inside])
    return total, united, {f"{t:.2f}": benefit(p >= t - 1e-9, outcomes, t) for t in THRESHOLDS}


def firsts(drawn):
    """Return the first fracture of each patient."""
    names = [each[2] for each in drawn]
    return [drawn[names.index(name)] for name in dict.fromkeys(names)]


def benefit(called, outcomes, t):
    hits, alarms = (called & outcomes).sum(), (called & ~outcomes).sum()
    return hits / len(outcomes) - alarms / len(outcomes) * t / (1 - t)


def slow_numbers(calibrations):
    def numbers(films):
        # A film that was drawn twice stands for a visit that was drawn twice.
        unique = films.take(np.unique(np.array(films.content), return_index=True)[1])
        times = {film: films.content.count(film) for film in films.content}
        of_visit = {visit: times[unique.content[unique.visits.index(visit)]] for visit in unique.visits}
        found, drawn = {}, {}
        for scorer, scores in unique.by_scorer.items():
            fractures = slow_fractures(unique, scores, 4)
            drawn[scorer] = [each for visit, each in fractures.items() for _ in range(of_visit[visit])]
            total, united, benefits = slow_scorer(drawn[scorer], calibrations[scorer])
            found |= {("total", scorer, name): value for name, value in total.items()}
            found |= {("united", scorer, *name): value for name, value in united.items()}
            found |= {("net_benefit", scorer, t): value for t, value in benefits.items()}
        errors = [found["total", scorer, "mean_absolute_error"] for scorer in ("model", "view_only")]
        found["total", "error_difference"] = errors[0] - errors[1]
        outcomes = np.array([label >= calibrations["model"].threshold for label, *_ in drawn["model"]])
        found["united", "prevalence"] = outcomes.mean()
        for t in THRESHOLDS:
            found["net_benefit", "all", f"{t:.2f}"] = benefit(np.full(len(outcomes), True), outcomes, t)
            found["net_benefit", "none", f"{t:.2f}"] = 0
        return found

    return numbers


@pytest.mark.parametrize("change", [lambda films: films, with_a_third_film])
def test_numbers_and_intervals_are_those_of_films_that_are_really_repeated(change):
    calibrations = fit(draw_films(10, 40), 12)
    assert_bootstrapped(
        lambda films, weights: fracture_numbers(films, calibrations, weights),
        slow_numbers(calibrations),
        change(draw_films(5, 30)),
    )


def judged(films, out_of_fold, resamples=100):
    return plain(fracture_numbers(films, fit(out_of_fold), patient_weights(films.patients, resamples)))


def test_fractures_are_counted_and_the_document_is_json_without_nan():
    films, out_of_fold = draw_films(6, 30), draw_films(11, 30)
    document = judged(films, out_of_fold)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    expected = slow_fractures(films, films.scores, 4)
    assert (document["scale"], document["threshold"]) == ("modified_rust", 13)
    assert document["fractures"] == len(expected)
    assert document["patients"] == len({each[2] for each in expected.values()})
    assert document["calibration_patients"] == TotalCalibration.fit(out_of_fold).patients
    p = TotalCalibration.fit(out_of_fold).united(np.array([each[1] for each in expected.values()]))
    united = np.array([each[0] for each in expected.values()]) >= 13
    by_outcome = document["united"]["model"]["probabilities"]
    assert by_outcome["united"]["0.25"] == pytest.approx(np.quantile(p[united], 0.25))
    assert by_outcome["not_united"]["0.95"] == pytest.approx(np.quantile(p[~united], 0.95))
    curve = document["united"]["model"]["calibration_curve"]
    assert [each["fractures"] for each in curve.values()] == np.histogram(p, np.arange(11) / 10)[0].tolist()


def test_films_without_a_fracture_have_no_such_numbers():
    films = draw_films(7, 12)
    films = films.take(np.flatnonzero(films.labels[:, 0]))
    document = judged(films, draw_films(12, 20))
    assert document["fractures"] == document["patients"] == 0
    assert document["total"] is document["united"] is document["net_benefit"] is None
    assert words(document) == [
        "No visit has films of all four cortices with a readable label, so nothing can be said of totals."
    ]


def test_outcomes_that_are_all_the_same_define_no_discrimination():
    films = relabel(draw_films(8, 20), lambda labels: labels.__setitem__((slice(None), [5, 9, 13, 17]), 0))
    calibrations = fit(draw_films(13, 20), 16)
    document = plain(fracture_numbers(films, calibrations, patient_weights(films.patients, 20)))
    ours = document["united"]["model"]
    assert document["united"]["prevalence"]["value"] == 0
    assert (
        ours["roc_auc"]["value"] is ours["calibration_slope"]["value"] is ours["calibration_intercept"]["value"] is None
    )
    assert ours["probabilities"]["united"]["0.50"] is None


def test_a_model_with_skill_needs_no_words_and_beats_its_baselines():
    document = judged(draw_films(9, 60), draw_films(14, 60))
    assert words(document) == []
    assert document["total"]["model"]["icc"]["low"] > 0.5
    assert document["total"]["view_only"]["icc"]["value"] == pytest.approx(0, abs=0.05)
    assert document["united"]["model"]["roc_auc"]["low"] > 0.7
    assert document["united"]["view_only"]["roc_auc"]["value"] == pytest.approx(0.5, abs=0.05)


def shuffled(films):
    return films.with_scores(np.random.default_rng(0).permutation(films.scores, axis=0))


def test_totals_that_were_shuffled_are_said_to_be_no_better_than_the_baseline():
    (sentence,) = words(judged(shuffled(draw_films(9, 60)), shuffled(draw_films(14, 60))))
    assert sentence.startswith("The model's totals are ")
    assert "the label than those of a baseline that sees only the view: their mean absolute error is" in sentence
    assert sentence.endswith(("lies above 0.", "reaches 0."))


def test_intervals_that_are_the_whole_scale_and_fractures_off_the_scale_are_said():
    said = words(judged(draw_films(9, 60), without_subscore_4(draw_films(14, 6))))
    assert any("The interval of a total is the whole scale: it rests on" in sentence for sentence in said)
    assert any("fractures are left out of the totals: they have a subscore of 4" in sentence for sentence in said)
