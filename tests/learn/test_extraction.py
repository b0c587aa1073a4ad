import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from rust_optuna.learn import extraction as module
from rust_optuna.learn.extraction import MICRO_BATCH, Extractor, extraction_identity, micro_batch_bytes
from rust_optuna.learn.runtime import load_keras
from tests.learn.material import BACKBONE, SIZE

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(1)
    return generator.uniform(-1, 1, (2 * MICRO_BATCH + 5, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def features(extractor, images):
    return extractor.extract(images, np.arange(len(images)) % 4)


def test_a_films_features_do_not_depend_on_its_neighbours(extractor, images, features):
    shuffled = np.random.default_rng(2).permutation(len(images))
    np.testing.assert_array_equal(extractor.extract(images[shuffled], shuffled % 4), features[shuffled])


@pytest.mark.parametrize("count", [1, 3, MICRO_BATCH, MICRO_BATCH + 1])
def test_nor_on_how_many_there_are(extractor, images, features, count):
    np.testing.assert_array_equal(extractor.extract(images[:count], np.arange(count) % 4), features[:count])


@pytest.fixture
def another(extractor, monkeypatch):
    """Make an extractor on the backbone that is compiled already."""
    monkeypatch.setattr(module, "build_backbone", lambda backbone: extractor.model)
    monkeypatch.setattr(module, "_compile", lambda model, backbone: extractor._run)
    return lambda: Extractor(BACKBONE)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_nor_on_how_many_are_computed_at_once(another, images, features, threads, monkeypatch):
    monkeypatch.setattr(module, "side_by_side_threads", lambda: threads)
    found = another()
    assert found.threads == threads
    np.testing.assert_array_equal(found.extract(images, np.arange(len(images)) % 4), features)


@pytest.mark.parametrize(("room", "threads"), [(0.5, 1), (2.5, 2), (9, 4)])
def test_no_more_are_computed_at_once_than_memory_has_room_for(another, monkeypatch, room, threads):
    monkeypatch.setattr(module, "side_by_side_threads", lambda: 4)
    monkeypatch.setattr(module, "memory_available", lambda: int(room * micro_batch_bytes(BACKBONE)))
    assert another().threads == threads
    larger = micro_batch_bytes(replace(BACKBONE, image_size=4 * SIZE))
    assert larger == 16 * micro_batch_bytes(BACKBONE)


def test_what_is_raised_as_micro_batches_end_ends_the_extraction(extractor, images):
    def stop(done):
        raise InterruptedError(done)

    with pytest.raises(InterruptedError, match=str(extractor.slots)):
        extractor.extract_all_flips(images[: extractor.slots], lambda done: stop(done * 4))


def test_micro_batches_that_wait_are_not_computed_once_it_has_ended(extractor, monkeypatch):
    monkeypatch.setattr(extractor, "threads", 2)
    monkeypatch.setattr(extractor, "_pool", ThreadPoolExecutor(2))
    began, numbers, ended = [], itertools.count(), threading.Event()

    def micro_batch(images, flips):
        number = next(numbers)
        began.append(number)
        assert number == 0 or ended.wait(30)
        return 0.0

    def stop(done):
        raise InterruptedError

    monkeypatch.setattr(extractor, "_micro_batch", micro_batch)
    films = 9 * extractor.slots
    with pytest.raises(InterruptedError):
        extractor.extract(np.zeros((films, SIZE, SIZE), np.float32), np.zeros(films, int), stop)
    ended.set()
    extractor._pool.submit(lambda: None).result()
    # Those on the two threads: the first, and two that were begun beside it or after it.
    assert len(began) <= 3


def test_no_films_have_no_features(extractor):
    assert extractor.extract(np.zeros((0, SIZE, SIZE), np.float32), np.zeros(0, int)).shape == (0, extractor.width)


@pytest.mark.parametrize("deep", [False, True])
def test_features_are_those_of_an_ordinary_batched_forward_pass(extractor, images, deep):
    """Every feature of every film, to 1e-5 of the largest: batch normalisations are folded into kernels here."""
    if deep:
        # Large enough for a map of more than one place: of a single one, mean and maximum are equal.
        extractor = Extractor(replace(BACKBONE, output="mixed10", pooling="average", image_size=128))
        images = np.random.default_rng(1).uniform(-1, 1, (MICRO_BATCH + 5, 128, 128)).astype(np.float32)
    flips = np.arange(len(images)) % 4
    ours = extractor.extract(images, flips)
    flipped = [
        image[:: -1 if flip & 2 else 1, :: -1 if flip & 1 else 1] for image, flip in zip(images, flips, strict=True)
    ]
    colours = np.repeat(np.stack(flipped)[..., None], 3, axis=-1)
    maps = extractor.model.predict(colours, batch_size=len(images), verbose=0)
    assert maps.shape[1:3] == ((2, 2) if deep else (7, 7))
    expected = maps.mean(axis=(1, 2)) if deep else maps.max(axis=(1, 2))
    assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()
    # And every feature that says anything, on its own scale.
    scale = np.abs(expected).max(axis=0)
    plain = scale > 0.1 * scale.max()
    assert (np.abs(ours - expected) <= 2e-5 * scale)[:, plain].all()


def test_bfloat16_features_are_the_same_to_its_eight_bits_and_not_more(extractor, images, features):
    rough = Extractor(replace(BACKBONE, extraction_precision="bfloat16"))
    flips = np.arange(len(images)) % 4
    found = rough.extract(images, flips)
    assert found.dtype == np.float32
    difference = np.abs(found - features).max() / features.max()
    assert 1e-4 < difference < 0.03
    assert np.corrcoef(found.ravel(), features.ravel())[0, 1] > 0.999
    np.testing.assert_array_equal(rough.extract(images[:3], flips[:3]), found[:3])
    assert load_keras().config.dtype_policy().name == "float32"
    np.testing.assert_array_equal(Extractor(BACKBONE).extract(images[:3], flips[:3]), features[:3])


def test_the_four_flips_are_four_different_views_of_a_film(extractor, images):
    every = extractor.extract_all_flips(images[:2])
    assert every.shape == (2, 4, extractor.width)
    mirrored = extractor.extract_all_flips(images[:2, ::-1, ::-1])
    np.testing.assert_array_equal(every, mirrored[:, ::-1])
    assert len(np.unique(every[0], axis=0)) == 4


@pytest.mark.parametrize(
    ("shape", "flips"), [((2, SIZE, SIZE), [0]), ((1, SIZE, SIZE), [4]), ((1, SIZE, SIZE), [-1]), ((1, 99, 99), [0])]
)
def test_what_is_no_film_or_flip_is_refused(extractor, shape, flips):
    with pytest.raises(ValueError, match=r"have the shape|from 0 to 3"):
        extractor.extract(np.zeros(shape, np.float32), np.array(flips))


def test_the_identity_tells_all_that_features_depend_on():
    identity = extraction_identity(BACKBONE)
    for change in ({"weights_seed": 4}, {"output": "mixed1"}, {"pooling": "average"}, {"image_size": 76}):
        assert extraction_identity(replace(BACKBONE, **change)) != identity
    assert extraction_identity(replace(BACKBONE, resize="pad")) != identity
    assert extraction_identity(replace(BACKBONE, extraction_precision="bfloat16")) != identity


def test_bits_are_part_of_the_identity_and_absent_where_they_are_not_given():
    identity = extraction_identity(BACKBONE)
    assert set(identity) == {"weights", "output", "pooling", "image_size", "resize", "precision"}
    assert extraction_identity(replace(BACKBONE, bits=12)) == {**identity, "bits": 12}
