import errno
import os
import subprocess
import sys
import threading

import pytest

from rust_optuna import locks
from rust_optuna.errors import LockedError
from rust_optuna.locks import locked
from tests import without_locks
from tests.studies import REPOSITORY

HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from rust_optuna.locks import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    print('up', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture(params=[None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def number(request, monkeypatch):
    """The error of a file system without locks, here and in children; None for one with locks."""
    if request.param is not None:

        def flock(descriptor, operation):
            raise OSError(request.param, "no locks here")

        monkeypatch.setattr(locks.fcntl, "flock", flock)
    return request.param


@pytest.fixture
def holder(number, tmp_path):
    """Another process that holds the lock of a path until its stdin is closed or it is killed."""
    lacking = {} if number is None else without_locks.variables(without_locks.library(tmp_path), number)
    line = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    environment = {**os.environ, **lacking}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=REPOSITORY, env=environment, **pipes) as child:
        assert child.stdout.readline() == "up\n"
        yield child
        child.kill()


def test_a_wait_ends_and_says_who_holds_the_lock_and_where(holder, number, tmp_path):
    with pytest.raises(LockedError) as raised, locked(tmp_path / "lock", patience=0.2):
        pass
    message = str(raised.value)
    assert f"{tmp_path}/lock is held by process {holder.pid} of " in message
    assert ("remove" in message) == (number is not None)
    if number is not None:
        assert f"remove {tmp_path}/lock.held" in message


def test_whoever_waits_goes_on_when_the_lock_is_given_back(holder, number, tmp_path):
    def progress():
        holder.stdin.close()  # while it is waited for

    with locked(tmp_path / "lock", progress=progress, patience=60):
        pass
    assert not (tmp_path / "lock.held").exists()


def test_a_holder_that_was_killed_on_this_machine_holds_nothing(holder, number, tmp_path):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "lock", patience=30):
        pass


def test_a_lock_that_another_machine_left_is_named_with_what_helps(number, tmp_path):
    if number is None:
        return  # the system takes it back
    (tmp_path / "lock.held").write_text("4242\nnode17\n")
    said = r"held by process 4242 of \w+ on node17 .*remove .*lock\.held"
    with pytest.raises(LockedError, match=said), locked(tmp_path / "lock", patience=0.2):
        pass


def test_patience_begins_anew_while_the_holder_makes_progress(holder, number, tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(locks.time, "monotonic", lambda: now)
    steps = iter(range(1, 6))

    def progress():
        nonlocal now
        now += 0.9
        return next(steps, None)

    with pytest.raises(LockedError), locked(tmp_path / "lock", progress=progress, patience=1.0):
        pass
    assert next(steps, None) is None
    assert now > 5 * 0.9


def test_it_is_said_whom_a_lock_is_waited_for(holder, number, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "TELL_SECONDS", 0.0)
    with pytest.raises(LockedError), locked(tmp_path / "lock", patience=0.3):
        pass
    (line,) = [record.getMessage() for record in caplog.records if record.name == "rust_optuna.locks"]
    assert f"which is held by process {holder.pid} of" in line


def test_threads_exclude_each_other(number, tmp_path):
    inside, most = 0, 0

    def work():
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
