import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from rust_optuna.config import BackboneConfiguration
from rust_optuna.errors import DataError
from rust_optuna.learn.extraction import read_film
from rust_optuna.learn.pipeline import prefetched
from rust_optuna.learn.pixels import PixelFile, Pixels, pixels_identity
from tests.learn.material import SIZE, Films

BACKBONE = BackboneConfiguration("imagenet", image_size=SIZE)


@pytest.fixture(scope="module")
def films():
    return Films(70)  # more than are decoded at once


def test_films_are_those_of_the_reader_to_the_nearest_of_256_levels(films, tmp_path):
    told = []
    pixels = PixelFile(tmp_path, BACKBONE, films.contents).build(films.read, lambda *far: told.append(far))
    assert (pixels.films, pixels.images.dtype) == (70, np.uint8)
    for film, content in enumerate(films.contents):
        exact = read_film(BACKBONE, content, films.bytes.__getitem__)
        assert np.abs(pixels.images[film] / 127.5 - 1 - exact).max() <= 0.5001 / 127.5
    assert pixels.images.min() < 10
    assert pixels.images.max() > 230
    assert pixels.sha256 == hashlib.sha256(pixels.images.tobytes()).hexdigest()
    assert (told[0], told[-1]) == ((0, 70), (70, 70))
    np.testing.assert_allclose(pixels.means(np.array([3])), pixels.images[[3]].mean(axis=2), rtol=1e-6)


def test_films_are_decoded_once_and_mapped(films, tmp_path):
    file = PixelFile(tmp_path, BACKBONE, films.contents)
    assert file.load() is None
    first = file.build(films.read)
    before = len(films.reads)
    again = PixelFile(tmp_path, BACKBONE, films.contents).build(films.read)
    assert len(films.reads) == before
    assert isinstance(again.images, np.memmap)
    assert again.sha256 == first.sha256


@pytest.mark.parametrize("change", [{"image_size": 80}, {"resize": "pad"}, {"bits": 12}])
def test_other_films_and_other_preprocessing_have_a_file_of_their_own(films, tmp_path, change):
    file = PixelFile(tmp_path, BACKBONE, films.contents)
    assert PixelFile(tmp_path, replace(BACKBONE, **change), films.contents).path != file.path
    assert pixels_identity(replace(BACKBONE, **change)) != pixels_identity(BACKBONE)
    assert PixelFile(tmp_path, BACKBONE, films.contents[::-1]).path != file.path
    # Nothing else of a backbone decides the pixels.
    others = replace(BACKBONE, weights="random", output="mixed3", pooling="average", extraction_precision="bfloat16")
    assert PixelFile(tmp_path, others, films.contents).path == file.path


def damage(file):
    content = bytearray(file.path.read_bytes())
    content[-7] ^= 1
    file.path.write_bytes(content)


def shorten(file):
    file.path.write_bytes(file.path.read_bytes()[:-100])


def forget(file):
    file.path.with_suffix(".json").unlink()


def empty(file):
    file.path.with_suffix(".json").write_text("{}")


def tear(file):
    file.path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize("harm", [damage, shorten, forget, empty, tear])
def test_a_damaged_file_counts_as_none_and_is_written_again(films, tmp_path, harm):
    file = PixelFile(tmp_path, BACKBONE, films.contents[:3])
    sound = file.build(films.read).sha256
    harm(file)
    assert file.load() is None
    assert file.build(films.read).sha256 == sound == file.load().sha256


def test_a_film_that_cannot_be_read_leaves_nothing_behind(films, tmp_path):
    def read(content):
        return b"no film" if content == films.contents[66] else films.bytes[content]

    file = PixelFile(tmp_path, BACKBONE, films.contents)
    with pytest.raises(DataError, match=films.contents[66][:12]):
        file.build(read)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_process_left_is_removed(films, tmp_path):
    file = PixelFile(tmp_path, BACKBONE, films.contents[:3])
    left = tmp_path / f".{file.path.name}.{'0' * 12}.tmp"
    left.write_bytes(b"half a file")
    file.build(films.read)
    assert not left.exists()
    description = json.loads(file.path.with_suffix(".json").read_text())
    assert description["identity"]["films"] == films.contents[:3]


def test_of_several_that_decode_at_once_one_does(tmp_path):
    films = Films(5)
    file = PixelFile(tmp_path, BACKBONE, films.contents)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: PixelFile(tmp_path, BACKBONE, films.contents).build(films.read), range(3)))
    assert len(films.reads) == 5
    assert {pixels.sha256 for pixels in found} == {file.load().sha256}


def test_micro_batches_come_in_order_and_padded():
    images = np.arange(1, 11, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    pixels = Pixels(images, "made up")
    parts = [np.array([7, 0]), np.array([3]), np.array([], dtype=int), np.array([9, 9]), np.array([1])]
    gathered = list(prefetched(pixels, parts, 3))
    assert [batch[:, 0, 0].tolist() for batch in gathered] == [[8, 1, 0], [4, 0, 0], [0, 0, 0], [10, 10, 0], [2, 0, 0]]


def test_an_error_of_the_reader_is_raised_where_its_films_are_wanted():
    pixels = Pixels(np.zeros((3, 2, 2), np.uint8), "made up")
    batches = prefetched(pixels, [np.array([0]), np.array([5])], 1)
    next(batches)
    with pytest.raises(IndexError):
        next(batches)


def test_who_stops_early_leaves_no_thread_behind():
    import threading

    pixels = Pixels(np.zeros((3, 2, 2), np.uint8), "made up")
    batches = prefetched(pixels, [np.array([0])] * 50, 1)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("films")]
