import os
import pwd
from pathlib import Path

import pytest

from rust_optuna.errors import PathError
from rust_optuna.paths import Home, atomic_write
from tests.cli.test_main import invoke
from tests.studies import random_document, toml


@pytest.fixture
def homeless(monkeypatch):
    """Be a user of whom neither the environment nor the system knows a home folder, as in many containers."""

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_tilde_is_the_users_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.find("~/lab").root == tmp_path / "lab"
    assert Home(Path("/data")).resolve("~/films") == tmp_path / "films"


@pytest.mark.parametrize(
    "words",
    [
        ("--home", "~/lab", "study", "list"),
        ("--storage", "sqlite:///~/a.db", "study", "list"),
        ("study", "create", "~/regime_1.toml"),
        ("data", "check", "~/manifest.csv"),
        ("data", "synthesize", "~", "--patients", "2"),
        ("weights", "check", "~/weights.h5"),
    ],
    ids=" ".join,
)
def test_a_tilde_without_a_home_folder_is_one_error_and_no_folder_of_that_name(words, homeless, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*words)
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1), done.output
    assert "begins with ~, and this user has no home folder: write the whole path" in done.output
    assert os.listdir(tmp_path) == []


def test_the_name_of_a_file_may_begin_with_a_tilde(home, tmp_path):
    done = invoke("--home", tmp_path, "study", "create", "~none.toml")
    assert "~none.toml" in done.output
    assert "does not exist" in done.output


def test_what_cannot_be_a_path_is_one_error(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text(toml(random_document(manifest="a\0b")))
    done = invoke("--home", tmp_path, "study", "create", file)
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1), done.output
    assert "'a\\x00b' cannot be used as a path" in done.output


def test_a_circle_of_links_is_one_error(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    done = invoke("--home", tmp_path, "study", "create", "circle/a.toml")
    assert done.exit_code == 2
    assert "circle" in done.output


def test_two_writers_of_one_file_do_not_share_a_temporary_name_even_with_one_process_number(tmp_path):
    """As in two containers that share the folder: here they really are one process."""
    path = tmp_path / "films.json"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the later to end
    assert list(tmp_path.iterdir()) == [path]


def test_a_home_that_is_a_file_is_said_to_be_one(tmp_path):
    file = tmp_path / "study.toml"
    file.touch()
    with pytest.raises(PathError, match="is a file, not a folder") as raised:
        Home.find(file)
    assert raised.value.exit_code == 2
