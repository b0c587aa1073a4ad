import json
import os
import platform
import re
import signal

import pytest

from rust_optuna.cli.worker import _warn_of_others
from rust_optuna.fleet import records
from rust_optuna.processes import ExitCode
from rust_optuna.storage.site import Site
from tests.cli.test_main import free_port, invoke
from tests.fleet.test_ray import needs_ray
from tests.stand_ins import GATE
from tests.studies import (
    REPOSITORY,
    assert_each_once,
    assert_in_step,
    attempts,
    make_study,
    points,
    random_document,
    run_command,
    start_command,
    wait_until,
    write_study,
)

PEAK = ("--objective", "tests.stand_ins:peak")


@pytest.fixture
def run(sqlite, home, monkeypatch):
    """Call the program in this process, whose signal handlers stay as they were."""
    monkeypatch.setattr("rust_optuna.worker.stopping.stop_on_signals", lambda stop: None)
    return lambda *arguments: invoke("--home", home.root, "--storage", sqlite.url.render_as_string(), *arguments)


def test_a_worker_runs_until_nothing_is_left(sqlite, home, run):
    study = make_study(sqlite, home, random_document(3))
    done = run("worker", "run", "regime-1", *PEAK)
    assert done.exit_code == 0, done.output
    assert "3 points finished" in done.output
    assert "Next: rust-optuna best" in done.output
    assert_each_once(sqlite, study, 3)
    assert "No study is open: all are done.\nNext: rust-optuna best" in run("worker", "run", *PEAK).output
    assert "No point is left to run: regime-1 is done.\n" in run("worker", "run", "regime-1", *PEAK).output


def test_a_worker_says_whether_it_hashes_films_or_computes_features(run, monkeypatch):
    def hash_and_compute(worker, names):
        worker.on_hashed(1, 2)
        worker.progress(2, 4)
        return 0

    monkeypatch.setattr("rust_optuna.worker.worker.Worker.run", hash_and_compute)
    lines = run("worker", "run").output.splitlines()
    assert lines[:2] == ["Hashing films: 1 of 2", "Extracting features: 2 of 4"]


@pytest.mark.parametrize("command", [("worker",), ("worker", "run"), ("worker", "start"), ("status",)])
def test_where_there_is_no_study_it_is_said_with_what_makes_one(run, command):
    done = run(*command)
    assert done.exit_code == 0, done.output
    (said, following) = done.stdout.splitlines()
    assert said == "There are no studies yet."
    assert following.startswith("Next: rust-optuna search STUDY.toml")


def test_a_worker_without_a_subcommand_serves_all_open_studies(sqlite, home, run, monkeypatch):
    make_study(sqlite, home, random_document(1))
    served = []
    monkeypatch.setattr("rust_optuna.worker.worker.Worker.run", lambda self, names: served.append(names) or 1)
    done = run("worker")
    assert (done.exit_code, served) == (0, [()]), done.output
    assert "1 point finished" in done.output


def test_supervisors_say_that_nothing_is_open(sqlite, home, run):
    make_study(sqlite, home, random_document(1))
    run("worker", "run", *PEAK)
    assert run("worker", "start").stdout.startswith("No study is open: all are done.\nNext: rust-optuna best")
    assert "regime-1" in run("worker", "start", "regime-1").stdout.splitlines()[2]  # the table


