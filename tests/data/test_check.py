import json

import pytest
from PIL import Image

from rust_optuna.data.check import check_manifest, refuse_problems
from rust_optuna.data.development import development_set
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import read_manifest
from rust_optuna.errors import DataError, ManifestError
from tests.data.films import draw_film, make_manifest, rewrite


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path)


def problems(manifest, **options):
    report = check_manifest(manifest.path, **{"folds": 2} | options)
    assert report.passed == (not report.problems)
    return [(problem.where, problem.what) for problem in report.problems]


def test_a_good_manifest_passes(manifest):
    report = check_manifest(manifest.path, folds=2, seed=1)
    assert report.passed
    assert report.cortices == {
        "anteroposterior": ("medial", "lateral"),
        "lateral": ("anterior", "posterior"),
    }
    assert report.films_per_patient == {2: 12}
    assert (report.depths, report.modes) == ({8: 24}, {"L": 24})
    assert report.sizes == {"smallest": [10, 12], "largest": [10, 12], "distinct": 1}
    json.dumps(report.to_json())


def test_parts_count_what_they_hold(manifest):
    parts = {part.name: part for part in check_manifest(manifest.path, folds=2, seed=1).parts}
    assert list(parts) == ["all", "development", "holdout", "fold 0", "fold 1"]
    assert (parts["holdout"].films, parts["holdout"].patients) == (4, 2)
    assert parts["fold 0"].films + parts["fold 1"].films == parts["development"].films == 20
    for label, count in parts["all"].labels.items():
        assert count == parts["development"].labels[label] + parts["holdout"].labels[label]
        assert count == sum(film.label[list(parts["all"].labels).index(label)] for film in manifest.films)


def test_the_folds_are_those_of_the_development_set(manifest, tmp_path):
    films = development_set(manifest, FilmIndex(tmp_path / "films.json"), folds=3, seed=5)
    parts = {part.name: part for part in check_manifest(manifest.path, folds=3, seed=5).parts}
    for fold in range(3):
        counts = films.labels[films.folds == fold].sum(axis=0).tolist()
        assert list(parts[f"fold {fold}"].labels.values()) == counts


def test_a_manifest_that_is_not_split_yet_is_no_problem(tmp_path):
    report = check_manifest(make_manifest(tmp_path, split=False).path)
    assert report.passed
    assert [part.name for part in report.parts] == ["all"]


def test_a_cortex_on_films_of_both_views_names_the_rows(manifest):
    changed = rewrite(manifest, subscores={3: (1, None, 2, 2)})
    assert problems(changed) == [("row 3", "medial cortex is scored on lateral films too")]


def test_patients_on_both_sides(manifest):
    ((where, what),) = problems(rewrite(manifest, split={2: "holdout"}))
    assert where == "patient MRN-00000"
    assert "development: row 3; holdout: row 2" in what


def test_rows_without_a_split_among_others_with_one(manifest):
    changed = rewrite(manifest, split={2: "", 3: ""})
    assert problems(changed)[0][1].startswith("is empty in rows 2, 3")


def test_unreadable_and_missing_files(manifest):
    manifest.films[0].image.write_text("no image")
    manifest.films[5].image.unlink()
    (first, what), (second, other) = problems(manifest)
    assert (first, second) == ("row 2, image", "row 7, image")
    assert "is not a PNG, JPEG or TIFF file" in what
    assert "No such file" in other


def test_the_same_pixels_twice(manifest):
    films = manifest.films
    draw_film(films[1].image, 0)
    draw_film(films[23].image, 4)
    assert problems(manifest) == [
        ("rows 2, 3", "hold the same pixels"),
        ("rows 6, 25", "hold the same pixels, under different patients, on both sides of the split"),
    ]


def test_a_broken_manifest_is_reported_like_everything_else(manifest):
    manifest.path.write_text(manifest.path.read_text().replace("lateral,", "oblique,", 1))
    report = check_manifest(manifest.path)
    assert not report.passed
    assert report.parts == ()
    assert report.notes == ("The films were not read; fix the manifest first",)
    json.dumps(report.to_json())


def test_notes_tell_of_labels_that_a_fold_lacks_and_of_too_few_patients(tmp_path):
    few = make_manifest(tmp_path, patients=5, holdout=1)
    report = check_manifest(few.path, folds=4)
    assert any(note.startswith("some fold has no film with the label medial_1") for note in report.notes)


def test_folds_that_cannot_be_made_are_a_problem(tmp_path):
    few = make_manifest(tmp_path, patients=5, holdout=1)
    ((where, what),) = problems(few, folds=6)
    assert where == "folds"
    assert what.startswith("6 folds need at least 6 patients, and 4 development patients have a readable film: lower")
    for film in few.films[:6]:
        film.image.write_bytes(b"")
    assert problems(few, folds=2)[-1][1].startswith("2 folds need at least 2 patients, and 1 development patient has")
    rewrite(few, split={film.row: "holdout" for film in few.films})
    assert "and 0 development patients have" in problems(few, folds=2)[-1][1]


def test_one_fold_is_refused(manifest):
    with pytest.raises(DataError, match="at least 2 folds"):
        check_manifest(manifest.path, folds=1)


def same_bytes(manifest):
    manifest.films[22].image.write_bytes(manifest.films[0].image.read_bytes())


def same_pixels_in_another_file(manifest):
    with Image.open(manifest.films[0].image) as image:
        image.save(manifest.films[22].image, format="TIFF")


def one_film_under_two_patients(manifest):
    draw_film(manifest.films[5].image, 0)


def unreadable_in_the_hold_out(manifest):
    manifest.films[23].image.write_bytes(manifest.films[23].image.read_bytes()[:-30])


def gone(manifest):
    manifest.films[1].image.unlink()


def cortex_of_both_views(manifest):
    rewrite(manifest, subscores={3: (1, None, 2, 2)})


def patient_on_both_sides(manifest):
    rewrite(manifest, split={2: "holdout"})


FAULTS = (
    same_bytes,
    same_pixels_in_another_file,
    one_film_under_two_patients,
    unreadable_in_the_hold_out,
    gone,
    cortex_of_both_views,
    patient_on_both_sides,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_the_check_finds_is_refused_with_the_same_words(manifest, tmp_path, fault):
    index = FilmIndex(tmp_path / "films.json")
    refuse_problems(manifest, index)
    fault(manifest)
    changed = read_manifest(manifest.path)
    with pytest.raises(ManifestError) as refused:
        refuse_problems(changed, index)
    assert refused.value.problems == check_manifest(manifest.path, folds=2).problems
