"""Two containers that share a home, and give the same number to different processes."""

import subprocess

import pytest

from rust_optuna.fleet import records
from rust_optuna.paths import Home
from rust_optuna.search.studies import load_study
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import parse_url
from tests import stand_ins
from tests.namespaces import UNSHARE, need_namespaces, run_beside, start_inside
from tests.studies import (
    assert_in_step,
    command,
    make_study,
    points,
    random_document,
    run_command,
    wait_until,
    write_study,
)


@pytest.fixture
def url(sqlite):
    return sqlite.url.render_as_string()


@pytest.fixture
def inside(sqlite, home, url, tmp_path):
    """A study, and a daemon that runs a point of it in a PID namespace of its own: its record."""
    need_namespaces()
    study = make_study(sqlite, home, random_document(3))
    options = ("--gpus", "none", "--workers", "1", "--objective", "tests.stand_ins:gated")
    variables = {stand_ins.GATE: str(tmp_path)}
    shell = start_inside(home, url, "worker", "start", "--daemon", *options, **variables)
    try:
        wait_until(lambda: list(tmp_path.glob("*.began")), 120)
        (there,) = records.living(home)
        yield study, there
    finally:
        shell.kill()
        shell.communicate()


@pytest.mark.parametrize("host", [None, "renamed"])
def test_a_daemon_of_another_container_is_named_and_its_number_here_is_left_alone(sqlite, home, url, inside, host):
    study, there = inside
    for arguments in ((), ("--all",), (str(there.pid),)):
        found = run_beside(home, url, there.pid, "worker", "stop", *arguments, host=host)
        assert found["lives"], arguments
        assert str(there.pid) in found["output"]
        assert "another PID namespace" in found["output"]
        assert found["code"] == 1
    assert records.living(home) == [there]
    assert "running" in [row.state for row in points(sqlite, study)]


def test_a_daemon_is_stopped_after_the_host_name_has_changed(sqlite, home, url, tmp_path):
    need_namespaces()
    study = make_study(sqlite, home, random_document(3))
    options = ("--gpus", "none", "--workers", "1", "--objective", "tests.stand_ins:gated")
    line, keywords = command(home, url, ["worker", "start", "--daemon", *options], **{stand_ins.GATE: str(tmp_path)})
    named = ["unshare", "--uts", "sh", "-c", 'hostname earlier && exec "$@"', "sh", *line]
    subprocess.run(named, check=True, capture_output=True, **keywords)
    wait_until(lambda: list(tmp_path.glob("*.began")), 120)
    (there,) = records.living(home)
    assert there.host == "earlier"
    done = run_command(home, url, "worker", "stop")
    assert (done.returncode, f"Stopped process {there.pid}" in done.stdout) == (0, True), done.stderr
    assert records.living(home) == []
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 3
    assert_in_step(sqlite, study)


def test_a_whole_run_from_two_containers_that_share_a_home(tmp_path):
    """Films are drawn, split and searched in one, where a daemon stays; the other works beside it and exports."""
    need_namespaces()
    home = Home((tmp_path / "home").resolve())
    home.root.mkdir()
    url = f"sqlite:///{home.storage / 'rust_optuna.db'}"
    home.storage.mkdir()
    write_study(home, random_document(4))

    def other(number, *arguments):
        return run_beside(home, url, number, *arguments)

    def here(*arguments):
        line, keywords = command(home, url, arguments)
        done = subprocess.run([*UNSHARE, *line], capture_output=True, timeout=240, check=False, **keywords)
        assert done.returncode == 0, done.stderr
        return done.stdout

    here("data", "synthesize", home.root, "--patients", "24", "--seed", "1")
    here("data", "split", home.root / "manifest.csv", "--holdout", "0.15", "--seed", "1")
    here("study", "create", home.root / "regime-1.toml")
    objective = ("--objective", "tests.stand_ins:peak")
    options = ("--daemon", "--forever", "--workers", "1", "--gpus", "none", *objective)
    shell = start_inside(home, url, "worker", "start", *options)
    try:
        (daemon,) = wait_until(lambda: records.living(home), 120)
        done = other(daemon.pid, "worker", "run", "regime-1", *objective)
        assert (done["code"], done["lives"]) == (0, True), done["output"]
        refused = other(daemon.pid, "worker", "stop")
        assert (refused["code"], refused["lives"]) == (1, True), refused["output"]
        for words in (("status",), ("best", "regime-1"), ("study", "export", "regime-1", tmp_path / "report")):
            done = other(daemon.pid, *words)
            assert done["code"] == 0, done["output"]
        assert records.living(home) == [daemon]
    finally:
        shell.kill()
        shell.communicate()
    with open_database(parse_url(url, home)) as database:
        assert [row.state for row in points(database, load_study(database, "regime-1"))] == ["complete"] * 4
    assert list((tmp_path / "report").iterdir())
