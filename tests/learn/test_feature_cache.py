import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rust_optuna.errors import DataError
from rust_optuna.learn import features as module
from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.features import FeatureCache
from tests.learn.material import BACKBONE, Films

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD_FILMS", 8)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features", BACKBONE)


@pytest.fixture
def built(cache, films, extractor):
    cache.build(films.contents, films.read, extractor=extractor)
    return cache


def reopened(cache):
    return FeatureCache(cache.folder.parent, BACKBONE)


def shards(cache):
    return sorted(cache.folder.glob("shard-*.npy"))


@pytest.mark.tensorflow
def test_what_is_loaded_is_what_the_backbone_gives(built, films, extractor):
    from rust_optuna.learn.extraction import read_film

    images = np.stack([read_film(BACKBONE, content, films.bytes.__getitem__) for content in films.contents])
    loaded = reopened(built).load(films.contents)
    np.testing.assert_array_equal(loaded.table, extractor.extract_all_flips(images))
    assert loaded.sha256 == hashlib.sha256(loaded.table.tobytes()).hexdigest()
    assert loaded.table.flags.owndata


@pytest.mark.tensorflow
def test_films_come_in_the_order_asked_for(built, films):
    forwards = built.load(films.contents)
    backwards = built.load(films.contents[::-1])
    np.testing.assert_array_equal(forwards.table[::-1], backwards.table)
    assert forwards.sha256 != backwards.sha256


