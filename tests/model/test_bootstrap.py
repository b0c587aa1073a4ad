import numpy as np
import pytest

from rust_optuna.model import bootstrap
from rust_optuna.model.bootstrap import estimates, patient_weights

PATIENTS = ("ann", "bob", "ann", "cid", "bob", "ann", "dee")


def estimate(statistic, weights):
    """Return the one number of a statistic."""
    return estimates(lambda rows: {"": statistic(rows)}, weights)[""]


def test_films_of_a_patient_are_drawn_together_as_many_patients_as_there_are():
    weights = patient_weights(PATIENTS, 500)
    assert (weights.shape, weights.dtype) == ((500, 7), np.float64)
    first = [PATIENTS.index(name) for name in PATIENTS]
    np.testing.assert_array_equal(weights, weights[:, first])
    assert (weights[:, [0, 1, 3, 6]].sum(axis=1) == 4).all()
    # Each is drawn once on average, and left out with a chance of (3/4)⁴.
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)
    assert (weights == 0).mean() == pytest.approx(0.75**4, abs=0.05)


def test_the_seed_and_the_patients_alone_decide():
    weights = patient_weights(PATIENTS, 20, seed=3)
    np.testing.assert_array_equal(patient_weights(PATIENTS, 20, seed=3), weights)
    np.testing.assert_array_equal(patient_weights(PATIENTS[::-1], 20, seed=3), weights[:, ::-1])
    assert (patient_weights(PATIENTS, 20, seed=4) != weights).any()
    # These rows hold on every machine: published intervals rest on them.
    assert patient_weights(PATIENTS, 3)[:, [0, 1, 3, 6]].tolist() == [[0, 1, 2, 1], [3, 1, 0, 0], [1, 0, 1, 2]]


def mean_of(values):
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_an_interval_is_that_of_the_slow_bootstrap():
    values, weights = np.array([1.0, 4.0, 2.0, 8.0, 5.0, 7.0, 1.0]), patient_weights(PATIENTS, 200)
    slow = [np.repeat(values, row.astype(int)).mean() for row in weights]
    found = estimate(mean_of(values), weights)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(slow, (2.5, 97.5))))
    assert found.resamples == 200


@pytest.mark.parametrize("chunk", [1, 7, 70, 10_000])
def test_chunks_change_nothing(monkeypatch, chunk):
    values, weights = np.arange(7.0), patient_weights(PATIENTS, 50)
    whole = estimate(mean_of(values), weights)
    monkeypatch.setattr(bootstrap, "CHUNK", chunk)
    shapes = []
    found = estimate(lambda rows: (shapes.append(rows.shape), mean_of(values)(rows))[1], weights)
    assert found == whole
    assert shapes[0] == (1, 7)
    assert sum(rows for rows, _ in shapes[1:]) == 50
    assert max(rows for rows, _ in shapes) <= max(chunk // 7, 1)


def test_names_and_their_nesting_are_kept():
    weights = patient_weights(PATIENTS, 30)
    one, other = mean_of(np.arange(7.0)), mean_of(np.ones(7))
    found = estimates(lambda rows: {"a": one(rows), "b": {"c": other(rows)}}, weights)
    assert found == {"a": estimate(one, weights), "b": {"c": estimate(other, weights)}}


def test_a_resample_that_defines_no_number_is_left_out():
    weights = patient_weights(PATIENTS, 400)
    with_dee = weights[:, 6] > 0

    def statistic(rows):
        return np.where(rows[:, 6] > 0, rows[:, 0], np.nan)

    found = estimate(statistic, weights)
    assert found.resamples == with_dee.sum() < 400
    assert found.high == np.percentile(weights[with_dee, 0], 97.5)
