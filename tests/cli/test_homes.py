"""Homes whose names mean something to a URL, a shell, a pattern or a format: every file lies below them."""

import os
import unicodedata
from pathlib import Path

import pytest

from rust_optuna.paths import Home
from tests.cli.test_main import invoke
from tests.data.films import make_manifest
from tests.studies import random_document, run_command, write_study

PEAK = ("--objective", "tests.stand_ins:peak")
NAMES = [
    "plain",
    "a%20b",
    "x?1",
    "x#1",
    "with spaces ",
    "user:secret@host",
    "a&b=c;d",
    "{SCHEMA_VERSION}",
    "%(here)s $HOME",
    "[red]*[0-9]",
    'it\'s "quoted" \\',
    ":memory:",
    "~",
    "-x",
    "two\nlines",
    unicodedata.normalize("NFC", "Röntgen"),
    unicodedata.normalize("NFD", "Röntgen"),
]
WRITTEN = {
    "manifest.csv",
    "regime-1.toml",
    "storage/rust_optuna.db",
    "storage/rust_optuna.db.lock",
    "storage/films.json",
    "storage/films.json.lock",
    "storage/manifests.json",
    "storage/manifests.json.lock",
    "storage/artifacts/rust_optuna_token",
    "storage/reports/trials.csv",
    "storage/backups/one",
}
"""What a whole run writes besides films."""


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".png"}


@pytest.fixture
def no_signals(monkeypatch):
    """Leave this process's signal handlers as they are."""
    monkeypatch.setattr("rust_optuna.worker.stopping.stop_on_signals", lambda stop: None)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_whole_run_writes_below_its_home_and_nowhere_else(name, tmp_path, monkeypatch, no_signals):
    above, elsewhere = tmp_path / "above", tmp_path / "elsewhere"
    home = Home((above / name).resolve())
    make_manifest(home.root, split=False)
    write_study(home, random_document(2))
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for words in (
        ("data", "split", "manifest.csv", "--holdout", "0.2"),
        ("data", "check", "manifest.csv"),
        ("study", "create", "regime-1.toml"),
        ("worker", "run", *PEAK),
        ("status",),
        ("best",),
        ("study", "export", "regime-1", "storage/reports"),
        ("storage", "backup", "storage/backups/one"),
        ("storage", "restore", "storage/backups/one", "--force"),
        ("storage", "upgrade"),
        ("storage", "adopt-artifacts"),
        ("study", "list"),
    ):
        done = invoke(*words, RUST_OPTUNA_HOME=str(home.root))
        assert done.exit_code == 0, (words, done.output, done.exception)
    assert "regime-1" in done.output
    assert files_below(above) == {str(Path(name, file)) for file in WRITTEN}
    assert files_below(tmp_path) == {str(Path("above", name, file)) for file in WRITTEN}


def test_processes_that_are_started_find_the_same_home(tmp_path):
    home = Home((tmp_path / "a%20b?x#1&{SCHEMA_VERSION}:@ é").resolve())
    make_manifest(home.root)
    file = write_study(home, random_document(2))
    variables = {"RUST_OPTUNA_HOME": str(home.root), "RUST_OPTUNA_STORAGE": ""}
    words = ("search", file, *PEAK, "--workers", "1", "--gpus", "none")
    done = run_command(home, "", *words, **variables)
    assert done.returncode == 0, done.stderr
    assert "2         2" in done.stdout
    logs = {f"storage/logs/{log.name}" for log in home.logs.iterdir()}
    expected = WRITTEN - {"storage/reports/trials.csv", "storage/backups/one"}
    assert files_below(tmp_path) == {str(Path(home.root.name, file)) for file in expected | logs}


def test_a_home_that_is_no_unicode_is_refused_in_one_line_unless_the_database_is_elsewhere(tmp_path):
    home = Home(tmp_path / os.fsdecode(b"R\xf6ntgen"))
    make_manifest(home.root)
    file = write_study(home, random_document(2))
    refused = invoke("--home", home.root, "study", "create", file)
    assert (refused.exit_code, len(refused.output.splitlines())) == (1, 1)
    assert r"R\udcf6ntgen/storage/rust_optuna.db' is not valid UTF-8: rename that folder" in refused.output
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    created = invoke("--home", home.root, "--storage", elsewhere, "study", "create", file)
    assert created.exit_code == 0, created.output
