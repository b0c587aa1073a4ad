import unicodedata
from pathlib import Path

import pytest

from rust_optuna.data.manifest import read_manifest
from rust_optuna.spelling import Spelling
from tests.cli.test_main import invoke
from tests.data.films import make_manifest
from tests.studies import random_document, write_study

FORMS = ("NFC", "NFD")


def other(form):
    return FORMS[1 - FORMS.index(form)]


@pytest.mark.parametrize("form", FORMS)
def test_a_name_is_found_however_its_accents_are_written(tmp_path, form):
    path = tmp_path / unicodedata.normalize(form, "Größe") / unicodedata.normalize(form, "Ärzte.png")
    path.parent.mkdir()
    path.touch()
    for asked in (path, Path(unicodedata.normalize(other(form), str(path)))):
        assert Spelling().find(asked) == path


def test_the_very_name_wins_and_a_name_of_nothing_stays(tmp_path):
    names = [tmp_path / unicodedata.normalize(form, "ä") for form in FORMS]
    assert [Spelling().find(name) for name in names] == names
    for name in names:
        name.touch()
    assert [Spelling().find(name) for name in names] == names
    assert Spelling().find(tmp_path / "ö" / "ü") == tmp_path / "ö" / "ü"


@pytest.mark.parametrize("form", FORMS)
def test_films_manifest_and_study_file_are_found_under_names_that_look_the_same(home, form):
    manifest = read_manifest(home.root / "manifest.csv")
    there, said = (unicodedata.normalize(each, "Röntgen") for each in (form, other(form)))
    text = manifest.path.read_text().replace("films/", f"{said}/")
    (home.root / "films").rename(home.root / there)
    (home.root / f"{there}.csv").write_text(text)
    file = write_study(home, random_document(2, manifest=f"{said}.csv"))
    file.rename(home.root / f"{there}.toml")
    checked = invoke("--home", home.root, "data", "check", f"{said}.csv")
    assert (checked.exit_code, "No problems found." in checked.output) == (0, True), checked.output
    created = invoke("--home", home.root, "study", "create", f"{said}.toml")
    assert created.exit_code == 0, created.output


def test_one_film_under_two_spellings_is_one_film(tmp_path):
    manifest = make_manifest(tmp_path, patients=2, holdout=1)
    composed, decomposed = (unicodedata.normalize(form, "films/ü.png") for form in FORMS)
    (tmp_path / "films/0.png").rename(tmp_path / composed)
    text = manifest.path.read_text().replace("films/0.png", composed).replace("films/1.png", decomposed)
    manifest.path.write_text(text)
    done = invoke("data", "check", manifest.path)
    assert done.exit_code == 1
    assert "is already in row 2" in done.output