def test_a_worker_that_cannot_do_its_work_says_why(sqlite, home, run):
    make_study(sqlite, home, random_document(3))
    done = run("worker", "run", "--objective", "tests.stand_ins:none_such")
    assert (done.exit_code, "No objective" in done.output) == (2, True)
    done = run("worker", "run", "regime-9", *PEAK)
    assert (done.exit_code, "there are: regime-1" in done.output) == (1, True)
    done = run("worker", "run", "--objective", "tests.stand_ins:raising")
    assert (done.exit_code, "3 points failed in a row" in done.output) == (ExitCode.CIRCUIT_BREAKER, True)


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


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "command", [pytest.param(["run"], marks=pytest.mark.long), ["start", "--gpus", "none", "--workers", "1"]]
)
def test_a_worker_without_films_ends_at_once_and_says_what_helps(sqlite, home, command):
    model = {"weights": "random", "output": "mixed0", "image_size": 75}
    make_study(sqlite, home, random_document(1, model=model))
    (home.root / "films").rename(home.root.parent / "moved")
    done = run_command(home, sqlite.url.render_as_string(), "worker", *command)
    assert done.returncode == 1, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "20 of 20 films cannot be found on this machine" in said
    assert "--data-root" in said
    assert "rust-optuna features build" in said
    assert done.stderr.count(" started on cpu") <= 1
    assert " replaces " not in done.stderr


def test_what_keeps_all_workers_from_serving_is_said_once(sqlite, home):
    make_study(sqlite, home, random_document(3))
    words = ("worker", "start", "--gpus", "none", "--workers", "2", *PEAK)
    done = run_command(home, sqlite.url.render_as_string(), *words, RUST_OPTUNA_ARTIFACTS="elsewhere")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("not the artifact store") == 1, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("Error: No worker can run here. /")
    assert re.search(r" Log: /.*-0\.log$", said)
    assert "died" not in done.stderr
    for slot in (0, 1):
        assert re.search(rf" ERROR Slot {slot} on cpu is given up: its worker cannot serve here, log: /", done.stderr)


@pytest.mark.parametrize(
    ("command", "code", "number"),
    [
        ("start", 0, "SIGUSR1"),
        ("search", 130, "SIGXCPU"),
        pytest.param("start", 0, "SIGXCPU", marks=pytest.mark.long),
        pytest.param("start", 0, "SIGUSR2", marks=pytest.mark.long),
        pytest.param("search", 130, "SIGUSR1", marks=pytest.mark.long),
        pytest.param("search", 130, "SIGUSR2", marks=pytest.mark.long),
    ],
)
def test_what_schedulers_send_before_time_is_over_stops_in_good_order(sqlite, home, tmp_path, command, code, number):
    study = make_study(sqlite, home, random_document(3))
    words = (
        ["worker", "start", "--grace", "60"]
        if command == "start"
        else ["search", write_study(home, random_document(3))]
    )
    options = ["--gpus", "none", "--workers", "1", "--objective", "tests.stand_ins:gated"]
    running = start_command(home, sqlite.url.render_as_string(), *words, *options, **{GATE: str(tmp_path)})
    try:
        wait_until(lambda: list(tmp_path.glob("*.began")), 60)
        running.send_signal(signal.Signals[number])
        if command == "start":
            (tmp_path / "open").touch()  # within the grace
        output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == code, output
    assert [row.outcome for row in attempts(sqlite, study)] == ["complete" if command == "start" else "released"]
    assert_in_step(sqlite, study)


@pytest.fixture
def gate(tmp_path, monkeypatch):
    folder = tmp_path / "gate"
    folder.mkdir()
    monkeypatch.setenv(GATE, str(folder))
    monkeypatch.chdir(REPOSITORY)
    return folder


@pytest.fixture
def daemon(sqlite, home, gate, run):
    """Start a daemon of one worker; whatever a test leaves is killed."""
    objective = ("--objective", "tests.stand_ins:gated")

    def start(*arguments):
        return run("worker", "start", "--daemon", "--gpus", "none", "--workers", "1", *objective, *arguments)

    yield start
    for each in records.living(home):
        os.kill(each.pid, signal.SIGKILL)


