"""The features that a study's workers have in common."""

import numpy as np
import pytest
import sqlalchemy as sa

from rust_optuna.data.film_index import FilmIndex
from rust_optuna.errors import FingerprintError, StudyError
from rust_optuna.learn import extraction
from rust_optuna.learn.arithmetic import MEMORY, arithmetic, remembered_arithmetic
from rust_optuna.learn.features import FeatureCache
from rust_optuna.learn.sources import LiveFeatures
from rust_optuna.search.creation import delete_study
from rust_optuna.search.pins import SAMPLED, FeaturePins, PinnedFeatures, sampled
from rust_optuna.search.studies import load_development, load_parameters
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from rust_optuna.worker.objective import CrossValidationObjective
from tests.studies import make_study, random_document

BACKBONE = {"output": "mixed2", "precision": "float32"}
SAMPLE = np.random.default_rng(0).uniform(0, 2, (SAMPLED, 5)).astype(np.float32)


def features(kind="AVX2 1", sha256="a" * 64, sample=SAMPLE):
    return PinnedFeatures(kind, sha256, sample)


@pytest.fixture
def pins(database, home):
    return FeaturePins(database, make_study(database, home, random_document(1)))


def test_what_the_first_worker_pins_is_read_back_to_the_bit(pins):
    assert pins.of(BACKBONE) == []
    pins.pin(BACKBONE, features())
    pins.pin(BACKBONE, features())
    [pinned] = pins.of(BACKBONE)
    assert (pinned.kind, pinned.sha256) == ("AVX2 1", "a" * 64)
    np.testing.assert_array_equal(pinned.sample, SAMPLE)
    assert pinned.sample.dtype == np.float32
    assert pins.of({**BACKBONE, "output": "mixed3"}) == []


def test_a_worker_of_the_same_kind_that_differs_at_all_is_refused(pins):
    pins.pin(BACKBONE, features())
    with pytest.raises(FingerprintError, match="though both compute with AVX2 1"):
        pins.pin(BACKBONE, features(sha256="b" * 64))  # in a film outside of the sample
    last_bit = SAMPLE.copy()
    last_bit[2, 3] = np.nextafter(last_bit[2, 3], np.float32(9))
    with pytest.raises(FingerprintError, match="though both compute with AVX2 1"):
        pins.check(BACKBONE, "AVX2 1", last_bit)
    pins.check(BACKBONE, "AVX2 2", last_bit)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_kinds_of_arithmetic_may_differ_by_rounding_and_no_more(pins, precision, tolerance):
    backbone = {**BACKBONE, "precision": precision}
    pins.pin(backbone, features())
    full = SAMPLE.max()
    pins.pin(backbone, features("AVX-512 2", "b" * 64, SAMPLE + np.float32(0.9 * tolerance * full)))
    with pytest.raises(FingerprintError, match=r"of full scale.*\(another here, AVX\S+ \d there\)"):
        pins.pin(backbone, features("another", "c" * 64, SAMPLE - np.float32(1.1 * tolerance * full)))
    assert {pinned.kind for pinned in pins.of(backbone)} == {"AVX-512 2", "AVX2 1"}


@pytest.mark.parametrize("sample", [SAMPLE[:, :4], np.full_like(SAMPLE, np.nan)])
def test_features_of_another_width_or_none_are_refused(pins, sample):
    pins.pin(BACKBONE, features())
    with pytest.raises(FingerprintError, match="are not those of its other workers"):
        pins.check(BACKBONE, "another", sample)


def test_pins_go_with_their_study(database, home, pins):
    pins.pin(BACKBONE, features())
    delete_study(database, "regime-1", open_store("storage/artifacts", home))
    assert database.transact(lambda c: c.execute(sa.select(tables.features)).all()) == []


@pytest.mark.parametrize("films", [1, 3, 4, 2483])
def test_the_sample_is_spread_over_the_films_and_over_all_flips(films):
    positions, flips = sampled(films)
    assert (positions[0], positions[-1]) == (0, films - 1)
    assert sorted(flips) == [0, 1, 2, 3]


@pytest.fixture
def study(sqlite, home):
    return make_study(
        sqlite, home, random_document(1, model={"weights": "random", "output": "mixed2", "image_size": 75})
    )


