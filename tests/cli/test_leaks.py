"""Films that would leak from one side of the split to the other are refused before anything is made of them."""

from pathlib import Path

import pytest

from rust_optuna.data import film_index
from rust_optuna.data.manifest import read_manifest
from rust_optuna.data.radiographs import content_hash
from rust_optuna.storage.url import parse_url
from tests.cli.test_main import invoke
from tests.data.test_check import FAULTS
from tests.studies import random_document, write_study

COMMANDS = ("study create", "search", "search --dry-run", "features build")


@pytest.fixture
def run(home, sqlite_url):
    write_study(home, random_document(2))

    def call(command):
        first, *options = command.split()
        return invoke("--home", home.root, "--storage", sqlite_url, first, *options, "regime-1.toml")

    return call


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_data_check_refuses_no_study_is_created_of(home, sqlite_url, run, fault):
    fault(read_manifest(home.root / "manifest.csv"))
    checked = invoke("--home", home.root, "data", "check", "manifest.csv")
    assert checked.exit_code == 1
    refused = run("study create")
    assert refused.exit_code == 2
    (row,) = [line for line in refused.output.splitlines() if line.startswith("  ")]
    assert " ".join(row.split()) in " ".join(checked.output.split())
    assert not Path(str(parse_url(sqlite_url, home).database)).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_held_out_film_that_is_developed_on_is_refused_by_every_command(home, run, command):
    films = read_manifest(home.root / "manifest.csv").films
    films[22].image.write_bytes(films[0].image.read_bytes())
    refused = run(command)
    assert refused.exit_code == 2
    assert "rows 2, 24  hold the same pixels, under different patients, on both sides of the split" in refused.output
    assert not home.features.exists()


def test_films_are_decoded_once_on_a_machine_and_the_hold_out_is_in_no_database(home, run, monkeypatch, tmp_path):
    decoded = []
    real = film_index.pixel_hash

    def decode(content, *, name):
        decoded.append(name)
        return real(content, name=name)

    monkeypatch.setattr(film_index, "pixel_hash", decode)
    assert run("study create").exit_code == 0
    films = read_manifest(home.root / "manifest.csv").films
    assert sorted(decoded) == sorted(str(film.image) for film in films)
    assert "already exists" in run("study create").output
    assert len(decoded) == len(films)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "storage").iterdir())
    for film in films:
        assert (content_hash(film.image).encode() in kept) == (film.split == "development")
