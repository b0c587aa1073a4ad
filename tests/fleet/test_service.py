import json
import os
import signal
from typing import ClassVar

import optuna
import pytest

from rust_optuna.errors import StorageError, StudyError
from rust_optuna.fleet import service as fleet
from rust_optuna.fleet.devices import Device
from rust_optuna.fleet.slot import Slot
from rust_optuna.fleet.workers import Workers
from rust_optuna.search.creation import delete_study
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import load_study, studies_to_serve
from rust_optuna.storage.artifacts import open_store
from tests import stand_ins
from tests.studies import (
    assert_each_once,
    assert_in_step,
    attempts,
    end_leases,
    make_study,
    points,
    random_document,
    run_command,
    run_study,
    start_command,
    wait_until,
)


@pytest.fixture
def gate(tmp_path):
    folder = tmp_path / "gate"
    folder.mkdir()
    return folder


@pytest.fixture
def start(sqlite, home, gate):
    """Start `worker start` as a process; whatever a test leaves is killed."""
    started = []

    def begin(*arguments, objective="gated", workers=1):
        url = sqlite.url.render_as_string()
        options = ["--gpus", "none", "--workers", workers, "--objective", f"tests.stand_ins:{objective}"]
        environment = {stand_ins.GATE: str(gate)}
        words = ["worker", "start", *map(str, (*options, *arguments))]
        started.append(start_command(home, url, *words, **environment))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def began(gate):
    return [int(path.stem) for path in gate.glob("*.began") if path.read_text()]


def lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_supervisor_ends_when_its_studies_are_done(sqlite, home, start):
    study = make_study(sqlite, home, random_document(5))
    other = make_study(sqlite, home, random_document(2, name="other"))
    ended = start("regime-1", objective="peak", workers=2)
    output, _ = ended.communicate(timeout=60)
    assert ended.returncode == 0, output
    assert_each_once(sqlite, study, 5)
    assert load_study(sqlite, other.name).state == "open"
    assert "Next: rust-optuna best" in output
    rest = start(objective="peak")
    output, _ = rest.communicate(timeout=60)
    assert (rest.returncode, load_study(sqlite, other.name).state) == (0, "done"), output
    again = start(objective="peak")
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert "started" not in output


def test_every_event_is_a_line_of_json_those_of_the_workers_too(sqlite, home, start):
    make_study(sqlite, home, random_document(3))
    # One worker: with two, the other might finish before the dead one is replaced.
    ended = start("--log-format", "json", objective="dying_once")
    output, _ = ended.communicate(timeout=60)
    assert ended.returncode == 0, output
    lines = [json.loads(line) for line in output.splitlines()]
    assert {"started", "claimed", "complete", "died", "lost", "replaced", "ended"} <= {
        line.get("event") for line in lines
    }
    assert all(line["time"].endswith("Z") for line in lines)
    claimed = [line for line in lines if line.get("event") == "claimed"]
    assert sorted((line["study"], line["point"], line["attempt"]) for line in claimed) == [
        ("regime-1", 0, 1),
        ("regime-1", 1, 1),
        ("regime-1", 2, 1),
        ("regime-1", 2, 2),
    ]
    assert all(line["worker"] for line in claimed)


def test_two_supervisors_of_one_home_share_the_work_and_keep_their_logs_apart(sqlite, home, gate, start):
    study = make_study(sqlite, home, random_document(8))
    both = [start(), start()]
    wait_until(lambda: len(began(gate)) == 2, 60)
    assert len(list(home.workers.glob("*.pid"))) == 2
    (gate / "open").touch()
    for each in both:
        output, _ = each.communicate(timeout=60)
        assert each.returncode == 0, output
    assert_each_once(sqlite, study, 8)
    assert len(list(home.logs.iterdir())) == 2
    assert list(home.workers.iterdir()) == []


def test_a_supervisor_that_runs_for_ever_serves_studies_that_come_later(sqlite, home, start):
    running = start("--forever", objective="peak")
    wait_until(lambda: list(home.workers.glob("*.pid")), 60)
    study = make_study(sqlite, home, random_document(3))
    wait_until(lambda: load_study(sqlite, study.name).state == "done", 60)
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert_each_once(sqlite, study, 3)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_it_in_good_order_and_the_exit_code_tells_which(sqlite, home, gate, start, number, code):
    study = make_study(sqlite, home, random_document(4))
    running = start(workers=2)
    wait_until(lambda: len(began(gate)) == 2, 60)
    running.send_signal(number)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == code, output
    assert "Traceback" not in output
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 4
    assert [row.outcome for row in attempts(sqlite, study)] == ["released"] * 2
    assert_in_step(sqlite, study)
    assert not any(map(lives, began(gate)))


def test_within_its_grace_a_running_point_is_finished(sqlite, home, gate, start):
    study = make_study(sqlite, home, random_document(4))
    running = start("--grace", "9999")
    wait_until(lambda: began(gate), 60)
    running.send_signal(signal.SIGTERM)
    (gate / "open").touch()
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert [row.outcome for row in attempts(sqlite, study)] == ["complete"]
    assert_in_step(sqlite, study)