def test_a_daemon_is_started_listed_and_stopped(sqlite, home, gate, run, daemon):
    study = make_study(sqlite, home, random_document(3))
    done = daemon()
    assert done.exit_code == 0, done.output
    (there,) = records.living(home)
    assert f"process {there.pid}" in done.output
    log = home.log(there.name)
    assert f"Log: {log}" in done.output
    assert "Next: rust-optuna worker list" in done.output
    assert os.getsid(there.pid) == there.pid
    wait_until(lambda: list(gate.glob("*.began")), 60)
    assert "started on cpu" in log.read_text()

    listed = run("worker", "list").output
    assert re.search(r"cpu +\d+ s ago +regime-1 point \d, attempt 1, for \d+ s", listed)
    (row,) = json.loads(run("worker", "list", "--json").output)
    assert (row["study"], row["attempt"], row["host"]) == ("regime-1", 1, platform.node())

    stopped = run("worker", "stop")
    assert stopped.exit_code == 0, stopped.output
    assert f"Stopped process {there.pid}" in stopped.output
    assert records.living(home) == []
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 3
    assert_in_step(sqlite, study)
    assert "No daemon" in run("worker", "stop").output


def test_of_several_daemons_those_that_are_named_are_stopped(sqlite, home, gate, run, daemon):
    make_study(sqlite, home, random_document(3))
    for _ in range(2):
        assert daemon("--forever").exit_code == 0
    first, second = records.living(home)
    refused = run("worker", "stop")
    assert (refused.exit_code, str(first.pid) in refused.output, "--all" in refused.output) == (2, True, True)
    assert run("worker", "stop", "1").exit_code == 2
    assert run("worker", "stop", first.pid).exit_code == 0
    assert [each.pid for each in records.living(home)] == [second.pid]
    assert run("worker", "stop", "--all").exit_code == 0
    assert records.living(home) == []


def test_who_starts_a_second_daemon_of_a_study_is_told_of_the_first(sqlite, home, gate, run, daemon):
    for name in ("regime-1", "other"):
        make_study(sqlite, home, random_document(3, name=name))
    assert "already serves" not in daemon("regime-1").output
    (first,) = records.living(home)
    second = daemon("regime-1", "other")
    assert second.exit_code == 0
    assert f"Process {first.pid} already serves regime-1 on this machine" in second.stderr
    for each in records.living(home):
        assert "already serves" not in home.log(each.name).read_text()


@pytest.mark.parametrize(
    ("theirs", "ours", "what"),
    [
        ((), (), "all studies"),
        ((), ("a", "b"), "a, b"),
        (("a", "b"), (), "a, b"),
        (("a", "b"), ("b", "c"), "b"),
        (("a",), ("b",), None),
    ],
)
def test_a_supervisor_that_serves_the_same_is_named_with_what_it_serves(home, caplog, theirs, ours, what):
    with records.registered(home, records.new_name(), daemon=False, studies=theirs, grace=0):
        _warn_of_others(Site(home), ours)
    said = [] if what is None else [f"Process {os.getpid()} already serves {what} on this machine"]
    assert [message.partition(":")[0] for message in caplog.messages] == said


def test_a_daemon_that_cannot_start_says_why_on_the_terminal(sqlite, home, run, daemon):
    make_study(sqlite, home, random_document(3))
    done = daemon("regime-9")
    assert (done.exit_code, "there are: regime-1" in done.output) == (1, True)
    assert not home.logs.exists()


@pytest.mark.parametrize("log_format", [pytest.param("text", marks=pytest.mark.long), "json"])
def test_a_daemon_whose_workers_cannot_serve_says_so_where_it_was_started(
    sqlite, home, gate, run, monkeypatch, log_format
):
    make_study(sqlite, home, random_document(3))
    # The artifact store of another storage: found by each worker only.
    monkeypatch.setenv("RUST_OPTUNA_ARTIFACTS", "elsewhere")
    done = run("worker", "start", "--daemon", "--gpus", "none", "--workers", "2", *PEAK, "--log-format", log_format)
    assert done.exit_code == 1, done.output
    assert re.search(
        r"^Error: The daemon has ended: No worker can run here\. .*not the artifact store", done.output, re.M
    )
    assert "under process" not in done.output
    for command in ("stop", "list"):
        told = run("worker", command).output
        assert re.search(
            r"The last daemon ended at .* UTC with an error: No worker can run here\..* Log: /.*\.log", told
        )
    assert records.living(home) == []


