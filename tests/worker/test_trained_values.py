"""Each value asked for is the value trained: from a study file to trained weights, for every trial key.

A few studies give every key at least two values, and what was trained is compared with what should have been, computed
otherwise (`tests/trained.py`). Each comparison must also fail for the key's other values, so that no program which
ignores the key can pass.
"""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from rust_optuna.config import KEYS, TrialConfiguration
from rust_optuna.learn.features import FeatureCache
from rust_optuna.paths import Home
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import parse_url
from tests.data.films import make_manifest
from tests.trained import (
    Reference,
    Trained,
    document,
    dropout_masks,
    epoch_by_hand,
    gradients_by_hand,
    run_trial,
)

pytestmark = pytest.mark.tensorflow

WEIGHTS = "inception.weights.h5"
A = {
    "batch_size": 5,
    "dropout_rate": 0.0,
    "learning_rate": 1e-2,
    "epsilon": 1e-2,
    "weights": "random",
    "weights_seed": 3,
    "output": "mixed0",
    "pooling": "max",
    "image_size": 75,
    "resize": "stretch",
    "bits": 16,
    "features": "cached",
    "extraction_precision": "float32",
    "training_precision": "float32",
    "flips": "both",
    "standardize": True,
    "hidden_units": (96, 48),
    "epochs": 2,
}
# The other keys stay at their defaults: see `WATCHED_END_TO_END`.
B = {
    **A,
    "batch_size": 7,
    "learning_rate": 3e-3,
    "epsilon": 1e-1,
    "weights_seed": 8,
    "output": "mixed1",
    "pooling": "average",
    "image_size": 91,
    "resize": "pad",
    "bits": 12,
    "flips": "horizontal",
    "standardize": False,
    "hidden_units": (64,),
    "epochs": 3,
}
C = {
    **A,
    "weights": WEIGHTS,
    "features": "live",
    "extraction_precision": "bfloat16",
    "training_precision": "bfloat16",
    "flips": "none",
    "standardize": False,
    "epochs": 1,
}
# A step on one film shows what dropout dropped.
D = {**A, "batch_size": 1, "dropout_rate": 0.375, "epochs": 1}
VALUES = {"A": A, "B": B, "C": C, "D": D}


def trial_of(values):
    """Return the configuration of a trial whose other keys stay at their defaults."""
    return TrialConfiguration.from_values({key: KEYS[key].default for key in WATCHED_END_TO_END} | values)


class Material:
    """Films, a database, and the trials that ran there, each once."""

    def __init__(self, home, database):
        self.home, self.database = home, database
        self._trials = {}

    @functools.cached_property
    def reference(self):
        return Reference(self.home)

    def trial(self, name):
        if name not in self._trials:
            values = VALUES[name]
            if values["weights"] == WEIGHTS:
                self.reference.save_weights(self.home.root / WEIGHTS)
            contents = document(name, values, searched=["learning_rate"])
            if name == "B":
                # In [fixed], for another study to inherit it.
                contents["fixed"]["flips"] = contents["model"].pop("flips")
            self._trials[name] = run_trial(self.database, self.home, contents, values)
        return self._trials[name]

    def head_inputs(self, trial, fold, values):
        """Return what enters the head of a fold's first call, from the cache that training reads."""
        features = trial.folds[fold][0].features
        if not values["standardize"]:
            return features
        backbone = trial_of(trial.values).backbone
        table = FeatureCache(self.home.features, backbone).load(trial.development.content).table.astype(np.float64)
        training = table[trial.development.folds != fold].reshape(-1, table.shape[-1])
        deviation = training.std(axis=0)
        return (features - training.mean(axis=0)) / np.where(deviation > 0, deviation, 1)

    def matched(self, trial, fold, values):
        """Return each trained row's film and flip, and how far it lies from the reference, of the largest feature."""
        contents = trial.development.content
        expected = self.reference.features(contents, values)
        rows = np.concatenate([call.features for call in epoch(trial, fold)])
        assert rows.shape[1:] == expected.shape[2:]
        flat = expected.reshape(-1, expected.shape[-1])
        distance = np.array([np.abs(flat - row).max(axis=1) for row in rows])
        nearest = distance.argmin(axis=1)
        return nearest // 4, nearest % 4, distance.min(axis=1).max() / np.abs(flat).max()


def epoch(trial, fold):
    """Return the calls of a fold's first epoch: one, or with live features one a batch."""
    calls, count, found = trial.folds[fold], int((trial.development.folds != fold).sum()), []
    while sum(len(call.features) for call in found) < count:
        found.append(calls[len(found)])
    return found


@pytest.fixture(scope="module")
def material(tmp_path_factory, sqlite_template):
    root = tmp_path_factory.mktemp("trained").resolve()
    make_manifest(root)
    # One film has 12 bits in 16, which only a study says.
    film = root / "films" / "0.png"
    Image.fromarray(np.asarray(Image.open(film)).astype(np.uint16) * 16).save(film)
    home, path = Home(root), root / "test.db"
    shutil.copy(sqlite_template, path)
    with open_database(parse_url(f"sqlite:///{path}", home)) as database:
        yield Material(home, database)


