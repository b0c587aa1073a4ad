import json
import subprocess
import sys
from collections import Counter

import pytest
from click.testing import CliRunner

from rust_optuna.cli.data import data
from rust_optuna.data.manifest import CORTICES, read_manifest
from rust_optuna.errors import DataError
from tests import published_layout
from tests.data.films import make_manifest


def run(*arguments):
    return CliRunner().invoke(data, [str(argument) for argument in arguments])


def succeed(*arguments) -> str:
    result = run(*arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_published_data_set_goes_through_import_split_and_check(tmp_path):
    rows = published_layout.cohort()
    labels, filenames = published_layout.write_tables(tmp_path, rows)
    published_layout.write_images(tmp_path / "films", rows)
    manifest = tmp_path / "manifest.csv"

    options = ("--labels", labels, "--filenames", filenames, "--images", tmp_path / "films")
    output = succeed("import", *options, "--output", manifest)
    assert "2,936 films of 1,207 patients" in output
    assert f"Next: rust-optuna data split {manifest}" in output
    films = read_manifest(manifest).films
    assert Counter(Counter(film.patient for film in films).values()) == published_layout.FILMS_PER_PATIENT
    assert Counter(film.patient.split("-")[0] for film in films) == published_layout.STUDIES
    assert Counter(film.view for film in films) == {"anteroposterior": 1493, "lateral": 1443}
    assert Counter(len(film.scored) for film in films) == {0: 252, 1: 242, 2: 2442}
    visits = Counter((film.patient, film.visit) for film in films)
    assert len(visits) == 1510
    for position, cortex in enumerate(CORTICES):
        counts = Counter(film.subscores[position] for film in films)
        assert tuple(counts[score] for score in (1, 2, 3, 4)) == published_layout.SUBSCORES[cortex]

    output = succeed("split", manifest, "--seed", 1)
    assert f"Next: rust-optuna data check {manifest}" in output
    assert 430 < len(read_manifest(manifest, require_split=True).part("holdout")) < 450

    output = succeed("check", manifest, "--seed", 1)
    assert "Anteroposterior films carry scores of: anterior, posterior" in output
    assert "Lateral films carry scores of: medial, lateral" in output
    assert "No problems found." in output
    assert "Next: rust-optuna search STUDY.toml" in output


def test_check_names_a_study_file_that_exists_and_names_this_manifest(tmp_path, monkeypatch):
    make_manifest(tmp_path)
    monkeypatch.setenv("RUST_OPTUNA_HOME", str(tmp_path))
    arguments = ("check", "manifest.csv", "--folds", 2)
    assert "No study file in studies/ names this manifest" in succeed(*arguments)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "a.toml").write_text('manifest = "other.csv"')
    (tmp_path / "studies" / "b.toml").write_text('manifest = "manifest.csv"')
    assert "Next: rust-optuna search studies/b.toml" in succeed(*arguments)


def test_check_exits_with_1_and_lists_the_problems(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.films[0].image.unlink()
    result = run("check", manifest.path, "--folds", 2)
    assert result.exit_code == 1
    assert f"1 problem in {manifest.path}:" in result.output
    assert "row 2, image" in result.output
    assert "Next:" not in result.output


def test_check_speaks_json(tmp_path):
    manifest = make_manifest(tmp_path)
    result = run("check", manifest.path, "--folds", 2, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["passed"] is True
    assert [part["name"] for part in report["parts"]][-1] == "fold 1"
    manifest.path.write_text("image\n")
    result = run("check", manifest.path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"][0]["where"] == "row 1"


def test_check_says_what_comes_next_before_the_split(tmp_path):
    manifest = make_manifest(tmp_path, split=False)
    assert f"Next: rust-optuna data split {manifest.path}" in succeed("check", manifest.path)


def test_a_second_split_needs_force(tmp_path):
    manifest = make_manifest(tmp_path)
    with pytest.raises(DataError, match="--force"):
        succeed("split", manifest.path)
    assert "holdout:" in succeed("split", manifest.path, "--force", "--holdout", 0.25)


def test_relative_paths_are_below_the_home(tmp_path, monkeypatch):
    make_manifest(tmp_path, split=False)
    monkeypatch.setenv("RUST_OPTUNA_HOME", str(tmp_path))
    assert "development:" in succeed("split", "manifest.csv")


def test_synthetic_films_can_be_split_and_checked(tmp_path):
    folder = tmp_path / "demo"
    assert "SYNTHETIC" in succeed("synthesize", folder, "--patients", 3, "--seed", 1)
    succeed("split", folder / "manifest.csv", "--holdout", 0.3)
    assert run("check", folder / "manifest.csv", "--folds", 2).exit_code == 0


@pytest.mark.parametrize("command", ["import", "split", "check", "synthesize"])
def test_every_command_has_help_with_an_example(command):
    output = succeed(command, "--help")
    assert f"Example:\n    rust-optuna data {command} " in output


def test_help_imports_nothing_heavy():
    code = "import sys, rust_optuna.cli.data; print(sorted({'numpy', 'PIL', 'rich', 'optuna'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
