import os
from pathlib import Path

import pytest

from rust_optuna.errors import RustOptunaError
from rust_optuna.run import pool as pool_module
from rust_optuna.run.devices import Slot
from rust_optuna.run.local import child_environment
from rust_optuna.run.pool import WorkerPool
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import status
from rust_optuna.search.studies import load_study
from tests import stand_ins
from tests.studies import REPOSITORY, assert_in_step, attempts, make_study, points, random_document, wait_until


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """The folder at which the stand-in `gated` waits."""
    folder = tmp_path / "gate"
    folder.mkdir()
    monkeypatch.setenv(stand_ins.GATE, str(folder))
    monkeypatch.chdir(REPOSITORY)
    return folder


@pytest.fixture
def make_pool(sqlite, home, gate):
    """A pool of two real processes; whatever a test leaves is killed."""
    made = []

    def make(objective="gated", workers=2):
        slots = [Slot("cpu", {"CUDA_VISIBLE_DEVICES": "-1", "SLOT": str(number)}) for number in range(workers)]
        environment = child_environment(home, sqlite.url, "storage/artifacts")
        arguments = ["--objective", f"tests.stand_ins:{objective}"]
        made.append(WorkerPool(Ledger(sqlite), "regime-1", slots, home.logs, environment, arguments))
        made[-1].start()
        return made[-1]

    yield make
    for pool in made:
        pool.kill()


def began(gate):
    """Return the processes that have begun a point, and which."""
    found = {int(path.stem): path.read_text() for path in gate.glob("*.began")}
    return {process: int(point) for process, point in found.items() if point}


def test_a_dead_worker_is_replaced_and_its_point_waits_again_at_once(sqlite, home, gate, make_pool):
    study = make_study(sqlite, home, random_document(4, lease_seconds=9999))
    pool = make_pool()
    wait_until(lambda: len(began(gate)) == 2)
    victim = pool.children[0].process
    name = pool.children[0].worker_id
    lost = began(gate)[victim.pid]
    victim.kill()
    victim.wait()
    pool.replace(pool.ended())
    assert [(row.point, row.reason) for row in attempts(sqlite, study) if row.outcome == "lost"] == [
        (lost, "the worker died with exit code -9")
    ]
    assert pool.children[0].process.pid != victim.pid
    assert pool.children[0].worker_id != name
    (gate / "open").touch()
    wait_until(lambda: len(pool.ended()) == 2, 60)
    assert load_study(sqlite, study.name).state == "done"
    assert [row.attempt for row in points(sqlite, study)] == [2 if n == lost else 1 for n in range(4)]
    Mirror(sqlite, study).reconcile()
    assert_in_step(sqlite, study)


def test_a_child_knows_its_slot_and_its_supervisor_and_no_secret_stands_in_its_command_line(
    sqlite, home, gate, make_pool
):
    make_study(sqlite, home, random_document(2))
    pool = make_pool()
    wait_until(lambda: len(began(gate)) == 2)
    for number, child in enumerate(pool.children):
        read = [Path(f"/proc/{child.process.pid}/{name}") for name in ("cmdline", "environ")]
        if not read[0].exists():
            pytest.skip("this system has no /proc")
        line, environment = (path.read_bytes().decode().split("\0") for path in read)
        assert f"SLOT={number}" in environment
        assert f"RUST_OPTUNA_SUPERVISOR={os.getpid()}" in environment
        assert f"RUST_OPTUNA_WORKER_ID={child.worker_id}" in environment
        assert not [argument for argument in line if "://" in argument]
        # Ctrl-C at the terminal reaches the supervisor only.
        assert os.getsid(child.process.pid) != os.getsid(0)


def test_stopped_workers_that_take_too_long_are_killed_and_their_points_wait_again(
    sqlite, home, gate, make_pool, monkeypatch
):
    monkeypatch.setattr(pool_module, "GRACE_SECONDS", 0.05)
    study = make_study(sqlite, home, random_document(3))
    pool = make_pool()
    wait_until(lambda: len(began(gate)) == 2)
    pool.stop()
    assert len(pool.ended()) == 2
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 3
    assert [row.reason for row in attempts(sqlite, study)] == ["the worker was stopped"] * 2


def test_stopped_workers_finish_what_they_are_at(sqlite, home, gate, make_pool):
    study = make_study(sqlite, home, random_document(3))
    pool = make_pool()
    wait_until(lambda: len(began(gate)) == 2)
    (gate / "open").touch()
    pool.stop()
    assert [child.process.returncode for child in pool.children] == [0, 0]
    assert status(sqlite, study).counts["running"] == 0


def test_where_every_worker_dies_again_and_again_the_pool_gives_up_with_its_last_words(
    sqlite, home, make_pool, monkeypatch
):
    monkeypatch.setattr(pool_module, "MAX_RESTARTS", 1)
    study = make_study(sqlite, home, random_document(8))
    pool = make_pool("raising", workers=1)

    def watch():
        try:
            pool.replace(pool.ended())
        except RustOptunaError as error:
            return str(error)
        return None

    said = wait_until(watch, 60)
    assert "All workers of regime-1 died" in said
    assert "3 points failed in a row" in said
    assert str(home.logs / "regime-1-worker-0.log") in said
    assert status(sqlite, study).counts["running"] == 0