def steps_are_those_of_adam(material, trial, values):
    """An epoch's weights are those of Adam by hand: float32 against float64, where ε keeps rounding small."""
    for fold in range(3):
        (call,) = epoch(trial, fold)
        x = material.head_inputs(trial, fold, values)
        given = (values[name] for name in ("batch_size", "learning_rate", "epsilon"))
        expected = epoch_by_hand(call.before, x, call.targets, *given)
        assert call.steps == math.ceil(len(x) / values["batch_size"])
        for ours, theirs, before in zip(call.after, expected, call.before, strict=True):
            moved = np.abs(theirs - before).max()
            assert np.abs(ours - theirs).max() <= 1e-3 * moved


def features_are_those_of_keras(material, trial, values):
    """What enters training is the reference's film, each training film of the fold once."""
    low, high = {"float32": (0, 1e-5), "bfloat16": (1e-4, 3e-2)}[values["extraction_precision"]]
    for fold in range(3):
        films, _, distance = material.matched(trial, fold, values)
        assert low <= distance <= high
        assert sorted(films) == np.flatnonzero(trial.development.folds != fold).tolist()


def flips_are_those_asked_for(material, trial, values):
    flips = np.concatenate([material.matched(trial, fold, trial.values)[1] for fold in range(3)])
    asked = {"both": {0, 1, 2, 3}, "horizontal": {0, 1}, "vertical": {0, 2}, "none": {0}}
    assert set(flips.tolist()) == asked[values["flips"]]


def dropout_drops_the_share_asked_for(material, trial, values):
    """Of the first step's gradients: without dropout those by hand, else those by hand under the masks that show."""
    dropped = []
    for fold in range(3):
        (call,), x = epoch(trial, fold), material.head_inputs(trial, fold, trial.values)[: trial.values["batch_size"]]
        masks = None
        if values["dropout_rate"]:
            kept, could = dropout_masks(call, x)
            dropped += [~units[open_] for units, open_ in zip(kept, could, strict=True)]
            masks = [units / (1 - values["dropout_rate"]) for units in kept]
        expected = gradients_by_hand(call.before, x, call.targets[: len(x)], masks)
        assert deviation(call.gradients, expected) < 1e-4
    if dropped:
        share, count = np.concatenate(dropped).mean(), sum(map(len, dropped))
        spread = math.sqrt(values["dropout_rate"] * (1 - values["dropout_rate"]) / count)
        assert abs(share - values["dropout_rate"]) < 4 * spread


def products_have_the_bits_asked_for(material, trial, values):
    """The first step's gradients differ from those in float64 by the rounding of their products, and no less."""
    low, high = {"float32": (0, 1e-5), "bfloat16": (1e-3, 5e-2)}[values["training_precision"]]
    for fold in range(3):
        call, x = epoch(trial, fold)[0], material.head_inputs(trial, fold, trial.values)[: trial.values["batch_size"]]
        assert low <= deviation(call.gradients, gradients_by_hand(call.before, x, call.targets[: len(x)])) <= high


def deviation(ours, theirs):
    """Return how far gradients differ, of their length."""
    one, other = (np.concatenate([each.ravel() for each in arrays]) for arrays in (ours, theirs))
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def the_backbone_runs_at_every_step_or_never(material, trial, values):
    films = sum(len(call.features) for fold in trial.folds for call in fold)
    asked = {"cached": (0, 0), "live": (films, math.inf)}[values["features"]]
    assert asked[0] <= trial.extracted <= asked[1]


def layers_have_the_units_asked_for(material, trial, values):
    for fold in trial.folds:
        assert tuple(bias.shape[0] for bias in fold[-1].after[1::2]) == (*values["hidden_units"], 18)


def epochs_are_as_many(material, trial, values):
    assert len(trial.curve) == len(trial.outcome.report.curve) == values["epochs"]
    for fold, calls in enumerate(trial.folds):
        films = int((trial.development.folds != fold).sum())
        assert sum(len(call.features) for call in calls) == values["epochs"] * films


@dataclass(frozen=True)
class Row:
    """How a key is seen at the far end.

    Args:
        check: fails unless a trial was trained as values say.
        trials: those that it is made on; between them the key has at least two values.
    """

    check: Callable[[Material, Trained, dict], None]
    trials: str


ROWS = {
    "batch_size": Row(steps_are_those_of_adam, "AB"),
    "dropout_rate": Row(dropout_drops_the_share_asked_for, "ABD"),
    "learning_rate": Row(steps_are_those_of_adam, "AB"),
    "epsilon": Row(steps_are_those_of_adam, "AB"),
    "weights": Row(features_are_those_of_keras, "AC"),
    "weights_seed": Row(features_are_those_of_keras, "AB"),
    "output": Row(features_are_those_of_keras, "AB"),
    "pooling": Row(features_are_those_of_keras, "AB"),
    "image_size": Row(features_are_those_of_keras, "AB"),
    "resize": Row(features_are_those_of_keras, "AB"),
    "bits": Row(features_are_those_of_keras, "AB"),
    "features": Row(the_backbone_runs_at_every_step_or_never, "ABC"),
    "extraction_precision": Row(features_are_those_of_keras, "ABC"),
    "training_precision": Row(products_have_the_bits_asked_for, "ABC"),
    "flips": Row(flips_are_those_asked_for, "ABC"),
    "standardize": Row(steps_are_those_of_adam, "AB"),
    "hidden_units": Row(layers_have_the_units_asked_for, "AB"),
    "epochs": Row(epochs_are_as_many, "ABD"),
}