@pytest.mark.tensorflow
def test_the_layout_is_as_documented(built, films):
    assert json.loads((built.folder / "identity.json").read_text()) == built.identity
    index = json.loads((built.folder / "index.json").read_text())
    assert [len(shard["films"]) for shard in index["shards"]] == [8, 8, 8, 6]
    for shard in index["shards"]:
        assert hashlib.sha256((built.folder / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]
    assert len(shards(built)) == 4


@pytest.mark.tensorflow
def test_only_new_films_are_extracted(built, films, extractor):
    more = Films(35)
    before = shards(built)
    reported = []
    built.build(more.contents, more.read, lambda *done: reported.append(done), extractor)
    assert set(more.reads) == set(more.contents) - set(films.contents)
    assert len(more.reads) == 5
    assert set(before) < set(shards(built))
    assert (reported[0], reported[-1]) == ((30, 35), (35, 35))
    assert reported == sorted(reported)
    assert built.missing(more.contents) == []


@pytest.mark.tensorflow
@pytest.mark.parametrize("damage", ["flipped byte", "cut off", "gone"])
def test_a_damaged_shard_is_noticed_and_rebuilt(built, films, extractor, damage):
    before = built.load(films.contents)
    victim = shards(built)[1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(bytes(content) if damage == "flipped byte" else bytes(content[:100]))
    again = reopened(built)
    missing = again.missing(films.contents)
    assert len(missing) in (6, 8)
    with pytest.raises(DataError, match="damaged"):
        again.load(films.contents)
    films.reads.clear()
    again.build(films.contents, films.read, extractor=extractor)
    assert sorted(films.reads) == sorted(missing)
    after = again.load(films.contents)
    np.testing.assert_array_equal(before.table, after.table)
    assert before.sha256 == after.sha256
    assert not victim.exists()


@pytest.mark.tensorflow
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"layout": 0, "shards": []}', b'{"layout": 1, "shards": [3]}'])
def test_an_index_that_cannot_be_read_means_that_nothing_is_there(built, films, content):
    (built.folder / "index.json").write_bytes(content)
    assert reopened(built).missing(films.contents) == films.contents


@pytest.mark.tensorflow
def test_building_removes_what_dead_builders_left(built, films, extractor):
    (built.folder / ".shard-1.npy.123.tmp").write_bytes(b"half")
    (built.folder / "shard-orphan.npy").write_bytes(b"whole, but the builder died before the index")
    more = Films(31)
    built.build(more.contents, more.read, extractor=extractor)
    left = {path.name for path in built.folder.iterdir()} - {path.name for path in shards(built)}
    assert left == {"identity.json", "index.json", ".lock"}
    assert not (built.folder / "shard-orphan.npy").exists()


@pytest.mark.tensorflow
def test_a_film_that_cannot_be_read_leaves_the_shards_before_it(cache, films, extractor):
    def read(content):
        if content == films.contents[20]:
            raise DataError("no such film")
        return films.bytes[content]

    with pytest.raises(DataError, match="no such film"):
        cache.build(films.contents, read, extractor=extractor)
    assert cache.missing(films.contents) == films.contents[16:]
    cache.build(films.contents, films.read, extractor=extractor)
    assert cache.missing(films.contents) == []


@pytest.mark.tensorflow
def test_nothing_is_loaded_from_nothing(cache, films):
    assert cache.missing([*films.contents, films.contents[0]]) == films.contents
    with pytest.raises(DataError, match="30 of 30 films have no features"):
        cache.load(films.contents)
    assert not cache.folder.exists()


def test_each_identity_and_each_kind_of_arithmetic_has_its_own_folder(tmp_path):
    other = replace(BACKBONE, pooling="average")
    caches = [FeatureCache(tmp_path, backbone, kind) for backbone in (BACKBONE, other) for kind in ("A 1", "A 2")]
    assert len({cache.folder for cache in caches}) == 4
    assert FeatureCache(tmp_path, BACKBONE, "A 1").folder == caches[0].folder


@pytest.mark.parametrize("library", ["preprocessing", "tensorflow", "keras", "numpy", "pillow"])
def test_each_version_of_what_computes_features_has_its_own_folder(tmp_path, monkeypatch, library):
    before = FeatureCache(tmp_path, BACKBONE, "A 1")
    versions = {**module.extraction_versions(), library: "another"}
    monkeypatch.setattr(module, "extraction_versions", lambda: versions)
    assert FeatureCache(tmp_path, BACKBONE, "A 1").folder != before.folder


@pytest.mark.tensorflow
def test_the_width_of_features_is_told_once_there_are_some(cache, films, extractor):
    assert cache.width() is None
    cache.build(films.contents[:3], films.read, extractor=extractor)
    assert cache.width() == reopened(cache).width() == extractor.width


@pytest.mark.tensorflow
def test_what_wrote_features_stands_in_their_folder(built):
    identity = json.loads((built.folder / "identity.json").read_text())
    assert identity["arithmetic"] == arithmetic("float32")
    assert set(identity) >= {"preprocessing", "tensorflow", "keras", "numpy", "pillow"}


def test_where_no_processor_of_this_kind_has_been_nothing_is_known(tmp_path):
    assert FeatureCache.without_tensorflow(tmp_path, BACKBONE) is None


@pytest.mark.tensorflow
def test_features_of_another_kind_are_not_built_under_its_name(tmp_path, films, extractor):
    with pytest.raises(ValueError, match="another machine"):
        FeatureCache(tmp_path, BACKBONE, "another machine").build(films.contents, films.read, extractor=extractor)


@pytest.mark.tensorflow
def test_a_complete_cache_needs_no_tensorflow(built, films):
    code = (
        "import sys\nfrom pathlib import Path\nsys.modules['tensorflow'] = None\n"
        "from tests.learn.material import BACKBONE\nfrom rust_optuna.learn.features import FeatureCache\n"
        f"cache = FeatureCache.without_tensorflow(Path({str(built.folder.parent)!r}), BACKBONE)\n"
        f"contents = {films.contents!r}\ncache.build(contents, None)\nprint(cache.load(contents).sha256)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == built.load(films.contents).sha256, done.stderr


def child(folder, films):
    command = [sys.executable, "-m", "tests.learn.material", str(folder), str(films)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.tensorflow
def test_killed_at_a_random_moment_whole_shards_stay(tmp_path, extractor):
    material = Films(72)
    expected = FeatureCache(tmp_path / "undisturbed", BACKBONE)
    expected.build(material.contents, material.read, extractor=extractor)
    process = child(tmp_path, len(material.contents))
    for line in process.stdout:
        if int(line.split()[0]) >= 24:
            break
    time.sleep(random.uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.wait()
    cache = FeatureCache(tmp_path / "features", BACKBONE)
    missing = cache.missing(material.contents)
    assert len(missing) < 72
    material.reads.clear()
    cache.build(material.contents, material.read, extractor=extractor)
    assert sorted(material.reads) == sorted(missing)
    assert cache.load(material.contents).sha256 == expected.load(material.contents).sha256


@pytest.mark.tensorflow
def test_two_processes_extract_each_film_once(tmp_path):
    processes = [child(tmp_path, 40) for _ in range(2)]
    reports = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    reads = [line for log in tmp_path.glob("reads-*.txt") for line in log.read_text().split()]
    assert sorted(reads) == Films(40).contents
    assert [report[-1] for report in reports] == ["40 40", "40 40"]


@pytest.mark.tensorflow
def test_who_waits_reports_the_builders_progress(cache, films, extractor, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    waiting = threading.Event()
    reported = []

    def read_slowly(content):
        if content == films.contents[-1]:
            assert waiting.wait(30)
        return films.bytes[content]

    def progress(*done):
        reported.append(done)
        waiting.set()

    builder = threading.Thread(target=cache.build, args=(films.contents, read_slowly, None, extractor))
    builder.start()
    while not (cache.folder / "index.json").exists():
        time.sleep(0.01)
    reopened(cache).build(films.contents, lambda content: pytest.fail("read twice"), progress)
    builder.join()
    assert reported[-1] == (30, 30)
    assert len(reported) > 1
    assert all(done <= total == 30 for done, total in reported)
