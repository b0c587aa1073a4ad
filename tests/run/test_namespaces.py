"""Two containers that share a home, and give the same number to different processes."""

import subprocess

import pytest

from rust_optuna.run import records
from tests import stand_ins
from tests.namespaces import need_namespaces, run_beside, start_inside
from tests.studies import assert_in_step, command, make_study, points, random_document, run_command, wait_until


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
        assert found["code"] == (0 if arguments == ("--all",) else 1)
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