def test_a_daemon_that_is_done_before_it_is_waited_for_is_no_error(sqlite, home, gate, run, daemon):
    make_study(sqlite, home, random_document(1))
    (gate / "open").touch()
    done = daemon()
    assert done.exit_code == 0, done.output
    assert "under process" in done.output or "all are done" in done.output
    wait_until(lambda: not records.living(home), 60)
    assert "The last daemon" not in run("worker", "stop").output


def test_a_daemon_whose_workers_make_ready_for_long_is_not_waited_for(sqlite, home, gate, run, daemon, monkeypatch):
    make_study(sqlite, home, random_document(3))
    monkeypatch.setattr("rust_optuna.fleet.daemon.SERVE_SECONDS", 0.0)
    done = daemon()
    assert done.exit_code == 0, done.output
    (there,) = records.living(home)
    assert f"1 worker under process {there.pid}, none ready yet" in done.output


@needs_ray
def test_a_ray_cluster_that_does_not_answer_is_one_line_at_once(sqlite, home):
    address = f"127.0.0.1:{free_port()}"
    cluster = ("--engine", "ray", "--address", address)
    # Ray alone tries for more than five minutes.
    done = run_command(home, sqlite.url.render_as_string(), "worker", "start", *cluster)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"The Ray cluster {address} cannot be joined: Connection refused. --address takes the HOST:PORT" in line


@needs_ray
def test_a_daemon_that_ends_at_its_start_is_told_in_words_whatever_it_logs(run):
    cluster = ("--engine", "ray", "--address", "127.0.0.1:none")
    done = run("worker", "start", "--daemon", "--forever", *cluster, "--log-format", "json")
    assert (done.exit_code, "cannot be joined" in done.output, "{" in done.output) == (1, True, False)


def test_a_daemon_that_has_nothing_to_do_ends_well(sqlite, home, run, daemon):
    done = daemon()
    assert done.exit_code == 0
    assert "There are no studies yet." in done.output
    assert records.living(home) == []


@pytest.fixture
def never_signalled(monkeypatch):
    """This process is the one that a record names: a signal would end the tests."""

    def refuse(*_):
        raise AssertionError("signalled")

    monkeypatch.setattr("os.kill", refuse)
    monkeypatch.setattr("signal.pidfd_send_signal", refuse, raising=False)


def change_record(home, **changes):
    """Change what the record of this process says; None takes it out."""
    (there,) = records.living(home)
    path = home.record(there.name)
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))


EARLIER = {"boot": None, "namespace": None, "started": None}
"""What versions before these fields did not record."""


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"boot": "another"}, "on another machine (%s)"),
        ({"namespace": "pid:[1]"}, "in another PID namespace of this machine (a container; its host name: %s)"),
        ({"started": "1"}, "where it cannot be seen from here (process %s is another one here)"),
        (EARLIER, "in another container or on another machine (%s)"),
        ({**EARLIER, "host": "elsewhere"}, "on another machine (elsewhere)"),
    ],
)
@pytest.mark.usefixtures("never_signalled")
def test_a_daemon_that_does_not_run_here_is_left_alone_and_it_is_said_where_it_runs(home, run, changes, where):
    with records.registered(home, "one", daemon=True, studies=["a"], grace=0):
        change_record(home, **changes)
        if "%s" in where:
            where %= os.getpid() if changes.get("started") else platform.node()
        done = run("worker", "stop")
        assert (done.exit_code, f"{os.getpid()} (a) runs {where}" in done.output) == (1, True), done.output
        assert f"No daemon of {home.root} is running here" in done.output
        done = run("worker", "stop", os.getpid())
        assert (done.exit_code, f"daemon {os.getpid()} runs {where}" in done.output) == (1, True), done.output
        done = run("worker", "stop", "--all")
        assert (done.exit_code, f"{os.getpid()} (a) runs {where}" in done.output) == (1, True), done.output


