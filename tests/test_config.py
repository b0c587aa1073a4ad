import pytest

from rust_optuna.config import HYPERPARAMETERS, KEYS, TrialConfiguration
from tests.studies import configuration, random_document


def test_only_the_four_hyperparameters_have_no_default():
    assert HYPERPARAMETERS == ("batch_size", "dropout_rate", "learning_rate", "epsilon")


def test_defaults_are_those_of_the_published_study():
    values = configuration(random_document(model={}, cross_validation={})).values({})
    assert (values["weights"], values["output"], values["pooling"]) == ("imagenet", "mixed10", "max")
    assert (values["image_size"], values["epochs"], values["hidden_units"]) == (299, 20, (1024, 512, 256))
    assert (values["flips"], values["standardize"]) == ("both", False)


def test_a_point_wins_over_fixed_over_inherited_over_sections_over_defaults():
    document = random_document(
        fixed={"learning_rate": 1e-3, "epsilon": 1e-7, "output": "mixed8"},
        model={"weights": "random", "pooling": "average", "resize": "pad"},
    )
    inherited = {"output": "mixed9", "resize": "stretch", "batch_size": 2}
    values = configuration(document).values({"batch_size": 8, "dropout_rate": 0.1}, inherited)
    assert values["batch_size"] == 8  # the point's, not the inherited one
    assert values["output"] == "mixed8"  # fixed, not inherited
    assert values["resize"] == "stretch"  # inherited, not the section's
    assert values["pooling"] == "average"  # the section's, not the default
    assert values["image_size"] == 299  # the default


def test_a_trial_configuration_takes_every_key_there_is():
    values = configuration().values({"batch_size": 8, "dropout_rate": 0.1})
    assert set(values) == set(KEYS)
    trial = TrialConfiguration.from_values(values)
    for name, value in values.items():
        holder = trial if hasattr(trial, name) else trial.backbone
        assert getattr(holder, name) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 16.0),
        ("batch_size", True),
        ("dropout_rate", 1.0),
        ("dropout_rate", -0.1),
        ("dropout_rate", "0.5"),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("epsilon", float("nan")),
        ("pooling", "median"),
        ("standardize", 1),
        ("image_size", 74),
        ("hidden_units", []),
        ("hidden_units", [64, 0]),
        ("hidden_units", 64),
    ],
)
def test_a_value_that_a_key_does_not_take_is_named(key, value):
    violation = KEYS[key].violation(value)
    assert violation is not None
    assert repr(value) in violation


@pytest.mark.parametrize(
    ("key", "value"), [("dropout_rate", 0), ("dropout_rate", 0.999), ("learning_rate", 1), ("hidden_units", [8, 4])]
)
def test_values_at_the_edge_are_taken(key, value):
    assert KEYS[key].violation(value) is None


def test_whole_numbers_become_floats_where_the_key_is_one():
    assert isinstance(KEYS["learning_rate"].convert(1), float)
