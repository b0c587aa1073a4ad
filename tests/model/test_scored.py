import dataclasses
import json
import zipfile

import numpy as np
import pytest

from rust_optuna.data.manifest import CORTICES, LABELS, VIEWS
from rust_optuna.errors import DataError
from rust_optuna.model.scored import UNREADABLE, Estimate, ScoredFilms
from tests.model.films import SHOWN, draw_films


def same(ours, theirs):
    for field in dataclasses.fields(ScoredFilms):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_saved_is_loaded_to_the_bit(tmp_path, whole):
    films = draw_films(sources=whole)
    if whole:
        readers = np.random.default_rng(0).choice([np.nan, 1, 2, 3, 4], (2, len(films), 4))
        films = dataclasses.replace(films, readers=readers)
    films.save(tmp_path / "films.npz")
    same(ScoredFilms.load(tmp_path / "films.npz"), films)
    assert [path.name for path in tmp_path.iterdir()] == ["films.npz"]


def test_a_file_that_holds_no_scored_films_is_named(tmp_path):
    path = tmp_path / "films.npz"
    draw_films().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"films\.npz does not hold scored films"):
        ScoredFilms.load(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(DataError, match=r"films\.npz does not hold scored films"):
        ScoredFilms.load(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"films\.npz does not hold scored films"):
        ScoredFilms.load(path)
    with pytest.raises(FileNotFoundError):
        ScoredFilms.load(tmp_path / "absent.npz")


def changed(films, name, position, value):
    array = getattr(films, name).copy()
    array[position] = value
    return {name: array}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {"patients": f.patients[1:]}, "patients has"),
        (lambda f: {"sources": ("A",)}, "sources has 1 entries"),
        (lambda f: {"visits": (f.visits[-1], *f.visits[1:])}, "two patients share a visit"),
        (lambda f: {"labels": f.labels[:, :17]}, "labels are uint8"),
        (lambda f: {"labels": f.labels.astype(float)}, "labels are float64"),
        (lambda f: changed(f, "labels", (0, 3), 2), "neither 0 nor 1"),
        (lambda f: changed(f, "labels", (0, slice(0, 2)), 1), "exactly one view"),
        (lambda f: changed(f, "labels", (0, slice(2, 4)), 1), "two subscores"),
        (lambda f: {"scores": f.scores[1:]}, "scores are float32"),
        (lambda f: {"view_only": f.labels}, "view_only are uint8"),
        (lambda f: changed(f, "scores", (0, 0), np.nan), "scores are not all between"),
        (lambda f: changed(f, "frequencies", (0, 0), 1.1), "frequencies are not all between"),
        (lambda f: changed(f, "scores", (0, 0), -0.1), "scores are not all between"),
        (lambda f: {"cortices": {"lateral": ("medial",)}}, "cortices of each view"),
        (lambda f: {"cortices": {**SHOWN, "lateral": ("left",)}}, "cortices of each view"),
        (lambda f: {"readers": np.full((len(f), 4), 1.0)}, "readers is"),
        (lambda f: {"readers": np.full((1, len(f), 4), 5.0)}, "neither NaN nor 1 to 4"),
    ],
)
def test_what_is_no_set_of_scored_films_is_refused(change, message):
    films = draw_films()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(films, **change(films))


def test_no_films_are_refused():
    with pytest.raises(ValueError, match="no films"):
        draw_films().take([])


def test_views_shown_cortices_and_classes_are_read_off_the_labels():
    films = draw_films()
    for number in range(len(films)):
        carried = {name for name, one in zip(LABELS, films.labels[number], strict=True) if one}
        view = VIEWS[films.views[number]]
        assert f"view_{view}" in carried
        assert {c for c, shown in zip(CORTICES, films.shown[number], strict=True) if shown} == set(SHOWN[view])
        subscores = zip(CORTICES, films.classes[number], strict=True)
        found = {f"{cortex}_{kind + 1}" for cortex, kind in subscores if kind != UNREADABLE}
        assert found | {f"view_{view}"} == carried


def test_films_are_taken_whole_and_in_order():
    films = draw_films(sources=True)
    films = dataclasses.replace(films, readers=np.full((1, len(films), 4), 2.0))
    taken = films.take([3, 0, 3])
    assert taken.content == (films.content[3], films.content[0], films.content[3])
    assert taken.sources == (films.sources[3], films.sources[0], films.sources[3])
    np.testing.assert_array_equal(taken.view_only, films.view_only[[3, 0, 3]])
    assert taken.readers.shape == (1, 3, 4)


def test_other_scores_leave_the_films_as_they_are():
    films = draw_films()
    other = films.with_scores(films.view_only)
    assert other.scores is films.view_only
    assert (other.labels is films.labels, other.content is films.content) == (True, True)
    with pytest.raises(ValueError, match="scores are"):
        films.with_scores(films.scores[1:])


def test_an_estimate_leaves_undefined_resamples_out():
    resampled = np.array([np.nan, *np.arange(101.0)])
    estimate = Estimate.of(50.0, resampled)
    assert estimate.to_json() == {"value": 50.0, "low": 2.5, "high": 97.5, "resamples": 101}
    assert json.dumps(Estimate.of(np.nan, np.full(3, np.nan)).to_json()) == (
        '{"value": null, "low": null, "high": null, "resamples": 0}'
    )
