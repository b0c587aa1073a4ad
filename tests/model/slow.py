"""The slow, obvious bootstrap: films that are really repeated, counted anew."""

import numpy as np
import pytest

from rust_optuna.model.bootstrap import patient_weights
from rust_optuna.model.scored import Estimate
from tests.model.films import repeat_films


def flat_estimates(document, prefix=()):
    """Return the estimates of a document by the names that lead to them."""
    found = {}
    for name, value in document.items():
        if isinstance(value, Estimate):
            found[(*prefix, name)] = value
        elif isinstance(value, dict):
            found |= flat_estimates(value, (*prefix, name))
    return found


def assert_bootstrapped(numbers, slow, films, resamples=8, seed=0):
    """Compare estimates with those of films that are repeated.

    Args:
        numbers: (films, weights) → document.
        slow: films → the values of its estimates by the names that lead to them, NaN where not defined.
        films: scored films.
    """
    weights = patient_weights(films.patients, resamples, seed=seed)
    found = flat_estimates(numbers(films, weights))
    values = slow(films)
    drawn = [slow(repeat_films(films, row.astype(int))) for row in weights]
    assert set(found) == set(values)
    for name, value in values.items():
        expected = Estimate.of(value, np.array([each[name] for each in drawn]))
        assert found[name].resamples == expected.resamples, name
        for field in ("value", "low", "high"):
            ours, theirs = getattr(found[name], field), getattr(expected, field)
            assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-7)), (name, field)
