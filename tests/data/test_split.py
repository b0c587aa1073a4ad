import csv
import io
from collections import defaultdict

import pytest

from rust_optuna.data.manifest import read_manifest, write_manifest
from rust_optuna.data.split import split_manifest
from rust_optuna.errors import DataError, ManifestError
from tests.data.films import make_manifest, rewrite


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path, patients=40, split=False)


def test_patients_stay_whole_and_the_share_is_kept(manifest):
    films = split_manifest(manifest.path, holdout=0.15, seed=1).films
    sides = defaultdict(set)
    for film in films:
        sides[film.patient].add(film.split)
    assert all(len(side) == 1 for side in sides.values())
    assert sum(film.split == "holdout" for film in films) == 12


def test_only_the_split_column_changes(manifest):
    before = manifest.path.read_text().splitlines()
    split_manifest(manifest.path, holdout=0.15, seed=1)
    after = manifest.path.read_text().splitlines()
    assert after[0] == before[0]
    assert [row.rpartition(",")[0] for row in after[1:]] == [row.rpartition(",")[0] for row in before[1:]]


def test_the_order_of_the_rows_does_not_matter(manifest):
    first = {f.image: f.split for f in split_manifest(manifest.path, holdout=0.2, seed=1).films}
    write_manifest(manifest.path, reversed(manifest.films))
    assert {f.image: f.split for f in split_manifest(manifest.path, holdout=0.2, seed=1).films} == first


def test_a_split_manifest_is_left_alone_unless_told(manifest):
    split_manifest(manifest.path, holdout=0.15, seed=1)
    before = manifest.path.read_bytes()
    with pytest.raises(DataError, match=r"all 80 films are split already.*--force"):
        split_manifest(manifest.path, holdout=0.15, seed=2)
    assert manifest.path.read_bytes() == before
    split_manifest(manifest.path, holdout=0.15, seed=2, again=True)
    assert manifest.path.read_bytes() != before


@pytest.mark.parametrize("holdout", [0, 1, -0.1, 15, float("nan")])
def test_a_share_out_of_range_is_refused(manifest, holdout):
    with pytest.raises(DataError, match="between 0 and 1"):
        split_manifest(manifest.path, holdout=holdout, seed=1)


@pytest.mark.parametrize(
    ("holdout", "hint"),
    [(15, "; for 15%, give --holdout 0.15"), (99.5, "; for 99.5%, give --holdout 0.995"), (100, "")],
)
def test_a_percentage_is_answered_by_the_share_that_it_is(manifest, holdout, hint):
    with pytest.raises(DataError) as caught:
        split_manifest(manifest.path, holdout=holdout, seed=1)
    assert str(caught.value) == f"--holdout is a share between 0 and 1, not {holdout:g}{hint}"


def test_a_single_patient_cannot_be_split(tmp_path):
    manifest = make_manifest(tmp_path, patients=1, split=False)
    with pytest.raises(DataError, match="1 patients cannot be divided into 2 parts"):
        split_manifest(manifest.path, holdout=0.5, seed=1)
    assert read_manifest(manifest.path) == manifest


def sides_of(manifest) -> dict:
    return {film.image: film.split for film in manifest.films}


def test_new_films_join_a_split_and_no_other_is_moved(manifest):
    split_manifest(manifest.path, holdout=0.15, seed=1)
    # Ten patients are new, and each of the others has one film that is new.
    firsts = {film.patient: film for film in read_manifest(manifest.path).films[:60]}
    new = {film.row: "" for film in (*manifest.films[60:], *firsts.values())}
    known = rewrite(read_manifest(manifest.path), split=new)
    before = sides_of(known)
    share = len(known.part("holdout")) / (80 - len(new))
    after = split_manifest(manifest.path, seed=7)
    assert all(film.split for film in after.films)
    assert {image: after_side for image, after_side in sides_of(after).items() if before[image]} == {
        image: side for image, side in before.items() if side
    }
    assert {film.image: film.split for film in firsts.values()}.items() <= sides_of(after).items()
    assert abs(len(after.part("holdout")) - 80 * share) <= 4


def test_a_new_film_of_a_known_patient_goes_to_its_side_whatever_the_share(manifest):
    split_manifest(manifest.path, holdout=0.15, seed=1)
    known = read_manifest(manifest.path)
    firsts = {film.patient: film for film in known.films}
    rewrite(known, split={film.row: "" for film in firsts.values()})
    after = split_manifest(manifest.path, holdout=0.9, seed=3)
    assert sides_of(after) == sides_of(known)


def test_one_new_patient_may_join(manifest):
    split_manifest(manifest.path, holdout=0.15, seed=1)
    known = read_manifest(manifest.path)
    last = known.films[-1].patient
    rewrite(known, split={film.row: "" for film in known.films if film.patient == last})
    assert all(film.split for film in split_manifest(manifest.path, seed=1).films)


def test_new_patients_are_not_joined_to_a_split_that_divides_a_patient(manifest):
    split_manifest(manifest.path, holdout=0.15, seed=1)
    known = read_manifest(manifest.path)
    other = {"development": "holdout", "holdout": "development"}
    rewrite(known, split={2: other[known.films[0].split], 40: "", 41: ""})
    before = manifest.path.read_bytes()
    with pytest.raises(ManifestError, match="is on both sides of the split"):
        split_manifest(manifest.path, seed=1)
    assert manifest.path.read_bytes() == before


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_split_keeps_everything_else_in_the_file(manifest, delimiter):
    header, *rows = manifest.path.read_text().splitlines()
    lines = [f"note,{header},age", *(f'"a; b, ""c""",{row},{number}' for number, row in enumerate(rows)), ""]
    table = list(csv.reader(lines))
    with manifest.path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\r\n").writerows(table)
    split_manifest(manifest.path, holdout=0.15, seed=1)
    content = manifest.path.read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    after = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=delimiter))
    column = table[0].index("split")
    assert content.count(b"\r\n") == len(table)
    assert [row[:column] + row[column + 1 :] for row in after] == [row[:column] + row[column + 1 :] for row in table]
    assert {row[column] for row in after[1:-1]} == {"development", "holdout"}