def test_a_daemon_that_an_earlier_version_recorded_is_stopped(sqlite, home, gate, run, daemon):
    make_study(sqlite, home, random_document(3))
    assert daemon("--forever").exit_code == 0
    change_record(home, **EARLIER, host="renamed since")
    assert run("worker", "stop").exit_code == 0
    assert records.living(home) == []


def test_what_a_later_version_records_besides_is_passed_over(home):
    with records.registered(home, "one", daemon=True, studies=[], grace=0) as record:
        change_record(home, colour="blue")
        assert records.living(home)[0].process == record.process


def test_a_daemon_of_another_home_is_named_with_its_home(sqlite, home, gate, run, daemon, tmp_path):
    make_study(sqlite, home, random_document(3))
    assert daemon("--forever").exit_code == 0
    (there,) = records.living(home)
    other = tmp_path / "my other home"
    for number, what in (
        (there.pid, f"is a daemon of another home: rust-optuna worker stop {there.pid} --home {home.root}"),
        (os.getpid(), "is not a daemon of this home"),
    ):
        done = invoke("--home", other, "worker", "stop", number)
        assert (done.exit_code, f"Process {number} {what}" in done.output) == (2, True), done.output
        assert ". None is running here" in done.output
    assert records.living(home) == [there]


def test_a_supervisor_in_the_foreground_is_no_daemon(home, run):
    with records.registered(home, "one", daemon=False, studies=[], grace=0):
        assert "No daemon" in run("worker", "stop", "--all").output


def test_where_no_worker_was_heard_of_the_list_says_how_to_start_one(run):
    done = run("worker", "list")
    assert done.exit_code == 0
    assert "Next: rust-optuna worker start" in done.output
    assert json.loads(run("worker", "list", "--json").output) == []


def test_what_a_worker_cannot_do_is_one_line_of_json(sqlite, home, run):
    make_study(sqlite, home, random_document(3))
    done = run("worker", "run", "regime-9", *PEAK, "--log-format", "json")
    assert done.exit_code == 1
    line = json.loads(done.output)
    assert (line["level"], line["exit_code"], "there are: regime-1" in line["message"]) == ("ERROR", 1, True)
    done = run("worker", "start", "regime-9", "--log-format", "json")
    assert done.exit_code == 1
    again = json.loads(done.output)
    assert {name: again[name] for name in ("level", "event", "exit_code", "message")} == {
        name: line[name] for name in ("level", "event", "exit_code", "message")
    }


@pytest.mark.parametrize(
    ("command", "code"), [(("run",), 1), (("start", "--gpus", "none"), 1), (("start", "--gpus", "7"), 2)]
)
def test_what_is_wrong_before_the_first_point_is_one_line_of_json_too(home, command, code, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    done = invoke("--home", home.root, "worker", *command, "--log-format", "json")
    line = json.loads(done.output)
    assert (done.exit_code, line["event"], line["exit_code"]) == (code, "ended", code)
    assert line["message"].startswith(("No database at", "No GPU 7 here"))


def test_a_failing_nvidia_smi_is_told_in_the_log_of_the_supervisor(sqlite, run, tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho failed; exit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    line = json.loads(run("worker", "start", "--log-format", "json").output)
    assert (line["level"], "nvidia-smi failed" in line["message"]) == ("WARNING", True)


def test_a_daemon_of_another_user_is_left_alone_with_one_line(home, run, monkeypatch):
    def forbidden(pid, number):
        raise PermissionError(1, "Operation not permitted")

    with records.registered(home, records.new_name(), daemon=True, studies=(), grace=0):
        monkeypatch.setattr("os.kill", forbidden)
        monkeypatch.setattr("signal.pidfd_send_signal", forbidden, raising=False)
        done = run("worker", "stop")
    assert (done.exit_code, "belongs to another user" in done.output) == (1, True)


@pytest.mark.parametrize(
    "options", [("--workers", "0"), ("--per-gpu", "0"), ("--grace", "-1"), ("--log-format", "xml")]
)
def test_options_that_make_no_sense_are_refused(run, options):
    assert run("worker", "start", *options).exit_code == 2
