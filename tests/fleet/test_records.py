import errno
import os
import subprocess
import sys

import pytest

from rust_optuna import locks
from rust_optuna.fleet import records
from tests import without_locks
from tests.studies import REPOSITORY

HOLD = (
    "import sys\n"
    "from rust_optuna.paths import Home\n"
    "from rust_optuna.fleet import records\n"
    "with records.registered(Home.find(sys.argv[1]), sys.argv[2], daemon=True, studies=['a'], grace=5):\n"
    "    print('up', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def hold(home):
    """Start a process that is a living supervisor of a name, until its stdin is closed or it is killed."""
    started = []

    def start(name):
        line = [sys.executable, "-c", HOLD, str(home.root), name]
        child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
        started.append(child)
        assert child.stdout.readline() == "up\n"
        return child

    yield start
    for child in started:
        with child:
            child.kill()


def test_a_supervisor_is_found_while_it_lives(home, hold):
    assert records.living(home) == []
    child = hold("one")
    (found,) = records.living(home)
    assert (found.name, found.pid, found.daemon, list(found.studies), found.grace) == ("one", child.pid, True, ["a"], 5)
    assert records.lives(home, "one")
    child.communicate("")
    assert records.living(home) == []
    assert not records.lives(home, "one")
    assert list(home.workers.iterdir()) == []


def test_what_a_killed_supervisor_left_is_no_life_whoever_has_its_process_number(home, hold):
    child = hold("one")
    child.kill()
    child.wait()
    path = home.record("one")
    path.write_text(path.read_text().replace(str(child.pid), str(os.getpid())))
    assert not records.lives(home, "one")
    assert records.living(home) == []
    assert not path.exists()


def test_looking_does_not_disturb(home, hold):
    hold("one")
    hold("two")
    for _ in range(3):
        assert [each.name for each in records.living(home)] == ["one", "two"]


def test_a_process_that_a_supervisor_starts_does_not_keep_it_alive(home):
    with records.registered(home, "one", daemon=False, studies=[], grace=0):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        assert records.living(home) == []
        child.communicate(b"\n")


def test_names_differ_and_sort_by_time():
    names = [records.new_name() for _ in range(100)]
    assert len(set(names)) == 100
    assert [name[:16] for name in names] == sorted(name[:16] for name in names)


def test_the_logs_of_the_newest_and_of_the_living_are_kept(home):
    home.logs.mkdir(parents=True)
    names = [f"202601{day:02}T000000Z-host-0000000{day}" for day in range(1, 6)]
    for name in names:
        for slot in (None, 0, 11):
            home.log(name, slot).touch()
    (home.logs / "another.log").touch()
    with records.registered(home, names[0], daemon=False, studies=[], grace=0):
        records.prune_logs(home, keep=2)
        kept = {path.name for path in home.logs.iterdir()}
    expected = {home.log(name, slot).name for name in (names[0], *names[3:]) for slot in (None, 0, 11)}
    assert kept == {*expected, "another.log"}


def test_where_the_file_system_has_no_flock_a_supervisor_lives_as_long_as_its_process(
    home, hold, tmp_path, monkeypatch
):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    for name, value in without_locks.variables(without_locks.library(tmp_path), errno.ENOSYS).items():
        monkeypatch.setenv(name, value)
    child = hold("one")
    assert [each.name for each in records.living(home)] == ["one"]
    assert records.lives(home, "one")
    child.kill()
    child.wait()
    assert not records.lives(home, "one")
    assert records.living(home) == []
    assert not home.record("one").exists()