def test_more_signals_end_workers_that_take_their_grace_or_do_not_answer_at_all(sqlite, home, gate, start):
    study = make_study(sqlite, home, random_document(4))
    running = start("--grace", "9999", workers=2)
    processes = wait_until(lambda: len(began(gate)) == 2 and began(gate), 60)
    os.kill(processes[0], signal.SIGSTOP)
    # Signals of one kind that come together are one: again and again, as an impatient user does.
    wait_until(lambda: (running.send_signal(signal.SIGTERM), not any(map(lives, processes)))[1], 60)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 4
    assert_in_step(sqlite, study)


def test_the_workers_of_a_killed_supervisor_give_their_points_back_and_end(sqlite, home, gate, start):
    study = make_study(sqlite, home, random_document(4))
    running = start(workers=2)
    processes = wait_until(lambda: len(began(gate)) == 2 and began(gate), 60)
    running.kill()
    running.communicate()
    wait_until(lambda: not any(map(lives, processes)), 60)
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 4


def test_a_stale_trial_is_found_while_every_worker_is_busy(sqlite, home, gate, start):
    study = make_study(sqlite, home, random_document(4))
    running = start()
    wait_until(lambda: began(gate), 60)
    assert Ledger(sqlite).claim([study.id], "somebody who died")
    stale = [row.number for row in points(sqlite, study) if row.lease_owner == "somebody who died"]
    end_leases(sqlite)
    wait_until(lambda: [row.number for row in points(sqlite, study) if row.number in stale and row.state == "waiting"])
    assert running.poll() is None


def test_holes_and_given_up_slots_are_told_by_the_exit_code(sqlite, home, start):
    make_study(sqlite, home, random_document(3))
    ended = start(objective="raising_at_point_1")
    output, _ = ended.communicate(timeout=60)
    assert ended.returncode == 3, output
    make_study(sqlite, home, random_document(3, name="other"))
    ended = start("other", objective="breaking")
    output, _ = ended.communicate(timeout=60)
    assert ended.returncode == 6, output
    assert "All workers died" in output


def test_a_study_that_is_not_there_is_named_before_anything_is_started(sqlite, home):
    make_study(sqlite, home)
    with pytest.raises(StudyError, match="there are: regime-1"):
        studies_to_serve(sqlite, ["regime-1", "regime-9"])
    done = run_command(home, sqlite.url.render_as_string(), "worker", "start", "regime-9")
    assert (done.returncode, "there are: regime-1" in done.stderr) == (1, True)
    assert not home.logs.exists()


class Deaf(Slot):
    """A slot that notes how it would start a worker, and stops its supervisor."""

    started: ClassVar[list[list[str]]] = []

    def start(self, words, environment):
        self.started.append(list(words))
        signal.raise_signal(signal.SIGTERM)


def supervise(database, home, names, *, forever):
    Deaf.started.clear()
    workers = Workers([Device("cpu", {})], forever=forever, make_slot=Deaf)
    assert fleet.supervise(database, home, names, workers, {}) is signal.SIGTERM
    return Deaf.started[0]


def supervise_for_ever(database, home, names):
    return supervise(database, home, names, forever=True)


def test_workers_of_a_deleted_study_wait_for_it_and_serve_no_other(sqlite, home):
    make_study(sqlite, home, random_document(1))
    delete_study(sqlite, "regime-1", open_store("storage/artifacts", home))
    assert supervise_for_ever(sqlite, home, ["regime-1"])[-2:] == ["--", "regime-1"]
    assert "--" not in supervise_for_ever(sqlite, home, [])


def test_a_worker_of_named_studies_that_were_all_deleted_serves_no_other(sqlite, home):
    make_study(sqlite, home, random_document(1, name="other"))
    assert supervise(sqlite, home, ["gone", "other"], forever=False)[-2:] == ["--", "other"]
    assert supervise(sqlite, home, ["gone"], forever=False)[-2:] == ["--", "gone"]


def test_workers_whose_study_is_deleted_end_and_their_supervisor_does_not_say_died(sqlite, home, gate, start):
    make_study(sqlite, home, random_document(4))
    running = start("regime-1")
    wait_until(lambda: began(gate), 60)
    delete_study(sqlite, "regime-1", open_store("storage/artifacts", home), force=True)
    (gate / "open").touch()
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert output.count("regime-1 was deleted") == 1
    assert "died" not in output
    assert "Traceback" not in output


def test_a_supervisor_fails_the_trials_that_nobody_owns_of_its_studies_that_are_done(sqlite, home):
    study = run_study(sqlite, home, random_document(1))
    orphan = optuna.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"point": 0, "attempt": 7})
    Mirror(sqlite, study).optuna_study.add_trial(orphan)
    supervise(sqlite, home, ["regime-1"], forever=False)
    assert_in_step(sqlite, study)


def test_a_supervisor_leaves_optuna_told_of_studies_that_are_done_too(sqlite, home):
    study, ledger = make_study(sqlite, home, random_document(1)), Ledger(sqlite)
    claim = ledger.claim([study.id], "dead")
    Mirror(sqlite, study).start(claim)
    ledger.finish(claim, "complete", 0.5, None, None)
    supervise_for_ever(sqlite, home, [])
    assert_in_step(sqlite, study)


def test_a_database_that_fails_while_optuna_is_told_does_not_change_how_a_supervisor_ended(sqlite, home, monkeypatch):
    make_study(sqlite, home, random_document(1))

    def away(self):
        raise StorageError("it does not answer")

    monkeypatch.setattr(Mirror, "settle", away)
    supervise_for_ever(sqlite, home, ["regime-1"])
