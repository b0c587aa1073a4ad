import os
import shlex
import tomllib

import pytest

from rust_optuna.paths import Home
from tests.cli.test_main import invoke
from tests.studies import grid_document, make_study, random_document, write_study


def search(home, url, *arguments):
    return invoke("--home", home.root, "--storage", url, "search", *arguments)


def test_the_next_command_of_a_dry_run_is_the_same_without_it_and_shows_no_password(home, monkeypatch):
    url = "postgresql://ann:secret@host/name"
    write_study(home, random_document()).rename(home.root / "a b.toml")
    monkeypatch.setattr("sys.argv", ["rust-optuna", "search", "a b.toml", "--dry-run", "--storage", url])
    monkeypatch.setattr("rust_optuna.cli.forecast.print_forecast", lambda *_: None)
    line, way = search(home, url, "a b.toml", "--dry-run").output.splitlines()
    shown = "postgresql://ann:***@host/name"
    assert shlex.split(line) == ["Next:", "rust-optuna", "search", "a b.toml", "--storage", shown]
    assert way.startswith("The password is not shown: write it in place of ***.")


def test_a_search_needs_files(home, sqlite_url):
    assert search(home, sqlite_url).exit_code == 2


def test_every_file_is_read_before_anything_begins(home, sqlite_url, tmp_path):
    good = write_study(home, random_document())
    bad = write_study(home, random_document(name="bad", colour="red"))
    done = search(home, sqlite_url, good, bad)
    assert (done.exit_code, "colour" in done.output) == (2, True)
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_file_is_read_once_so_that_what_is_checked_is_what_is_run(home, sqlite_url, monkeypatch, dry):
    read, loads = [], tomllib.loads
    monkeypatch.setattr(tomllib, "loads", lambda text: (read.append(text), loads(text))[1])
    done = search(home, sqlite_url, write_study(home, random_document(manifest="none.csv")), *dry)
    assert (done.exit_code, '"none.csv"' in done.output) == (2, True), done.output
    assert len(read) == 1


@pytest.mark.parametrize("options", [("--workers", "0"), ("--workers", "two")])
def test_a_number_of_workers_that_makes_no_sense_is_refused(home, sqlite_url, options):
    assert search(home, sqlite_url, write_study(home, random_document()), *options).exit_code == 2


def test_a_gpu_that_is_not_there_is_named(home, sqlite_url, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    done = search(home, sqlite_url, write_study(home, random_document()), "--gpus", "7")
    assert (done.exit_code, "No GPU 7 here" in done.output) == (2, True)


@pytest.mark.parametrize("name", ["logs", "workers"])
def test_where_no_log_can_be_written_nothing_begins(home, sqlite_url, tmp_path, monkeypatch, name):
    """Found at once: features take hours."""
    folder = home.storage / name
    folder.mkdir(parents=True)
    allowed = os.access
    monkeypatch.setattr("os.access", lambda path, mode: path != folder and allowed(path, mode))
    done = search(home, sqlite_url, write_study(home, random_document()), "--gpus", "none")
    (line,) = done.output.splitlines()
    assert (done.exit_code, f"cannot be kept: {folder} cannot be written to" in line) == (1, True)
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_file_before_the_one_it_takes_the_best_of_is_told_with_the_command_in_order(
    home, sqlite_url, monkeypatch, dry
):
    write_study(home, random_document())
    write_study(home, grid_document())
    write_study(home, grid_document(name="third", fixed={"from_best_of": "regime-2"}))
    words = ["search", "third.toml", "--workers", "2", "regime-2.toml", "regime-1.toml", *dry]
    monkeypatch.setattr("sys.argv", ["rust-optuna", *words])
    done = invoke("--home", home.root, "--storage", sqlite_url, *words)
    assert done.exit_code == 2, done.output
    assert "third.toml takes the best point of regime-2: name regime-2.toml before it" in done.output
    ordered = ["rust-optuna search regime-1.toml --workers 2 regime-2.toml third.toml", *dry]
    assert f"\n  {' '.join(ordered)}\n" in done.output


def test_files_that_take_the_best_of_each_other_are_refused(home, sqlite_url):
    for one, other in (("a", "b"), ("b", "a")):
        write_study(home, grid_document(name=one, fixed={"from_best_of": other}))
    done = search(home, sqlite_url, "a.toml", "b.toml")
    assert (done.exit_code, "none can come first" in done.output) == (2, True), done.output


@pytest.mark.parametrize(
    "command",
    [
        ("search", "regime-1.toml"),
        ("search", "regime-1.toml", "--dry-run"),
        ("study", "create", "regime-1.toml"),
        ("features", "build", "regime-1"),
        ("features", "build", "regime-1.toml"),
        ("worker", "run"),
        ("worker", "start", "--gpus", "none"),
        ("worker", "start", "--gpus", "none", "--daemon"),
    ],
)
def test_a_data_root_that_is_no_folder_is_named_before_anything_is_done(home, sqlite, command):
    make_study(sqlite, home, random_document(1))
    write_study(home, random_document(1))
    done = invoke("--home", home.root, "--storage", sqlite.url.render_as_string(), *command, "--data-root", "no/where")
    assert done.exit_code == 2, done.output
    assert f"--data-root: there is no folder {home.root}/no/where" in done.output
    assert not home.logs.exists()


def test_files_that_a_later_study_names_are_looked_for_before_the_first_one_runs(home, sqlite_url, tmp_path):
    good = write_study(home, random_document())
    bad = write_study(home, random_document(name="bad", manifest="none.csv", model={"weights": "none.h5"}))
    done = search(home, sqlite_url, good, bad)
    assert done.exit_code == 2
    assert f"2 problems in {bad}:" in done.output
    assert f'manifest       is "none.csv", which is not in {home.root} (--home)' in done.output
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("command", ["search", "study create"])
def test_what_is_no_study_file_is_called_what_it_is(sqlite, home, command):
    make_study(sqlite, home)
    place = ("--home", home.root, "--storage", sqlite.url.render_as_string())
    (home.root / "studies").mkdir()

    def refused(given):
        done = invoke(*command.split(), given, *place)
        assert done.exit_code == 2
        return done.output

    assert (
        refused("studies") == f"Error: {command} takes study files such as studies/regime_1.toml; studies is a folder\n"
    )
    write_study(Home(home.root / "studies"), random_document(name="mine"))
    said = f"{command} takes study files such as studies/mine.toml; regime-1 is a study that exists already, which"
    assert f"{said} `rust-optuna worker start regime-1 --home {home.root} --storage" in refused("regime-1")
    assert f"; {home.root}/regime-7 does not exist\n" in refused("regime-7")
    assert "file  does not exist" in refused("regime-7.toml")