@pytest.fixture
def prepare(sqlite, home, study, compiled_once):
    def run(root=home, features="cached"):
        development = load_development(sqlite, study)
        pins = FeaturePins(sqlite, study)
        made = CrossValidationObjective(study, development, root, open_store(sqlite.artifacts(), home), pins=pins)
        made.prepare([{**point, "features": features} for point in load_parameters(sqlite, study.id)])
        made.pin()

    return run


@pytest.mark.tensorflow
def test_cached_and_live_features_are_pinned_alike(sqlite, home, prepare):
    prepare()
    prepare(features="live")
    [row] = sqlite.transact(lambda c: c.execute(sa.select(tables.features)).all())
    [folder] = [path for path in home.features.iterdir() if path.is_dir()]
    assert row.arithmetic in (folder / "identity.json").read_text()


@pytest.mark.tensorflow
@pytest.mark.parametrize("features", ["cached", "live"])
@pytest.mark.parametrize("kind", ["the same", "another"])
def test_a_worker_that_reads_films_otherwise_is_refused_before_it_fills_the_cache(
    home, prepare, study, monkeypatch, kind, features
):
    """Inverted pixels, and no version that says so: the fault that the versions cannot see."""
    prepare()
    read = extraction.read_radiograph
    monkeypatch.setattr(extraction, "read_radiograph", lambda *given, **named: -read(*given, **named))
    if kind == "another":
        for module in ("rust_optuna.worker.objective", "rust_optuna.worker.building", "rust_optuna.learn.features"):
            monkeypatch.setattr(f"{module}.arithmetic", lambda precision: "another machine 1")
    else:
        for path in home.features.rglob("shard-*"):
            path.unlink()  # a cache that another worker of this kind has to fill
    kept = {path: path.stat().st_mtime_ns for path in home.features.rglob("*")}
    computed = []
    monkeypatch.setattr(LiveFeatures, "complete", lambda *given: computed.append(given))
    with pytest.raises(FingerprintError, match="are not those of its other workers"):
        prepare(features=features)
    assert computed == [], "all films were computed before the sample was compared"
    assert {path: path.stat().st_mtime_ns for path in home.features.rglob("*")} == kept


@pytest.mark.tensorflow
def test_features_that_another_study_left_in_the_cache_are_refused(sqlite, home, study, prepare):
    """Whole shards with good checksums, of other pictures."""
    prepare()
    contents = load_development(sqlite, study).content
    cache = FeatureCache(home.features, study.trial_configuration(load_parameters(sqlite, study.id)[0], home).backbone)
    for path in cache.folder.glob("shard-*"):
        path.unlink()
    index = FilmIndex(home.film_index)
    cache.build(contents, lambda content: index.read(contents[(contents.index(content) + 1) % len(contents)]))
    with pytest.raises(FingerprintError, match="though both compute with"):
        prepare()


def test_a_pin_whose_commits_answer_was_lost_is_there_once(database, home, pins, monkeypatch):
    transact, lost = database.transact, []

    def losing(function):
        answer = transact(function)
        if function.__name__ == "insert" and not lost:
            lost.append(function)
            return transact(function)
        return answer

    monkeypatch.setattr(database, "transact", losing)
    pins.pin(BACKBONE, features())
    assert lost
    assert len(pins.of(BACKBONE)) == 1


@pytest.mark.parametrize("anew", [False, True])
def test_nothing_is_pinned_for_a_study_that_was_deleted(database, home, pins, anew):
    delete_study(database, "regime-1", open_store("storage/artifacts", home))
    if anew:
        make_study(database, home, random_document(1))
    with pytest.raises(StudyError, match="regime-1 was deleted"):
        pins.pin(BACKBONE, features())
    assert database.transact(lambda c: c.execute(sa.select(tables.features)).all()) == []


@pytest.mark.tensorflow
def test_a_workers_kind_is_remembered_where_all_features_are_there_already(home, prepare):
    prepare()
    (home.features / MEMORY).unlink()
    prepare()
    assert remembered_arithmetic(home.features, "float32") == arithmetic("float32")
