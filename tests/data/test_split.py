from collections import defaultdict

import pytest

from rust_optuna.data.manifest import read_manifest, write_manifest
from rust_optuna.data.split import split_manifest
from rust_optuna.errors import DataError
from tests.data.films import make_manifest


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
    with pytest.raises(DataError, match=r"80 of 80 films are split already.*--force"):
        split_manifest(manifest.path, holdout=0.15, seed=2)
    assert manifest.path.read_bytes() == before
    split_manifest(manifest.path, holdout=0.15, seed=2, again=True)
    assert manifest.path.read_bytes() != before


@pytest.mark.parametrize("holdout", [0, 1, -0.1, 15, float("nan")])
def test_a_share_out_of_range_is_refused(manifest, holdout):
    with pytest.raises(DataError, match="between 0 and 1"):
        split_manifest(manifest.path, holdout=holdout, seed=1)


def test_a_single_patient_cannot_be_split(tmp_path):
    manifest = make_manifest(tmp_path, patients=1, split=False)
    with pytest.raises(DataError, match="1 patients cannot be divided into 2 parts"):
        split_manifest(manifest.path, holdout=0.5, seed=1)
    assert read_manifest(manifest.path) == manifest
