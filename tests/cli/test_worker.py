import signal

import pytest

from tests.cli.test_main import invoke
from tests.studies import (
    assert_each_once,
    assert_in_step,
    attempts,
    make_study,
    points,
    random_document,
    run_command,
    start_command,
    wait_until,
)

PEAK = ("--objective", "tests.stand_ins:peak")


@pytest.fixture
def run(sqlite, home, monkeypatch):
    """Call the program in this process, whose signal handlers stay as they were."""
    monkeypatch.setattr("rust_optuna.run.worker.stop_on_signals", lambda worker: None)
    return lambda *arguments: invoke("--home", home.root, "--storage", sqlite.url.render_as_string(), *arguments)


def test_a_worker_runs_until_nothing_is_left(sqlite, home, run):
    study = make_study(sqlite, home, random_document(3))
    done = run("worker", "run", "regime-1", *PEAK)
    assert done.exit_code == 0, done.output
    assert "3 points finished" in done.output
    assert "Next: rust-optuna best" in done.output
    assert_each_once(sqlite, study, 3)
    assert "0 points finished" in run("worker", "run", *PEAK).output


def test_a_worker_without_a_subcommand_serves_all_open_studies(sqlite, home, run):
    done = run("worker")
    assert done.exit_code == 0, done.output
    assert "0 points finished" in done.output


def test_a_worker_that_cannot_do_its_work_says_why(sqlite, home, run):
    make_study(sqlite, home, random_document(3))
    done = run("worker", "run", "--objective", "tests.stand_ins:none_such")
    assert (done.exit_code, "No objective" in done.output) == (1, True)
    done = run("worker", "run", "regime-9", *PEAK)
    assert (done.exit_code, "there are: regime-1" in done.output) == (1, True)
    done = run("worker", "run", "--objective", "tests.stand_ins:raising")
    assert (done.exit_code, "3 points failed in a row" in done.output) == (1, True)


def test_the_hidden_option_stays_hidden(run):
    assert "--objective" not in run("worker", "run", "--help").output
    assert "--objective" not in run("search", "--help").output


def test_a_worker_process_ends_well_at_sigterm(sqlite, home, tmp_path):
    study = make_study(sqlite, home, random_document(3))
    url = sqlite.url.render_as_string()
    gate = {"RUST_OPTUNA_TEST_GATE": str(tmp_path)}
    running = start_command(home, url, "worker", "run", "--objective", "tests.stand_ins:gated", **gate)
    try:
        wait_until(lambda: list(tmp_path.glob("*.began")), 60)
        running.send_signal(signal.SIGTERM)
        (tmp_path / "open").touch()
        output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, output
    assert "running" not in [row.state for row in points(sqlite, study)]
    assert_in_step(sqlite, study)
    rest = run_command(home, url, "worker", "run", "--objective", "tests.stand_ins:gated", **gate)
    assert rest.returncode == 0, rest.stderr
    assert [row.outcome for row in attempts(sqlite, study)] == ["complete"] * 3
    assert_in_step(sqlite, study)
