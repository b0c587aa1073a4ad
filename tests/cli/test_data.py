import io
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rust_optuna.cli.data import data
from rust_optuna.data.manifest import CORTICES, read_manifest
from rust_optuna.errors import DataError
from tests import published_layout
from tests.cli.test_main import invoke
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


def test_more_folds_than_patients_are_a_problem_and_nothing_comes_next(tmp_path):
    manifest = make_manifest(tmp_path)
    result = run("check", manifest.path, "--folds", 50)
    assert result.exit_code == 1
    assert f"1 problem in {manifest.path}:\n  folds  50 folds need at least 50 patients, and 10 dev" in result.output
    assert "No problems" not in result.output
    assert "Next:" not in result.output


def test_that_the_films_were_not_read_is_said_below_the_problems(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.path.write_text(manifest.path.read_text().replace("lateral,", "oblique,", 1))
    assert run("check", manifest.path).output.endswith("\nNote: The films were not read; fix the manifest first.\n")


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


def test_new_patients_join_by_the_command_that_check_names(tmp_path):
    manifest = make_manifest(tmp_path)
    lines = manifest.path.read_text().splitlines()
    lines[-4:] = [line.removesuffix("holdout") for line in lines[-4:-2]] + lines[-2:]
    manifest.path.write_text("\n".join([*lines[:-2], *[line.removesuffix("holdout") for line in lines[-2:]]]) + "\n")
    checked = run("check", manifest.path, "--folds", 2)
    assert checked.exit_code == 1
    assert "run `rust-optuna data split MANIFEST`" in checked.output
    output = succeed("split", manifest.path)
    assert "4 films joined (development 2, holdout 2); no other film was moved" in output
    assert "No problems found." in succeed("check", manifest.path, "--folds", 2)
    with pytest.raises(DataError, match="all 24 films are split already"):
        succeed("split", manifest.path)


def test_many_problems_of_one_kind_are_one_line(tmp_path):
    manifest = make_manifest(tmp_path, patients=60)
    manifest.path.write_text(manifest.path.read_text().replace("anteroposterior", "AP"))
    output = run("check", manifest.path).output
    assert "60 rows, view  'AP' is not anteroposterior or lateral; first row 2" in output
    for film in manifest.films:
        film.image.unlink()
    manifest.path.write_text(manifest.path.read_text().replace(",AP,", ",anteroposterior,"))
    output = run("check", manifest.path).output
    assert "120 rows, image" in output
    assert "No such file or directory, others likewise; first row 2" in output
    assert len(output.splitlines()) < 40


def test_problems_of_many_kinds_are_bounded(tmp_path):
    manifest = make_manifest(tmp_path, patients=60)
    lines = manifest.path.read_text().splitlines()
    for row in range(1, 41):
        lines[row] = lines[row].replace("MRN", "MRN" + row * " ").rpartition(",")[0] + f",side {row}" + row * ","
    manifest.path.write_text("\n".join(lines) + "\n")
    output = run("check", manifest.path).output
    assert len(output.splitlines()) < 40


@pytest.mark.parametrize(("wrong", "right"), [("Image", "image"), ("veiw", "view"), ("medail", "medial")])
def test_a_misspelt_column_is_named_beside_the_right_one(tmp_path, wrong, right):
    manifest = make_manifest(tmp_path)
    manifest.path.write_text(manifest.path.read_text().replace(right, wrong, 1))
    output = run("check", manifest.path).output
    assert f"column {right!r} is missing: rename the column {wrong!r}, if that is the one" in output


def test_other_columns_are_listed_and_ignored(tmp_path):
    manifest = make_manifest(tmp_path)
    header, *rows = manifest.path.read_text().splitlines()
    manifest.path.write_text("\n".join([f"{header},age,sex,", *(f"{row},54,f," for row in rows)]))
    result = run("check", manifest.path, "--folds", 2)
    assert result.exit_code == 0
    assert "Note: unknown columns are ignored: 'age', 'sex'." in result.output


@pytest.mark.parametrize("content", [b"PK\x03\x04....xl/workbook.xml", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_an_excel_workbook_is_called_one(tmp_path, content):
    path = tmp_path / "manifest.xlsx"
    path.write_bytes(content)
    result = invoke("data", "check", path)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith(f"Error: {path} is an Excel workbook, not a CSV file: ")


def test_a_manifest_that_is_not_there_is_one_sentence(tmp_path):
    result = invoke("data", "check", tmp_path / "none.csv")
    said = f"Error: {tmp_path / 'none.csv'} cannot be read: No such file or directory\n"
    assert (result.exit_code, result.output) == (2, said)


def test_films_that_look_wrong_are_listed(tmp_path):
    manifest = make_manifest(tmp_path)
    random = np.random.default_rng(0)
    ten_bits = random.integers(0, 1000, (48, 40), dtype=np.uint16)
    ten_bits[0, 0] = 1023
    # Dark, too, but with a white label on it: a film of full range.
    dark = ten_bits // 2
    dark[5, 5] = 65535
    jpeg = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (300, 300), dtype=np.uint8)).save(jpeg, "JPEG")
    drawn = [ten_bits, ten_bits[::-1], dark, np.zeros((40, 40), np.uint8), np.full((40, 40), 7, np.uint8)]
    for film, pixels in zip(manifest.films, drawn, strict=False):
        Image.fromarray(pixels).save(film.image)
    Image.fromarray(ten_bits[:5, :5].astype(np.uint8)).save(manifest.films[5].image)
    middle = len(jpeg.getvalue()) // 2
    manifest.films[6].image.write_bytes(jpeg.getvalue()[:middle] + bytes(3000) + jpeg.getvalue()[middle + 3000 :])
    progressive = Image.fromarray(random.integers(0, 256, (48, 40), dtype=np.uint8))
    progressive.save(manifest.films[7].image, "JPEG", progressive=True)
    lines = manifest.path.read_text().splitlines()
    lines[9] = ",".join([*lines[9].split(",")[:4], "", "", "", "", "development"])
    manifest.path.write_text("\n".join(lines))
    output = succeed("check", manifest.path, "--folds", 2)
    assert "2 films of 16 bits that use less than 2% of their range: rows 2, 3." in output
    assert "put `bits = 10` under [model] in the study file" in output
    assert "1 film black throughout: row 5." in output
    assert "1 film of one grey level throughout: row 6." in output
    assert "row 7" not in output.split("smaller than 32 pixels: ")[0]
    assert "1 film whose JPEG data have a hole or a damaged place" in output
    said = "1 film whose JPEG data cannot be searched for holes, because they are progressive or in very many parts"
    assert f"{said}: row 9." in output
    assert "1 film without any score: row 10." in output


def test_one_of_a_thing_is_counted_as_one(tmp_path):
    manifest = make_manifest(tmp_path, patients=2, holdout=1)
    for film in manifest.films[1::2]:
        film.image.unlink()
    lines = manifest.path.read_text().splitlines()
    manifest.path.write_text("\n".join(lines[:1] + lines[1::2]) + "\n")
    output = succeed("split", manifest.path, "--force", "--holdout", 0.5)
    assert "development: 1 film of 1 patient\n" in output


@pytest.mark.parametrize(("share", "said"), [("15", "not 15; for 15%, give --holdout 0.15"), ("-1", "not -1")])
def test_a_share_that_is_none_is_named_by_its_option(tmp_path, share, said):
    with pytest.raises(DataError, match=rf"^--holdout is a share between 0 and 1, {said}$"):
        succeed("split", make_manifest(tmp_path).path, "--force", "--holdout", share)
