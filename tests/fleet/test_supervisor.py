import itertools
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from rust_optuna.errors import CannotServeError, RetiredError, StorageError
from rust_optuna.fleet import supervisor as module
from rust_optuna.fleet.devices import Device
from rust_optuna.fleet.supervisor import Supervisor
from rust_optuna.fleet.workers import Workers
from rust_optuna.processes import ExitCode
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import load_study
from rust_optuna.signals import Signals
from tests import stand_ins
from tests.studies import REPOSITORY, assert_in_step, attempts, make_study, points, random_document, site_of, wait_until


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """The folder at which the stand-in `gated` waits."""
    folder = tmp_path / "gate"
    folder.mkdir()
    monkeypatch.setenv(stand_ins.GATE, str(folder))
    monkeypatch.chdir(REPOSITORY)
    return folder


class OneStudy:
    """The study `regime-1` as a supervisor needs it: done as a test says, or else as the database says."""

    def __init__(self, database, is_done=None):
        self.database = database
        self.is_done = is_done or self.is_done
        self.tended = 0

    def names(self):
        return ["regime-1"]

    def is_done(self):
        return load_study(self.database, "regime-1").state == "done"

    def tend(self):
        self.tended += 1


@pytest.fixture
def supervise(sqlite, home, gate, clock):
    """A supervisor of real processes; whatever a test leaves is killed."""
    made = []

    def make(objective="gated", workers=2, is_done=None, forever=False, echo=None, **changes):
        slots = [Device("cpu", {"CUDA_VISIBLE_DEVICES": "-1", "SLOT": str(number)}) for number in range(workers)]
        made.append(
            Supervisor(
                Ledger(sqlite),
                OneStudy(sqlite, is_done),
                Workers(slots, objective=f"tests.stand_ins:{objective}", forever=forever, echo=echo),
                **{
                    "logs": lambda slot: home.log("test", slot),
                    "environment": site_of(home, sqlite.url).environment(sqlite),
                    "observe_seconds": 0.0,
                    "clock": clock,
                    **changes,
                },
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.kill()


def began(gate):
    """Return the processes that have begun a point, and which."""
    found = {int(path.stem): path.read_text() for path in gate.glob("*.began")}
    return {process: int(point) for process, point in found.items() if point}


def until_dead(supervisor, slot):
    """Let a supervisor work until it has buried the worker of a slot."""
    wait_until(lambda: (supervisor.step(), slot.process is None)[1], 60)


def test_the_point_of_a_dead_worker_waits_at_once_and_the_worker_is_replaced_after_a_delay(
    sqlite, home, gate, clock, supervise
):
    study = make_study(sqlite, home, random_document(4, lease_seconds=9999))
    supervisor = supervise()
    supervisor.start()
    wait_until(lambda: len(began(gate)) == 2, 60)
    slot = supervisor.slots[0]
    victim, name = slot.process, slot.worker
    lost = began(gate)[victim.pid]
    victim.kill()
    until_dead(supervisor, slot)
    assert [(row.point, row.reason) for row in attempts(sqlite, study) if row.outcome == "lost"] == [
        (lost, "the worker died of SIGKILL")
    ]
    clock.now += 0.99
    supervisor.step()
    assert slot.process is None
    clock.now += 0.01
    supervisor.step()
    assert slot.process.pid != victim.pid
    assert slot.worker != name
    (gate / "open").touch()
    wait_until(supervisor.step, 60)
    assert [row.attempt for row in points(sqlite, study)] == [2 if n == lost else 1 for n in range(4)]
    Mirror(sqlite, study).reconcile()
    assert_in_step(sqlite, study)


def test_a_worker_that_dies_again_and_again_is_replaced_ever_later_and_given_up_in_the_end(
    sqlite, home, clock, supervise
):
    study = make_study(sqlite, home, random_document(2))
    supervisor = supervise("dying", workers=1)
    supervisor.start()
    slot = supervisor.slots[0]
    delays = []

    def work():
        while True:
            until_dead(supervisor, slot)
            delays.append(slot.due - clock.now)
            clock.now = slot.due
            supervisor.step()

    with pytest.raises(RetiredError, match=r"All workers died.*Log: ") as said:
        work()
    assert delays == [1, 2, 4, 8]
    assert said.value.exit_code == ExitCode.RETIRED == 6
    assert str(home.log("test", 0)) in str(said.value)
    assert [row.reason for row in attempts(sqlite, study)] == ["the worker died with exit code 9"] * 5
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 2


def test_the_longest_delay_is_a_minute(sqlite, home, clock, supervise, monkeypatch):
    make_study(sqlite, home, random_document(2))
    monkeypatch.setattr(module, "MAX_DEATHS", 99)
    supervisor = supervise("dying", workers=1)
    supervisor.start()
    slot = supervisor.slots[0]
    slot.deaths = 11
    until_dead(supervisor, slot)
    assert slot.due - clock.now == 60


def test_a_worker_that_finishes_points_between_its_deaths_is_never_given_up(
    sqlite, home, clock, supervise, monkeypatch
):
    monkeypatch.setattr(module, "MAX_DEATHS", 2)
    study = make_study(sqlite, home, random_document(6))
    supervisor = supervise("dying_at_odd_points", workers=1)
    supervisor.start()

    def work():
        clock.now += 1
        return supervisor.step()

    wait_until(work, 120)
    assert [row.state for row in points(sqlite, study)] == ["complete"] * 6
    assert len([row for row in attempts(sqlite, study) if row.outcome == "lost"]) == 3


def test_a_slot_whose_worker_met_the_same_error_again_and_again_is_given_up_at_once(
    sqlite, home, clock, gate, supervise, caplog
):
    study = make_study(sqlite, home, random_document(4))
    supervisor = supervise("breaking_in_slot_0")
    supervisor.start()
    wait_until(lambda: supervisor.step() or supervisor.slots[0].retired, 60)
    (gate / "open").touch()
    wait_until(supervisor.step, 60)  # the other goes on alone
    assert [slot.retired for slot in supervisor.slots] == [True, False]
    assert [row.state for row in points(sqlite, study)] == ["complete"] * 4
    retired = [record for record in caplog.records if getattr(record, "event", "") == "retired"]
    assert [(record.exit_code, record.levelname) for record in retired] == [(4, "ERROR")]
    assert "Slot 0 on cpu is given up: the same error at several points" in retired[0].message


def test_a_worker_that_can_never_serve_is_started_once(sqlite, home, supervise):
    make_study(sqlite, home, random_document(4))
    # The artifact store of another storage: nothing that a further worker would find otherwise.
    environment = site_of(home, sqlite.url, "elsewhere").environment(sqlite)
    supervisor = supervise("peak", workers=2, environment=environment)
    supervisor.start()
    names = [slot.worker for slot in supervisor.slots]
    with pytest.raises(CannotServeError, match=r"not the artifact store.*--artifacts") as said:
        wait_until(supervisor.step, 60)
    assert said.value.exit_code == ExitCode.ERROR
    assert [slot.worker for slot in supervisor.slots] == names


def test_where_every_slot_is_given_up_the_last_words_of_a_worker_are_told(sqlite, home, supervise):
    make_study(sqlite, home, random_document(4))
    supervisor = supervise("none_such", workers=1)
    supervisor.slots[0].deaths = module.MAX_DEATHS - 1
    supervisor.start()
    with pytest.raises(RetiredError, match=r"No objective 'tests\.stand_ins:none_such'"):
        wait_until(supervisor.step, 60)


def test_a_child_knows_its_slot_and_its_supervisor_and_no_secret_stands_in_its_command_line(
    sqlite, home, gate, supervise
):
    make_study(sqlite, home, random_document(2))
    supervisor = supervise("reporting")
    supervisor.start()
    wait_until(lambda: len(began(gate)) == 2, 60)
    for number, slot in enumerate(supervisor.slots):
        assert os.getsid(slot.process.pid) != os.getsid(0)  # Ctrl-C at the terminal reaches the supervisor only
        line, environment = (Path(f"/proc/{slot.process.pid}/{name}") for name in ("cmdline", "environ"))
        if not line.exists():
            pytest.skip("this system has no /proc")
        variables = environment.read_bytes().decode().split("\0")
        assert f"SLOT={number}" in variables
        assert f"RUST_OPTUNA_SUPERVISOR={os.getpid()}" in variables
        assert f"RUST_OPTUNA_WORKER_ID={slot.worker}" in variables
        assert not [word for word in line.read_bytes().decode().split("\0") if "://" in word]


def later(act):
    """Do something in a thread beside ``Supervisor.run``, which needs the main one."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_workers_that_do_not_stop_in_time_are_killed_and_their_points_wait_again(
    sqlite, home, gate, supervise, monkeypatch
):
    monkeypatch.setattr(module, "MARGIN_SECONDS", 0.1)
    study = make_study(sqlite, home, random_document(3))
    supervisor = supervise(workers=1, clock=module.time.monotonic)

    def freeze():
        wait_until(lambda: began(gate), 60)
        for slot in supervisor.slots:
            os.kill(slot.process.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = later(freeze)
    with Signals() as signals:
        assert supervisor.run(signals) is signal.SIGTERM
    thread.join()
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 3
    assert [row.reason for row in attempts(sqlite, study)] == ["the worker was killed by its supervisor"]


def test_workers_outlive_the_stream_and_the_log_that_they_are_shown_by(sqlite, home, gate, supervise):
    study = make_study(sqlite, home, random_document(2))
    readable, writable = os.pipe()
    os.close(readable)
    echo = os.fdopen(writable, "w")
    supervisor = supervise(workers=1, echo=echo)
    supervisor.start()
    wait_until(lambda: began(gate), 60)  # it has logged that it claimed a point
    assert not supervisor.step()
    for slot in supervisor.slots:
        slot.log.unlink()
    assert not supervisor.step()
    assert all(slot.lives for slot in supervisor.slots)
    (gate / "open").touch()
    wait_until(supervisor.step, 60)
    assert [row.outcome for row in attempts(sqlite, study)] == ["complete"] * 2
    with suppress(BrokenPipeError):
        echo.close()


def test_a_bug_leaves_no_worker_behind(sqlite, home, gate, supervise):
    study = make_study(sqlite, home, random_document(3))

    def is_done():
        wait_until(lambda: began(gate), 60)
        raise ZeroDivisionError

    supervisor = supervise(workers=1, is_done=is_done)
    with Signals() as signals, pytest.raises(ZeroDivisionError):
        supervisor.run(signals)
    assert not any(slot.lives for slot in supervisor.slots)
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 3


def test_what_dies_while_the_database_is_away_is_replaced_when_it_is_back_and_not_counted(
    sqlite, home, gate, clock, supervise
):
    make_study(sqlite, home, random_document(3))
    away = []

    def is_done():
        if away:
            raise StorageError("no answer")
        return False

    supervisor = supervise(workers=1, is_done=is_done)
    supervisor.start()
    slot = supervisor.slots[0]
    wait_until(lambda: began(gate), 60)
    away.append(True)
    slot.process.kill()
    wait_until(lambda: slot.ended is not None)
    for _ in range(3):
        assert not supervisor.step()
    assert slot.process is not None
    away.clear()
    supervisor.step()
    assert (slot.process, slot.deaths, slot.due - clock.now) == (None, 0, 1)


def test_a_database_that_stays_away_ends_the_supervisor_unless_it_runs_for_ever(clock, supervise):
    def is_done():
        raise StorageError("no answer")

    patient = supervise(workers=1, is_done=is_done, forever=True)
    other = supervise(workers=1, is_done=is_done)
    for each in (patient, other):
        assert not each.step()
    clock.now += module.WORKER_PATIENCE_SECONDS
    for each in (patient, other):
        assert not each.step()
    clock.now += 1
    assert not patient.step()
    with pytest.raises(StorageError):
        other.step()


def test_housekeeping_is_done_every_few_seconds_and_not_in_step_with_other_supervisors(clock, supervise):
    times = []
    supervisor = supervise(workers=0, is_done=lambda: True)
    for _ in range(400):
        before = supervisor.studies.tended
        supervisor.step()
        times += [clock.now] * (supervisor.studies.tended - before)
        clock.now += 0.25
    gaps = {later - earlier for earlier, later in itertools.pairwise(times)}
    assert min(gaps) >= 2.5
    assert max(gaps) <= 7.75
    assert len(gaps) > 1


def test_workers_that_do_not_end_when_all_is_done_are_ended(sqlite, home, gate, clock, supervise):
    make_study(sqlite, home, random_document(2))
    supervisor = supervise(is_done=lambda: True)
    supervisor.start()
    wait_until(lambda: len(began(gate)) == 2, 60)
    assert not supervisor.step()
    clock.now += module.LINGER_SECONDS + 1
    wait_until(supervisor.step, 60)
    assert not any(slot.lives for slot in supervisor.slots)
