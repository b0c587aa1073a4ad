"""The central promise: features computed once train the same, to the bit, as the backbone run at every step."""

from dataclasses import replace

import numpy as np
import pytest

from rust_optuna.learn.cross_validation import cross_validate
from rust_optuna.learn.extraction import Extractor
from rust_optuna.learn.features import FeatureCache
from rust_optuna.learn.sources import CachedFeatures, LiveFeatures
from rust_optuna.learn.training import FoldTrainer
from tests.learn.material import BACKBONE, make_development

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module", params=["mixed2", "mixed10"])
def tap(request, extractor):
    """The backbone tapped early and where the published study did."""
    return extractor if request.param == "mixed2" else Extractor(replace(BACKBONE, output="mixed10"))


@pytest.fixture(scope="module")
def sources(tap, films, tmp_path_factory):
    cache = FeatureCache(tmp_path_factory.mktemp("features"), tap.backbone)
    cache.build(films.contents, films.read, extractor=tap)
    return CachedFeatures(cache.load(films.contents)), LiveFeatures(tap, films.contents, films.read)


def test_features_are_equal_to_the_bit(sources):
    cached, live = sources
    generator = np.random.default_rng(0)
    for size in (1, 5, 16, 30):
        films, flips = generator.permutation(30)[:size], generator.integers(0, 4, size)
        batches = []
        for source in sources:
            table, rows = source.gather(films, flips)
            batches.append(np.asarray(table)[rows])
        np.testing.assert_array_equal(*batches)
        np.testing.assert_array_equal(cached.unflipped(films), live.unflipped(films))
    assert cached.sha256 == live.sha256
    assert (cached.films, cached.width) == (live.films, live.width)


@pytest.mark.parametrize("seed", [1, 2, 1337])
def test_scores_are_equal_to_the_bit_after_every_epoch(sources, films, trial, seed):
    labels = make_development(films.contents).labels
    settings = replace(trial, batch_size=12, standardize=seed != 2, dropout_rate=0.25, learning_rate=3e-3)
    cached, live = (FoldTrainer(source, labels, np.arange(22), settings, seed) for source in sources)
    before = cached.predict(np.arange(30))
    for epoch in range(1, 4):
        assert cached.train_epoch(epoch) == live.train_epoch(epoch)
        scores = cached.predict(np.arange(22, 30))
        np.testing.assert_array_equal(scores, live.predict(np.arange(22, 30)))
        for one, other in zip(cached.weights, live.weights, strict=True):
            np.testing.assert_array_equal(one, other)
    assert cached.steps == live.steps == 3 * 2
    # Not equal by standing still.
    assert np.abs(scores - before[22:]).max() > 1e-3


def test_whole_trials_are_equal_to_the_bit(sources, films, trial):
    development = make_development(films.contents)
    results = [
        cross_validate(development, source, replace(trial, standardize=True), seed=3, point=1, on_epoch=lambda *_: None)
        for source in sources
    ]
    assert results[0].report.curve == results[1].report.curve
    np.testing.assert_array_equal(results[0].out_of_fold.scores, results[1].out_of_fold.scores)
    first, second = (replace(result.report, seconds=0) for result in results)
    assert first == second
