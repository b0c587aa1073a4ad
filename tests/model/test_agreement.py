import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from rust_optuna.model.agreement import intraclass_correlation, krippendorff_alpha, quadratic_kappa

NAN = float("nan")
SHROUT_AND_FLEISS = np.array([[9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2], [5, 3, 6, 2, 6, 4], [8, 2, 8, 6, 9, 7]])
"""Four judges, six targets: table 2 of their paper of 1979, where ICC(2,1) is 0.29."""
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
"""Four observers, twelve units: part C of "Computing Krippendorff's alpha-reliability" (2011)."""
NUMBERS = (
    intraclass_correlation,
    quadratic_kappa,
    krippendorff_alpha,
    lambda ratings, weights: krippendorff_alpha(ratings, weights, "interval"),
)


def of_itself(number, ratings, *arguments):
    """Return a number of the units as they are."""
    (value,) = number(ratings, np.ones((1, ratings.shape[1])), *arguments)
    return value


def test_the_intraclass_correlation_is_that_of_shrout_and_fleiss():
    assert of_itself(intraclass_correlation, SHROUT_AND_FLEISS) == pytest.approx(0.2898, abs=5e-5)


def test_alpha_is_that_of_krippendorff():
    assert of_itself(krippendorff_alpha, KRIPPENDORFF, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert of_itself(krippendorff_alpha, KRIPPENDORFF, "interval") == pytest.approx(0.849, abs=5e-4)


def draw_ratings(seed, readers, units=12, missing=0.2):
    generator = np.random.default_rng(seed)
    truth = generator.normal(2.5, 1, units)
    ratings = np.clip(np.round(truth + generator.normal(0, 0.7, (readers, units))), 1, 4)
    return np.where(generator.random(ratings.shape) < missing, NAN, ratings)


@given(st.integers(0, 2**32), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_kappa_is_that_of_scikit_learn(seed, units):
    ratings = draw_ratings(seed, 2, units, missing=0)
    weights = np.random.default_rng(seed).integers(0, 3, (3, units)).astype(float)
    for row, value in zip(weights, quadratic_kappa(ratings, weights), strict=True):
        drawn = row > 0
        if len(np.unique(ratings[:, drawn])) < 2:
            assert np.isnan(value)
            continue
        first, second = ratings[:, drawn].astype(int)
        expected = cohen_kappa_score(first, second, labels=[1, 2, 3, 4], weights="quadratic", sample_weight=row[drawn])
        assert value == pytest.approx(expected, abs=1e-12)


def test_the_kappa_of_several_readers_is_the_mean_over_pairs_on_what_both_read():
    ratings = draw_ratings(1, 3)
    pairs = []
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        both = ~np.isnan(ratings[[first, second]]).any(axis=0)
        one, other = ratings[[first, second]][:, both].astype(int)
        pairs.append(cohen_kappa_score(one, other, labels=[1, 2, 3, 4], weights="quadratic"))
    assert of_itself(quadratic_kappa, ratings) == pytest.approx(np.mean(pairs))


def slow_alpha(ratings, level):
    """Return Krippendorff's α from its matrix of coincidences."""
    units = [unit[~np.isnan(unit)] for unit in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    values = np.unique(np.concatenate(units)).tolist()
    coincidences = np.zeros((len(values), len(values)))
    for unit in units:
        for i, one in enumerate(unit):
            for j, other in enumerate(unit):
                if i != j:
                    coincidences[values.index(one), values.index(other)] += 1 / (len(unit) - 1)
    counts = coincidences.sum(axis=1)

    def difference(c, k):
        if level == "interval":
            return (values[c] - values[k]) ** 2
        low, high = sorted((c, k))
        return (counts[low : high + 1].sum() - (counts[c] + counts[k]) / 2) ** 2

    everything = [(c, k, difference(c, k)) for c in range(len(values)) for k in range(len(values))]
    observed = sum(coincidences[c, k] * d for c, k, d in everything)
    expected = sum(counts[c] * counts[k] * d for c, k, d in everything) / (counts.sum() - 1)
    return 1 - observed / expected


@pytest.mark.parametrize("level", ["ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_the_matrix_of_coincidences(seed, level):
    ratings = draw_ratings(seed, 4, missing=0.4)
    assert of_itself(krippendorff_alpha, ratings, level) == pytest.approx(slow_alpha(ratings, level), abs=1e-12)


@pytest.mark.parametrize("number", NUMBERS)
@given(st.integers(0, 2**32), st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_a_unit_of_weight_two_is_the_unit_twice(number, seed, readers):
    ratings = draw_ratings(seed, readers) + 0.25
    weights = np.random.default_rng(seed).integers(0, 3, (4, ratings.shape[1])).astype(float)
    repeated = [of_itself(number, np.repeat(ratings, row.astype(int), axis=1)) for row in weights]
    np.testing.assert_allclose(number(ratings, weights), repeated, atol=1e-9)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_order_of_the_readers_does_not_matter_and_agreement_in_everything_is_one(number):
    ratings = draw_ratings(3, 3)
    assert of_itself(number, ratings[::-1]) == pytest.approx(of_itself(number, ratings))
    same = np.tile(draw_ratings(4, 1, missing=0), (3, 1))
    assert of_itself(number, same) == pytest.approx(1)


def test_a_reader_who_always_gives_more_does_not_agree():
    truth = draw_ratings(5, 1, missing=0)[0]
    for number in NUMBERS:
        assert of_itself(number, np.array([truth, truth + 2])) < 0.5


@pytest.mark.parametrize("number", NUMBERS)
def test_ratings_that_do_not_vary_or_are_too_few_define_no_agreement(number):
    equal = np.full((2, 6), 3.1)
    assert np.isnan(of_itself(number, equal))
    alone = np.array([[1.0, NAN, 3.0], [NAN, 2.0, NAN]])
    assert np.isnan(of_itself(number, alone))
    assert np.isnan(number(draw_ratings(6, 2), np.zeros((2, 12)))).all()


@pytest.mark.parametrize("number", NUMBERS)
def test_one_reader_or_weights_of_other_units_are_refused(number):
    with pytest.raises(ValueError, match="two readers or more"):
        number(np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"weights are \(1, 4\)"):
        number(np.ones((2, 3)), np.ones((1, 4)))
