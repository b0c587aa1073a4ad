import numpy as np
import pytest

from rust_optuna.learn.head import Standardisation, initial_weights, keras_head, layer_sizes


def test_initial_weights_are_glorots_and_only_the_seed_counts():
    one, again, other = (initial_weights(300, (200, 50), seed) for seed in (1, 1, 2))
    assert [w.shape for w in one] == [(300, 200), (200,), (200, 50), (50,), (50, 18), (18,)]
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert (one[0] != other[0]).any()
    limit = np.sqrt(6 / 500)
    assert np.abs(one[0]).max() <= limit * (1 + 1e-6)
    assert one[0].std() == pytest.approx(limit / np.sqrt(3), rel=0.01)
    assert all(not bias.any() for bias in one[1::2])
    assert {w.dtype for w in one} == {np.dtype(np.float32)}


def test_hidden_units_may_be_any_number_of_layers():
    assert layer_sizes(10, ()) == [(10, 18)]
    assert layer_sizes(10, (5, 3)) == [(10, 5), (5, 3), (3, 18)]


def test_standardised_features_have_mean_zero_and_deviation_one():
    # As untrained backbones give them: a large offset, a tiny spread.
    table = (1e-3 + 1e-6 * np.random.default_rng(0).standard_normal((50, 4, 300))).astype(np.float32)
    fitted = Standardisation.fit(table)
    rows = ((table - fitted.mean) * fitted.scale).reshape(-1, 300)
    np.testing.assert_allclose(rows.mean(axis=0, dtype=np.float64), 0, atol=1e-3)
    np.testing.assert_allclose(rows.std(axis=0, dtype=np.float64), 1, atol=1e-3)


def test_a_feature_that_never_varies_has_scale_one():
    table = np.full((3, 4, 2), 0.1, np.float32)
    table[0, 0, 1] = 0.2
    fitted = Standardisation.fit(table)
    assert fitted.scale[0] == 1
    assert fitted.mean[0] == np.float32(0.1)
    assert fitted.scale[1] > 1


def test_no_films_cannot_be_standardised():
    with pytest.raises(ValueError, match="at least one film"):
        Standardisation.fit(np.zeros((0, 4, 2), np.float32))


@pytest.mark.tensorflow
def test_the_keras_head_is_standardisation_dense_layers_dropout_and_sigmoids():
    table = np.random.default_rng(0).standard_normal((20, 4, 12)).astype(np.float32) * 3 + 5
    fitted = Standardisation.fit(table)
    weights = initial_weights(12, (6, 4), 0)
    model = keras_head(12, (6, 4), 0.5, weights, fitted)
    x = (table[:, 0] - fitted.mean) * fitted.scale
    for layer in range(2):
        x = np.maximum(x @ weights[2 * layer] + weights[2 * layer + 1], 0)
    expected = 1 / (1 + np.exp(-(x @ weights[4] + weights[5])))
    np.testing.assert_allclose(np.asarray(model(table[:, 0], training=False)), expected, rtol=1e-5)
    assert [layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"] == [0.5, 0.5]
