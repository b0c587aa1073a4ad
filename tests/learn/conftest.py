import hashlib
import importlib.util

import numpy as np
import pytest

from rust_optuna.config import TrialConfiguration
from tests.learn.material import BACKBONE, Films, hashes, make_development


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("tensorflow") is None:
        for item in items:
            if item.get_closest_marker("tensorflow"):
                item.add_marker(pytest.mark.skip(reason="TensorFlow is not installed"))


@pytest.fixture(scope="session")
def extractor():
    from rust_optuna.learn.extraction import Extractor

    return Extractor(BACKBONE)


@pytest.fixture(scope="session")
def films():
    return Films(30)


@pytest.fixture(scope="session")
def development():
    """41 films in three folds: 27 or 28 to train on."""
    return make_development(hashes(41))


@pytest.fixture
def random_source():
    """Features out of thin air, for tests to which it does not matter what is trained on."""
    from rust_optuna.learn.features import Features
    from rust_optuna.learn.sources import CachedFeatures

    def make(films=41, width=24, seed=0, shift=0.0):
        table = np.random.default_rng(seed).standard_normal((films, 4, width)).astype(np.float32) + np.float32(shift)
        return CachedFeatures(Features(table, hashlib.sha256(table.data).hexdigest()))

    return make


@pytest.fixture(scope="session")
def trial():
    return TrialConfiguration(
        batch_size=7,
        dropout_rate=0.3,
        learning_rate=1e-3,
        epsilon=1e-7,
        backbone=BACKBONE,
        epochs=3,
        hidden_units=(16, 8),
    )
