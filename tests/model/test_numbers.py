import dataclasses
import json

import numpy as np
import pytest

from rust_optuna.errors import InvalidValueError
from rust_optuna.model.bootstrap import patient_weights
from rust_optuna.model.conformal import conformal_numbers
from rust_optuna.model.cortex_numbers import cortex_numbers
from rust_optuna.model.fracture_numbers import fracture_numbers
from rust_optuna.model.label_numbers import label_numbers, subgroups
from rust_optuna.model.numbers import Calibration, measure, words
from rust_optuna.model.reader_numbers import reader_numbers
from rust_optuna.model.scored import plain
from tests.model.films import draw_films, draw_readers


@pytest.fixture(scope="module")
def calibration():
    return Calibration.fit(draw_films(1, 40))


def test_a_calibration_survives_json_to_the_bit(calibration):
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json(), allow_nan=False))) == calibration


def test_each_scorer_is_calibrated_on_its_own_scores(calibration):
    films = draw_films(1, 40)
    for name, scores in films.by_scorer.items():
        alone = Calibration.fit(films.with_scores(scores))
        for kind in ("thresholds", "conformals", "totals"):
            assert getattr(calibration, kind)[name] == getattr(alone, kind)["model"]


def test_a_threshold_for_united_is_taken_by_all_or_refused():
    films = draw_films(1, 10)
    assert {each.threshold for each in Calibration.fit(films, 14).totals.values()} == {14.0}
    assert {each.threshold for each in Calibration.fit(films).totals.values()} == {13.0}
    with pytest.raises(InvalidValueError, match="17"):
        Calibration.fit(films, 17)


def test_the_document_holds_the_numbers_of_all_modules_as_json(calibration):
    films = draw_readers(draw_films(2, 15, sources=True))
    document = measure(films, calibration, resamples=20, seed=5)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    weights = patient_weights(films.patients, 20, 5)
    assert document == plain(
        {
            "films": len(films),
            "patients": 15,
            "visits": len(set(films.visits)),
            "bootstrap": {"resamples": 20, "seed": 5},
            "labels": label_numbers(films, calibration.thresholds, weights),
            "subgroups": subgroups(films, weights),
            "subscores": cortex_numbers(films, weights),
            "sets": conformal_numbers(films, calibration.conformals, weights),
            "fractures": fracture_numbers(films, calibration.totals, weights),
            "readers": reader_numbers(films, weights),
        }
    )


def test_without_readers_there_is_no_agreement_of_readers(calibration):
    assert "readers" not in measure(draw_films(2, 5), calibration, resamples=5)


def test_films_of_a_few_patients_without_fractures_are_measured_too(calibration):
    films = draw_films(3, 2)
    one_view = films.take(np.flatnonzero(films.views == 0))
    document = measure(one_view, calibration, resamples=10)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["fractures"]["fractures"] == 0
    assert any("nothing can be said of totals" in sentence for sentence in words(document))


@pytest.mark.parametrize(("patients", "warned"), [(1, "1 patient:"), (19, "19 patients:"), (20, None)])
def test_intervals_over_few_patients_are_said_to_be_too_narrow(calibration, patients, warned):
    said = words(measure(draw_films(3, patients), calibration, resamples=20))
    few = [sentence for sentence in said if "too narrow" in sentence]
    assert len(few) == (warned is not None)
    assert all(warned in sentence for sentence in few)


def test_one_film_is_measured(calibration):
    document = measure(draw_films(3, 2).take([0]), calibration, resamples=10)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["labels"]["by_label"]["view_lateral"]["model"]["roc_auc"]["value"] is None


def test_scores_that_were_shuffled_are_said_to_be_worth_nothing(calibration):
    films = draw_films(4, 40)
    shuffled = films.with_scores(np.random.default_rng(0).permutation(films.scores, axis=0))
    said = words(measure(shuffled, calibration, resamples=100))
    assert said[0].startswith("The model is worse than a baseline that sees only the view")
    assert any(sentence.startswith("The model's totals are ") for sentence in said)
    assert words(measure(films, calibration, resamples=100)) == []


def test_the_order_of_the_films_changes_nothing(calibration):
    films = dataclasses.replace(draw_films(5, 12))
    backwards = films.take(np.arange(len(films))[::-1])
    ours, theirs = (measure(each, calibration, resamples=20) for each in (films, backwards))
    assert numbers_of(ours) == pytest.approx(numbers_of(theirs), abs=1e-9)


def numbers_of(document, prefix=""):
    """Return the numbers of a document by the names that lead to them."""
    found = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= numbers_of(value, f"{prefix}/{name}")
        elif isinstance(value, int | float):
            found[f"{prefix}/{name}"] = value
    return found
