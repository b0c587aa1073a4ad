import hashlib
from dataclasses import replace

import numpy as np
import pytest

from rust_optuna.data.development import DevelopmentSet, development_set, development_set_by_source, pseudonyms
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.errors import DataError, ManifestError
from tests.data.films import make_manifest, rewrite


@pytest.fixture
def index(tmp_path):
    return FilmIndex(tmp_path / "storage" / "films.json")


@pytest.fixture
def films(tmp_path, index):
    return development_set(make_manifest(tmp_path), index, folds=3, seed=1)


def test_it_holds_the_development_films_sorted_by_content(tmp_path, films, index):
    manifest = make_manifest(tmp_path)
    expected = {hashlib.sha256(f.image.read_bytes()).hexdigest(): f for f in manifest.part("development")}
    assert films.content == tuple(sorted(expected))
    for content, view, label in zip(films.content, films.views, films.labels, strict=True):
        assert view == expected[content].view
        assert label.tolist() == expected[content].label.tolist()
        assert index.read(content) == expected[content].image.read_bytes()
    assert set(films.folds.tolist()) == {0, 1, 2}


def test_holdout_films_are_neither_opened_nor_indexed(tmp_path, index):
    manifest = make_manifest(tmp_path)
    for film in manifest.part("holdout"):
        film.image.unlink()
    assert len(development_set(manifest, index, folds=3, seed=1).content) == 20
    stored = index.path.read_text()
    assert all(str(film.image) not in stored for film in manifest.part("holdout"))


def test_by_source_each_source_is_a_fold_and_all_else_is_as_ever(tmp_path, index, films):
    manifest = make_manifest(tmp_path)
    names = {film.row: "BAC"[film.row // 2 % 3] for film in manifest.films}
    found = development_set_by_source(rewrite(manifest, source=names), index)
    for name in ("content", "patients", "views"):
        assert getattr(found, name) == getattr(films, name)
    row = {index.content_of(film.image): film.row for film in manifest.part("development")}
    assert found.folds.tolist() == ["ABC".index(names[row[content]]) for content in found.content]


def test_by_source_one_film_in_two_rows_is_refused(tmp_path, index):
    manifest = make_manifest(tmp_path)
    first, other = manifest.films[0], manifest.films[2]
    other.image.write_bytes(first.image.read_bytes())
    manifest = rewrite(manifest, source={film.row: "AB"[film.row // 2 % 2] for film in manifest.films})
    with pytest.raises(ManifestError, match="rows 2, 4  are the same film"):
        development_set_by_source(manifest, index)


def test_no_name_of_the_clinics_is_in_it(films):
    assert "MRN" not in repr(films)
    assert ".png" not in repr(films)
    assert len(set(films.patients)) == 10


def test_a_pseudonym_is_the_hash_of_the_smallest_film():
    expected = hashlib.sha256(b"patient:a1").hexdigest()[:16]
    assert pseudonyms(["b2", "a1", "c3"], ["p", "p", "q"])[:2] == [expected, expected]


def test_rows_in_another_order_and_other_names_give_the_same_set(tmp_path, films, index):
    manifest = make_manifest(tmp_path)
    renamed = [replace(film, patient=f"x{film.patient}") for film in reversed(manifest.films)]
    other = development_set(replace(manifest, films=tuple(renamed)), index, folds=3, seed=1)
    assert other.fingerprint() == films.fingerprint()
    assert other.folds.tolist() == films.folds.tolist()


def test_the_fingerprint_depends_on_films_patients_labels_and_folds(films):
    labels = films.labels.copy()
    labels[0, 2:] = 1 - labels[0, 2:]
    changed = [
        replace(films, content=("0" * 64, *films.content[1:])),
        replace(films, patients=tuple(f"x{patient}" for patient in films.patients)),
        replace(films, labels=labels),
        replace(films, folds=(films.folds + 1) % 3),
    ]
    assert len({films.fingerprint(), *(other.fingerprint() for other in changed)}) == 5


def test_the_cortices_are_read_off_the_labels(films):
    assert films.cortices == {"anteroposterior": ("medial", "lateral"), "lateral": ("anterior", "posterior")}


def test_a_contradiction_between_views_and_cortices_is_refused(films):
    labels = films.labels.copy()
    labels[films.views.index("lateral"), 2] = 1
    with pytest.raises(DataError, match="Films of both views carry scores of medial"):
        _ = replace(films, labels=labels).cortices


def test_its_arrays_cannot_be_changed(films):
    with pytest.raises(ValueError, match="read-only"):
        films.labels[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        films.folds[0] = 1


def test_a_patient_in_two_folds_is_refused(films):
    folds = films.folds.copy()
    folds[films.patients.index(films.patients[0])] = (folds[0] + 1) % 3
    with pytest.raises(DataError, match="more than one fold"):
        replace(films, folds=folds)


@pytest.mark.parametrize(
    "change",
    [
        lambda films: {"content": films.content[1:]},
        lambda films: {"content": films.content[::-1]},
        lambda films: {"content": (films.content[0], *films.content[:-1])},
        lambda films: {"labels": films.labels[:, :17]},
        lambda films: {"views": films.views[::-1] if films.views != films.views[::-1] else ()},
        lambda films: {"labels": films.labels * 2},
        lambda films: {"folds": films.folds + 1},
        lambda films: {"folds": films.folds[1:]},
    ],
)
def test_columns_that_do_not_fit_are_refused(films, change):
    with pytest.raises(DataError):
        replace(films, **change(films))


def test_an_empty_set_is_refused():
    with pytest.raises(DataError):
        DevelopmentSet((), (), (), np.zeros((0, 18)), np.zeros(0))


def test_a_manifest_without_a_split_is_refused(tmp_path, index):
    with pytest.raises(ManifestError, match="run `rust-optuna data split MANIFEST`"):
        development_set(make_manifest(tmp_path, split=False), index, folds=3, seed=1)


def test_a_patient_on_both_sides_is_refused(tmp_path, index):
    manifest = rewrite(make_manifest(tmp_path), split={2: "holdout"})
    with pytest.raises(ManifestError, match=r"both sides of the split \(development: row 3; holdout: row 2\)"):
        development_set(manifest, index, folds=3, seed=1)


def test_the_same_film_in_two_rows_is_refused(tmp_path, index):
    manifest = make_manifest(tmp_path)
    manifest.films[4].image.write_bytes(manifest.films[0].image.read_bytes())
    with pytest.raises(ManifestError, match="rows 2, 6  are the same film"):
        development_set(manifest, index, folds=3, seed=1)


def test_only_holdout_films_are_no_development_set(tmp_path, index):
    manifest = make_manifest(tmp_path, holdout=12)
    with pytest.raises(DataError, match="no film is in the development set"):
        development_set(manifest, index, folds=3, seed=1)
