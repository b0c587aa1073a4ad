import signal

import pytest

from rust_optuna.errors import RetiredError
from rust_optuna.fleet import supervisor
from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.run import local
from rust_optuna.search.results import status
from rust_optuna.search.studies import load_studies, load_study
from rust_optuna.storage.database import open_database
from rust_optuna.storage.site import Site
from rust_optuna.storage.url import parse_url
from rust_optuna.study_file import read_study_file
from tests import stand_ins
from tests.cli.test_main import invoke
from tests.studies import (
    REPOSITORY,
    assert_each_once,
    assert_in_step,
    attempts,
    grid_document,
    make_worker,
    points,
    random_document,
    run_command,
    site_of,
    start_command,
    wait_until,
    write_study,
)


@pytest.fixture
def files(home):
    return [write_study(home, random_document(6)), write_study(home, grid_document())]


def search(*files, objective="peak", workers=2):
    options = ["--workers", workers, "--gpus", "none", "--objective", f"tests.stand_ins:{objective}"]
    return ["search", *files, *map(str, options)]


@pytest.fixture
def run_here(home, sqlite_url, monkeypatch):
    """Call the program in this process: its workers are processes all the same."""
    monkeypatch.chdir(REPOSITORY)
    return lambda *words: invoke("--home", home.root, "--storage", sqlite_url, *words)


def open_it(url, home):
    return open_database(parse_url(url, home))


def test_both_regimes_are_searched_by_one_command_and_once(database_url, home, files):
    done = run_command(home, database_url, *search(*files))
    assert done.returncode == 0, done.stderr
    assert "regime-1: STAND-IN tests.stand_ins:peak: its values are not real scores" in done.stdout
    assert "Next: rust-optuna best" in done.stdout
    with open_it(database_url, home) as database:
        first, second = load_studies(database)
        assert_each_once(database, first, 6)
        assert_each_once(database, second, 6)
        assert second.source.point == max(points(database, first), key=lambda row: row.value).number
        assert len({row.worker for row in attempts(database, first)}) <= 2
        before = attempts(database, first) + attempts(database, second)

        # Again: nothing is left to do, and no worker is started.
        logs = {path: path.stat().st_mtime_ns for path in home.logs.iterdir()}
        again = run_command(home, database_url, *search(*files))
        assert again.returncode == 0
        assert "goes on" in again.stderr
        assert attempts(database, first) + attempts(database, second) == before
        assert {path: path.stat().st_mtime_ns for path in home.logs.iterdir()} == logs


def test_a_worker_that_dies_is_replaced_and_the_search_completes(run_here, sqlite_url, home):
    file = write_study(home, random_document(6, lease_seconds=9999))
    done = run_here(*search(file, objective="dying_once", workers=1))
    assert done.exit_code == 0, done.stderr
    with open_it(sqlite_url, home) as database:
        study = load_study(database, "regime-1")
        assert [row.attempt for row in points(database, study)] == [1, 1, 2, 1, 1, 1]
        assert [row.reason for row in attempts(database, study, 2)] == ["the worker died with exit code 9", None]
        assert_in_step(database, study)


def test_a_search_whose_workers_all_die_says_why(sqlite_url, home, files, monkeypatch):
    monkeypatch.setattr(supervisor, "MAX_DEATHS", 1)
    url = parse_url(sqlite_url, home)
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(RetiredError, match=r"No objective 'tests\.stand_ins:none_such'") as said:
        local.search(
            [*map(read_study_file, files)],
            site_of(home, url),
            DeviceChoice("none", 2),
            objective="tests.stand_ins:none_such",
        )
    (log, *_) = sorted(home.logs.iterdir())
    assert str(log) in str(said.value)


def test_a_search_goes_on_after_its_films_were_moved_and_renamed(run_here, sqlite_url, home, tmp_path):
    file = write_study(home, random_document(3))
    assert run_here(*search(file, workers=1)).exit_code == 0
    films = home.root / "films"
    films.rename(tmp_path / "disk2")
    for number, path in enumerate(sorted((tmp_path / "disk2").iterdir())):
        path.rename(path.with_name(f"renamed {number}.jfif"))
    gone = run_here(*search(file, workers=1))
    assert (gone.exit_code, "none of the 24 films was found" in gone.stderr) == (2, True), gone.stderr
    assert "--data-root" in gone.stderr
    done = run_here(*search(file, workers=1), "--data-root", tmp_path / "disk2")
    assert done.exit_code == 0, done.stderr
    assert "goes on" in done.stderr


def test_a_search_finds_films_elsewhere_that_this_machine_never_saw_where_the_manifest_says(
    run_here, sqlite_url, home, tmp_path
):
    file = write_study(home, random_document(3))
    (home.root / "films").rename(tmp_path / "disk2")
    for root in (tmp_path, home.root / "nowhere"):
        done = run_here(*search(file, workers=1), "--data-root", root)
        assert done.exit_code != 0
    done = run_here(*search(file, workers=1), "--data-root", tmp_path / "disk2")
    assert done.exit_code == 0, done.stderr


def test_holes_are_told_by_the_exit_code(run_here, sqlite_url, home):
    file = write_study(home, random_document(3))
    done = run_here(*search(file, objective="raising_at_point_1", workers=1))
    assert done.exit_code == 3, done.stderr
    assert "regime-1 has holes" in done.stdout
    shown = run_here("status")
    assert shown.exit_code == 3


def test_an_interrupted_search_leaves_nothing_running_and_goes_on_later(
    run_here, sqlite_url, home, files, tmp_path, monkeypatch
):
    gate = tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv(stand_ins.GATE, str(gate))
    running = start_command(home, sqlite_url, *search(*files, objective="gated"))
    try:
        wait_until(lambda: len(list(gate.glob("*.began"))) == 2, 60)
        running.send_signal(signal.SIGINT)
        (gate / "open").touch()
        output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, output
    assert "the same command goes on where it stopped" in output
    assert "Traceback" not in output
    with open_it(sqlite_url, home) as database:
        study = load_study(database, "regime-1")
        counts = status(database, study).counts
        assert (counts["running"], counts["hole"]) == (0, 0)
        assert_in_step(database, study)
        done = run_here(*search(*files, objective="gated", workers=1))
        assert done.exit_code == 0, done.stderr
        for study in load_studies(database):
            assert [row.state for row in points(database, study)] == ["complete"] * 6
            assert_in_step(database, study)


def test_workers_use_the_artifact_store_that_the_database_names(sqlite_url, home, files, monkeypatch):
    environments = []

    def supervise(database, home, names, workers, environment, on_status):
        environments.append(environment)
        make_worker(database, home).run(names)

    monkeypatch.setattr(local, "supervise", supervise)
    url = parse_url(sqlite_url, home)
    for artifacts, file in (("elsewhere", files[0]), (None, files[1])):
        local.search(
            [read_study_file(file)],
            site_of(home, url, artifacts),
            DeviceChoice("none", 1),
            objective="tests.stand_ins:peak",
        )
    assert [each["RUST_OPTUNA_ARTIFACTS"] for each in environments] == ["elsewhere", "elsewhere"]


def test_the_step_that_builds_features_is_told_whose_it_is(sqlite_url, home, files, monkeypatch):
    """Ctrl-C reaches both; what it came to is said once."""
    environments = []

    def interrupted(command, *, env, **_):
        environments.append(env)
        raise KeyboardInterrupt

    monkeypatch.setattr(local.subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local.search([read_study_file(files[0])], Site(home, sqlite_url), DeviceChoice("none", 1))
    assert [each["RUST_OPTUNA_PART_OF"] for each in environments] == ["search"]