WATCHED_END_TO_END = {"architecture", "train", "micro_batch"}
"""The keys that change nothing in the training of heads: `tests/worker/test_end_to_end.py` watches them."""


def test_every_key_has_a_row():
    assert ROWS.keys() | WATCHED_END_TO_END == KEYS.keys()
    for key, row in ROWS.items():
        assert len({VALUES[name][key] for name in row.trials}) > 1, key


def passes(check, material, trial, values):
    try:
        check(material, trial, values)
    except AssertionError:
        return False
    return True


def test_each_value_asked_for_is_the_value_trained(material):
    """One test, for its trials are costly and shared; what it finds wrong names the key."""
    wrong = []
    for key, row in ROWS.items():
        others = {VALUES[name][key] for name in row.trials}
        for name in row.trials:
            trial = material.trial(name)
            if not passes(row.check, material, trial, trial.values):
                wrong.append(f"{key} = {trial.values[key]!r} was not trained in {name}")
            wrong += [
                f"{key} = {other!r} cannot be told from {trial.values[key]!r} in {name}"
                for other in others - {trial.values[key]}
                if passes(row.check, material, trial, {**trial.values, key: other})
            ]
    assert not wrong, "\n".join(wrong)


def test_a_value_is_trained_wherever_the_study_file_has_it_from(material):
    """Adam's ε and the flips, once from [search_space], once from [fixed], once from another study's best point."""
    material.trial("B")
    values = {**A, "epsilon": B["epsilon"], "flips": B["flips"], "epochs": 1}
    searched, fixed, inherited = (
        document(place, values, ["epsilon", "flips"] if place == "searched" else ["learning_rate"])
        for place in ("searched", "fixed", "inherited")
    )
    fixed["fixed"]["flips"] = fixed["model"].pop("flips")
    del inherited["fixed"]["epsilon"], inherited["model"]["flips"]
    inherited["fixed"]["from_best_of"] = "B"
    for contents in (searched, fixed, inherited):
        trial = run_trial(material.database, material.home, contents, values)
        for key in ("epsilon", "flips"):
            assert passes(ROWS[key].check, material, trial, values), (contents["name"], key)
            assert not passes(ROWS[key].check, material, trial, {**values, key: A[key]})


def seeds_document(name, seed):
    """Return a study of two points."""
    contents = document(name, A, ["learning_rate"])
    contents["search_space"]["learning_rate"] = [1e-2, 2e-2]
    contents["cross_validation"]["seed"] = seed
    return contents


def drawn(material, trial, fold):
    """Return what chance decides of a fold's first epoch; dropout is in `tests/learn/test_dropout_masks.py`."""
    (call,) = epoch(trial, fold)
    contents, backbone = trial.development.content, trial_of(trial.values).backbone
    table = FeatureCache(material.home.features, backbone).load(contents).table
    known = {row.tobytes(): number for number, row in enumerate(table.reshape(-1, table.shape[-1]))}
    rows = np.array([known[row.tobytes()] for row in call.features])
    training = np.flatnonzero(trial.development.folds != fold)
    order = np.searchsorted(training, rows // 4)
    return {"weights": call.before[0], "order": order, "flips": rows % 4}


def assert_all_differ(one, other):
    assert one.keys() == other.keys()
    for name in one:
        # Where there are not as many films, there is nothing to compare their order by.
        if one[name].shape == other[name].shape:
            assert (one[name] != other[name]).any(), name


def test_another_seed_of_the_study_another_point_and_another_fold_draw_otherwise(material):
    first, second = (
        run_trial(material.database, material.home, seeds_document("seed-5", 5), {**A, "learning_rate": rate})
        for rate in (1e-2, 2e-2)
    )
    other = run_trial(material.database, material.home, seeds_document("seed-6", 6), A)
    assert {first.claim.number, second.claim.number} == {0, 1}
    assert other.claim.number == first.claim.number
    np.testing.assert_array_equal(first.development.folds, second.development.folds)
    assert (first.development.folds != other.development.folds).any()
    sizes = [np.bincount(trial.development.folds) for trial in (first, other)]
    assert (sizes[0] == sizes[1]).any()
    for fold in range(3):
        assert_all_differ(drawn(material, first, fold), drawn(material, second, fold))
        assert_all_differ(drawn(material, first, fold), drawn(material, other, fold))
        assert_all_differ(drawn(material, first, fold), drawn(material, first, (fold + 1) % 3))
