import contextlib
import itertools
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from rust_optuna import processes
from rust_optuna.errors import (
    CircuitBreakerError,
    DataError,
    FilmError,
    FingerprintError,
    LeaseLostError,
    RustOptunaError,
    StudyError,
)
from rust_optuna.search.creation import create_study, delete_study
from rust_optuna.search.ledger import MAX_FAILURES, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import status
from rust_optuna.search.studies import load_study
from rust_optuna.signals import ASKING
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import open_database
from rust_optuna.storage.roster import list_workers
from rust_optuna.storage.url import parse_url
from rust_optuna.study_file import read_study_file
from rust_optuna.worker import worker as worker_module
from rust_optuna.worker.objective import CrossValidationObjective, Outcome, StandInObjective
from rust_optuna.worker.serving import pin_runtime
from rust_optuna.worker.stopping import StopRequestedError, stop_on_signals
from rust_optuna.worker.worker import Worker
from tests import stand_ins
from tests.chaos.proxy import Proxy
from tests.reports import report
from tests.studies import (
    REPOSITORY,
    assert_each_once,
    assert_in_step,
    attempts,
    claim_point,
    configuration,
    end_leases,
    grid_document,
    make_study,
    make_worker,
    points,
    random_document,
    run_study,
    shown,
    wait_until,
)

ROUNDS = int(os.environ.get("RUST_OPTUNA_TEST_ROUNDS", "1"))
"""How often the full regimes are run; ten times is the acceptance test."""


class FakeObjective:
    """Reports epochs as the real objective does."""

    def __init__(self, values, then=None, between=lambda epoch: None, only_at=None):
        self.values, self.then, self.between, self.only_at = values, then, between, only_at

    def runtime(self):
        return {"objective": "STAND-IN fake"}

    def prepare(self, design):
        pass

    def pin(self):
        pass

    def __call__(self, claim, trial, on_epoch, on_advance):
        for epoch, value in enumerate(self.values, 1):
            on_epoch(epoch, value)
            self.between(epoch)
        if self.then is not None and self.only_at in (None, claim.number):
            raise self.then
        return Outcome(max(self.values), report(epoch=1))


def worker_with(database, home, objective):
    made = make_worker(database, home)
    made.stand_in = objective
    return made


def work(url, home, names, objective="peak"):
    """Run one worker in a process of its own."""
    with open_database(parse_url(url, home)) as database:
        make_worker(database, home, objective).run(names)


def url_of(database):
    return database.url.render_as_string(hide_password=False)


# Every point once


def test_one_worker_runs_every_point_of_both_regimes_once(database, home):
    first = run_study(database, home, random_document(5))
    second = run_study(database, home, grid_document())
    assert_each_once(database, first, 5)
    assert_each_once(database, second, 6)
    assert [row.value for row in points(database, first)] == [
        1 - abs(json.loads(row.parameters)["dropout_rate"] - 0.2) for row in points(database, first)
    ]


@pytest.mark.parametrize("again", range(ROUNDS))
def test_eight_processes_run_both_full_regimes_once(database, home, children, again):
    for name, count in (("regime_1", 100), ("regime_2", 32)):
        document = read_study_file(REPOSITORY / "studies" / f"{name}.toml")
        small = {**document.model, "weights": "random"}
        study = create_study(database, replace(document, model=small), home).study
        for _ in range(8):
            children.start(work, url_of(database), home, [study.name])
        assert set(children.join(300)) == {0}
        assert_each_once(database, study, count)
    taken = load_study(database, "regime-2").source
    assert taken.point == max(points(database, load_study(database, "regime-1")), key=lambda row: row.value).number


def test_a_worker_without_names_runs_all_open_studies(database, home):
    studies = [make_study(database, home, random_document(2, name=name)) for name in ("one", "two")]
    assert make_worker(database, home).run() == 4
    for study in studies:
        assert_each_once(database, study, 2)
    assert make_worker(database, home).run() == 0


def test_a_named_study_is_the_only_one_that_is_run(sqlite, home):
    one, two = (make_study(sqlite, home, random_document(2, name=name)) for name in ("one", "two"))
    assert make_worker(sqlite, home).run(["two", "two"]) == 2
    assert [row.state for row in points(sqlite, one)] == ["waiting"] * 2
    assert_each_once(sqlite, two, 2)
    with pytest.raises(StudyError, match="No study 'three'"):
        make_worker(sqlite, home).run(["three"])


def test_a_worker_is_entered_in_the_ledger(sqlite, home, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    study, entered = make_study(sqlite, home, random_document(1)), []
    worker = make_worker(sqlite, home)

    def look(trial):
        entered.extend(list_workers(sqlite))
        return 0.5

    worker.stand_in = StandInObjective("look", look)
    worker.run([])
    (row,) = entered
    assert (row.process, row.device, row.study) == (os.getpid(), "3", "regime-1")
    assert attempts(sqlite, study)[0].worker == row.worker


# Deaths


def test_killed_workers_lose_nothing(database, home, children, tmp_path, monkeypatch):
    """Two workers are killed in the middle of a point; the leases end, and a third finishes everything."""
    gate = tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv(stand_ins.GATE, str(gate))
    study = make_study(database, home, random_document(5))
    for _ in range(2):
        children.start(run_behind_the_gate, url_of(database), home, str(gate))
    wait_until(lambda: sorted(path.read_text() for path in gate.glob("*.began")) == ["0", "1"])
    children.kill()
    assert status(database, study).counts["running"] == 2
    (gate / "open").touch()
    end_leases(database)
    make_worker(database, home, "gated").run([study.name])

    assert [row.state for row in points(database, study)] == ["complete"] * 5
    assert [row.attempt for row in points(database, study)] == [2, 2, 1, 1, 1]
    assert [row.outcome for row in attempts(database, study, 0)] == ["lost", "complete"]
    assert_in_step(database, study)


def run_behind_the_gate(url, home, gate):
    os.environ[stand_ins.GATE] = gate
    work(url, home, ["regime-1"], "gated")


def test_a_worker_waits_for_the_last_points_of_others_in_case_they_die(sqlite, home, monkeypatch):
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.01)
    study = make_study(sqlite, home, random_document(2))
    Ledger(sqlite).claim([study.id], "dead")
    thread = threading.Thread(target=work, args=(url_of(sqlite), home, [study.name]))
    thread.start()
    wait_until(lambda: status(sqlite, study).counts["complete"] == 1)
    assert thread.is_alive()
    end_leases(sqlite)
    thread.join(30)
    assert not thread.is_alive()
    assert [row.state for row in points(sqlite, study)] == ["complete"] * 2


def test_a_study_made_anew_is_run_with_its_own_settings_by_the_worker_of_the_old_one(database, home, monkeypatch):
    ran = []

    class Recording(FakeObjective):
        def __init__(self, study):
            super().__init__([0.5], between=lambda epoch: ran.append(study.configuration.fixed["learning_rate"]))

    monkeypatch.setattr(Worker, "_objective", lambda self, study: Recording(study))
    idles = []

    def idle(self, seconds):
        idles.append(seconds)
        if len(idles) == 1:
            delete_study(database, "regime-1", open_store("storage/artifacts", home))
            fixed = {"learning_rate": 1e-2, "epsilon": 1e-7}
            idles.append(make_study(database, home, random_document(2, fixed=fixed)))
        elif len(ran) == 3:
            self.stop()

    monkeypatch.setattr(Worker, "_idle", idle)
    make_study(database, home, random_document(1))
    serving = Worker(database, home, open_store("storage/artifacts", home), forever=True)
    assert serving.run() == 3
    assert ran == [1e-3, 1e-2, 1e-2]
    assert_each_once(database, idles[1], 2)


def test_a_study_that_was_done_and_is_open_again_is_not_claimed_by_a_worker_that_has_forgotten_it(
    database, home, monkeypatch
):
    one, two = (make_study(database, home, random_document(2, name=name)) for name in ("one", "two"))
    tidy = Worker._tidy

    def tidy_and_open_again(self):
        row = tables.study.update().where(tables.study.c.id == one.id)
        database.transact(lambda c: c.execute(row.values(state="done")))
        tidy(self)
        database.transact(lambda c: c.execute(row.values(state="open")))

    monkeypatch.setattr(Worker, "_tidy", tidy_and_open_again)
    assert make_worker(database, home).run() == 2
    assert attempts(database, one) == []
    assert_each_once(database, two, 2)


def test_a_worker_waits_for_the_points_of_a_study_that_is_being_extended(database, home, monkeypatch):
    study = make_study(database, home, random_document(2))
    last = claim_point(Ledger(database), study.id, 1, "bob")
    states = ["drawing", "open"]

    def idle(self, seconds):
        state = tables.study.update().values(state=states.pop(0))
        database.transact(lambda c: c.execute(state))
        if not states:
            Ledger(database).release(last, "over to you")

    monkeypatch.setattr(Worker, "_idle", idle)
    assert make_worker(database, home).run([study.name]) == 2
    assert states == []


def test_a_worker_that_serves_for_ever_tells_optuna_what_the_dead_did_not(database, home, monkeypatch):
    study, ledger = make_study(database, home, random_document(1)), Ledger(database)
    claim = ledger.claim([study.id], "dead")
    Mirror(database, study).start(claim)
    ledger.finish(claim, "complete", 0.25, None, None)
    assert load_study(database, study.name).state == "done"
    monkeypatch.setattr(Worker, "_idle", lambda self, seconds: self.stop())
    serving = make_worker(database, home)
    serving.forever = True
    assert serving.run() == 0
    assert [(trial.state, trial.value) for trial in shown(database, study)] == [(TrialState.COMPLETE, 0.25)]


def test_a_result_of_a_lost_lease_is_dropped(database, home):
    study = make_study(database, home, random_document(1))
    zombie = Ledger(database)

    def steal(epoch):
        if epoch == 1 and zombie.abandon(loser.id, "presumed dead"):
            heir = zombie.claim([study.id], "heir")
            zombie.finish(heir, "complete", 0.99, None, None)

    loser = worker_with(database, home, FakeObjective([0.1, 0.2], between=steal))
    assert loser.run([study.name]) == 0
    assert [row.value for row in points(database, study)] == [0.99]
    assert [row.outcome for row in attempts(database, study)] == ["lost", "complete"]


def test_a_worker_notices_at_the_end_of_an_epoch_that_its_lease_is_lost(sqlite, home, monkeypatch):
    study = make_study(sqlite, home, random_document(1, lease_seconds=2))
    epochs = []

    def lose(epoch):
        epochs.append(epoch)
        if epoch == 1 and len(epochs) == 1:
            Ledger(sqlite).abandon(loser.id, "presumed dead")
            heir = Ledger(sqlite).claim([study.id], "heir")
            Ledger(sqlite).finish(heir, "complete", 0.99, None, None)
            # The keeper renews at a third of the lease and learns of it.
            renewals = []
            monkeypatch.setattr(Ledger, "renew", lambda self, claim: refuse(renewals, claim))
            wait_until(lambda: renewals)

    def refuse(renewals, claim):
        renewals.append(claim)
        raise LeaseLostError("gone")

    loser = worker_with(sqlite, home, FakeObjective([0.1] * 2000, between=lose))
    assert loser.run([study.name]) == 0
    assert len(epochs) < 2000


def test_a_deleted_study_ends_its_workers(database, home):
    study = make_study(database, home, random_document(3))
    objective = FakeObjective([0.1, 0.2], between=lambda epoch: drop())

    def drop():
        if load_names(database):
            delete_study(database, study.name, open_store("storage/artifacts", home), force=True)

    assert worker_with(database, home, objective).run([study.name]) == 0
    assert load_names(database) == []


class DeletingObjective(FakeObjective):
    """Has its study deleted at one moment."""

    def __init__(self, database, home, moment):
        super().__init__([0.1])
        self.database, self.home, self.moment = database, home, moment

    def at(self, moment):
        if moment == self.moment:
            delete_study(self.database, "regime-1", open_store("storage/artifacts", self.home), force=True)

    def prepare(self, design):
        self.at("preparing")

    def pin(self):
        self.at("pinning")

    def __call__(self, claim, trial, on_epoch, on_advance):
        self.at("training")
        epochs = itertools.count(1)
        if self.moment == "training":
            wait_until(lambda: on_epoch(next(epochs), 0.1))  # it ends for an error, not for its length
        self.at("storing")
        trial.set_system_attr("artifacts", "as Optuna names them")
        raise AssertionError("the trial is gone")


@pytest.mark.parametrize("moment", ["preparing", "pinning", "training", "storing"])
def test_a_worker_whose_study_was_deleted_says_so_in_one_line_and_ends(sqlite, home, caplog, moment):
    make_study(sqlite, home, random_document(3))
    assert worker_with(sqlite, home, DeletingObjective(sqlite, home, moment)).run([]) == 0
    said = [record.message for record in caplog.records if record.levelname != "INFO"]
    assert [line for line in said if "regime-1" in line or "could not" in line] == ["regime-1 was deleted"]
    assert "Traceback" not in caplog.text


def test_a_worker_whose_study_was_deleted_before_it_began_ends_well_where_a_supervisor_started_it(
    sqlite, home, caplog, monkeypatch
):
    study = make_study(sqlite, home, random_document(1, name="other"))
    monkeypatch.setenv("RUST_OPTUNA_SUPERVISOR", str(os.getppid()))
    assert make_worker(sqlite, home).run(["gone"]) == 0
    assert make_worker(sqlite, home).run(["gone", study.name]) == 1
    assert caplog.messages.count("gone was deleted") == 2


def load_names(database):
    return database.transact(lambda c: c.execute(sa.select(tables.study.c.name)).all())


# Stops


def test_a_stop_gives_the_point_back_at_the_end_of_the_epoch(database, home):
    study = make_study(database, home, random_document(2))
    stopped = worker_with(database, home, FakeObjective([0.1, 0.2, 0.3], between=lambda epoch: stopped.stop()))
    assert stopped.run([study.name]) == 0
    assert [row.state for row in points(database, study)] == ["waiting"] * 2
    assert [row.outcome for row in attempts(database, study)] == ["released"]
    assert shown(database, study)[0].state is TrialState.FAIL
    worker_with(database, home, FakeObjective([0.4])).run([study.name])
    assert_in_step(database, study)
    assert [row.attempt for row in points(database, study)] == [2, 1]


def test_a_stop_that_came_before_a_worker_makes_ready_is_heard(sqlite, home):
    make_study(sqlite, home, random_document(1))
    stopped = worker_with(sqlite, home, FakeObjective([0.1]))
    stopped.stand_in.prepare = lambda design: pytest.fail("it made ready")
    stopped.stop()
    assert stopped.run(["regime-1"]) == 0


@pytest.mark.parametrize("told_of", ["progress", "on_hashed"])
def test_a_worker_that_must_stop_computes_no_more_features(sqlite, home, told_of):
    """Its supervisor's death sends no signal: it is seen where progress is told."""
    study = make_study(sqlite, home, random_document(1))
    told = []
    listening = {told_of: lambda *films: told.append(films)}
    real = Worker(sqlite, home, open_store("storage/artifacts", home), **listening)
    progress = getattr(real._objective(study), told_of)
    progress(1, 20)
    real.stop()
    with pytest.raises(StopRequestedError):
        progress(2, 20)
    assert told == [(1, 20)]


@pytest.fixture
def proxy(postgresql):
    made = Proxy(postgresql.url.port or 5432)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.postgresql
def test_a_stop_is_heard_while_the_database_is_away(postgresql, home, proxy, monkeypatch):
    """By a worker that holds no point: whatever its grace, it does not wait for the database's return."""
    monkeypatch.setattr(worker_module, "LAST_WORDS_SECONDS", 0.0)
    ended = []
    with open_database(postgresql.url.set(host="127.0.0.1", port=proxy.port), patience=1e6) as database:
        idle = Worker(database, home, open_store("storage/artifacts", home), forever=True, grace=1e6)
        must_give_up, asked = database.give_up, threading.Event()

        def asks():
            asked.set()
            return must_give_up()

        database.give_up = asks
        thread = threading.Thread(target=lambda: ended.append(idle.run()), daemon=True)
        thread.start()
        proxy.refuse()
        proxy.cut()
        assert asked.wait(60)
        assert not ended
        idle.stop()
        thread.join(60)
    assert ended == [0]


def run_until_signalled(url, home, gate):
    """Run a worker whose objective reports epochs for ever."""
    with open_database(parse_url(url, home)) as database:
        made = worker_with(database, home, FakeObjective(Endless(Path(gate))))
        stop_on_signals(made.stop_request)
        made.run(["regime-1"])


class Endless:
    """Epochs without end; the second one says that it began."""

    def __init__(self, gate):
        self.gate = gate

    def __iter__(self):
        yield 0.1
        (self.gate / "epoch").touch()
        while True:
            yield 0.2


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_gives_the_point_back_and_ends_the_worker_well(sqlite, home, children, tmp_path, number):
    study = make_study(sqlite, home, random_document(2))
    child = children.start(run_until_signalled, url_of(sqlite), home, str(tmp_path))
    wait_until((tmp_path / "epoch").exists)
    os.kill(child.pid, number)
    child.join(30)
    assert child.exitcode == 0
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 2
    assert [row.outcome for row in attempts(sqlite, study)] == ["released"]


def test_a_second_signal_ends_the_worker_at_once_and_gives_the_point_back(sqlite, home):
    study = make_study(sqlite, home, random_document(1))

    def twice(epoch):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    before = {name: signal.getsignal(name) for name in ASKING}
    stopped = worker_with(sqlite, home, FakeObjective([0.1, 0.2], between=twice))
    try:
        stop_on_signals(stopped.stop_request)
        with pytest.raises(KeyboardInterrupt):
            stopped.run([study.name])
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    assert [(row.outcome, row.reason) for row in attempts(sqlite, study)] == [
        ("released", "the worker was interrupted")
    ]


@pytest.mark.parametrize(
    ("supervised", "numbers"),
    [
        (False, ["SIGXCPU", "SIGXCPU", "SIGUSR1", "SIGUSR2"]),
        (False, ["SIGTERM", "SIGUSR1"]),
        (True, ["SIGUSR1", "SIGTERM", "SIGUSR1"]),  # the scheduler's, and what the supervisor made of its own
    ],
)
def test_a_warning_does_not_insist(sqlite, home, monkeypatch, supervised, numbers):
    if supervised:
        monkeypatch.setenv(processes.SUPERVISOR, str(os.getppid()))
    study = make_study(sqlite, home, random_document(1))

    def warn(epoch):
        for number in numbers:
            signal.raise_signal(signal.Signals[number])
        numbers.clear()

    before = {name: signal.getsignal(name) for name in ASKING}
    stopped = worker_with(sqlite, home, FakeObjective([0.1, 0.2], between=warn))
    stopped.stop_request.grace = 600
    try:
        stop_on_signals(stopped.stop_request)
        assert stopped.run([study.name]) == 1
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    assert [row.outcome for row in attempts(sqlite, study)] == ["complete"]


def supervise_and_die(url, home, gate):
    """Start a worker as a supervisor does, and be killed."""
    pid = os.getpid()
    if os.fork() == 0:
        os.environ[processes.SUPERVISOR] = str(pid)
        run_until_signalled(url, home, gate)
        (Path(gate) / "ended").touch()
        os._exit(0)
    wait_until((Path(gate) / "epoch").exists)
    os.kill(pid, signal.SIGKILL)


def test_an_orphaned_worker_gives_its_point_back_and_ends(sqlite, home, children, tmp_path):
    study = make_study(sqlite, home, random_document(2))
    children.start(supervise_and_die, url_of(sqlite), home, str(tmp_path))
    wait_until((tmp_path / "ended").exists)
    assert [row.outcome for row in attempts(sqlite, study)] == ["released"]
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 2


# Failures


def test_a_point_that_fails_is_tried_again(database, home):
    study = run_study(database, home, random_document(2), "raising_at_first")
    assert [row.state for row in points(database, study)] == ["complete"] * 2
    # A point that failed waits behind those that did not.
    assert [(row.point, row.number, row.outcome) for row in attempts(database, study)] == [
        (0, 1, "failed"),
        (1, 1, "failed"),
        (0, 2, "complete"),
        (1, 2, "complete"),
    ]
    assert_in_step(database, study)


def test_a_point_that_always_fails_is_a_hole_with_its_reasons(database, home):
    study = make_study(database, home, random_document(3))
    make_worker(database, home, "raising_at_point_1").run([study.name])
    assert [row.state for row in points(database, study)] == ["complete", "hole", "complete"]
    reasons = [row.reason for row in attempts(database, study, 1)]
    assert reasons == ["ValueError: no luck at this point"] * MAX_FAILURES
    assert load_study(database, study.name).state == "done"
    assert_in_step(database, study)


def test_three_points_that_fail_alike_in_a_row_stop_a_worker(sqlite, home):
    study = make_study(sqlite, home, random_document(8))
    with pytest.raises(CircuitBreakerError, match=r"3 points failed in a row with the same error: .*no such luck"):
        make_worker(sqlite, home, "raising").run([study.name])
    assert [(row.point, row.outcome) for row in attempts(sqlite, study)] == [(n, "failed") for n in range(3)]
    assert {row.fault for row in attempts(sqlite, study)} == {"library"}


def test_a_value_that_is_not_finite_is_a_failure(sqlite, home):
    study = make_study(sqlite, home, random_document(1))
    make_worker(sqlite, home, "not_a_number").run([study.name])
    assert "nan" in attempts(sqlite, study)[0].reason
    assert points(sqlite, study)[0].state == "hole"
    assert {trial.state for trial in shown(sqlite, study)} == {TrialState.FAIL}


def test_a_pruned_trial_keeps_its_last_intermediate_value(database, home):
    study = make_study(database, home, random_document(1))
    worker_with(database, home, FakeObjective([0.3, 0.2], then=optuna.TrialPruned())).run([study.name])
    assert [(row.state, row.value) for row in points(database, study)] == [("pruned", 0.2)]
    trial = shown(database, study)[0]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, 0.2, {1: 0.3, 2: 0.2})
    assert load_study(database, study.name).state == "done"


def test_a_trial_pruned_before_its_first_value_has_none(sqlite, home):
    study = run_study(sqlite, home, random_document(1), "pruned")
    assert [(row.state, row.value) for row in points(sqlite, study)] == [("pruned", None)]
    assert shown(sqlite, study)[0].state is TrialState.PRUNED


def test_what_is_missing_on_this_machine_costs_the_point_nothing_but_the_try(sqlite, home):
    study = make_study(sqlite, home, random_document(1))
    with pytest.raises(DataError, match="films are elsewhere"):
        worker_with(sqlite, home, FakeObjective([], then=DataError("films are elsewhere"))).run([study.name])
    assert (points(sqlite, study)[0].state, points(sqlite, study)[0].failures) == ("waiting", 0)
    assert attempts(sqlite, study)[0].outcome == "released"
    assert shown(sqlite, study)[0].state is TrialState.FAIL


# Identity


def test_another_objective_than_the_studys_is_refused(database, home):
    study = make_study(database, home, random_document(2))
    pin_runtime(database, study, {"objective": "cross-validation", "numerics": 1})
    with pytest.raises(
        FingerprintError, match=r"objective is STAND-IN tests.stand_ins:peak here, but cross-validation"
    ):
        make_worker(database, home).run([study.name])
    assert attempts(database, study) == []
    pin_runtime(database, study, {"objective": "cross-validation", "numerics": 1})


RUNTIME = {"objective": "cross-validation", "numerics": 3, "preprocessing": 4, "tensorflow": "2.21", "pillow": "12.0"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"numerics": 4}, "begun by an earlier version of rust_optuna"),
        ({"preprocessing": 5}, "begun by an earlier version of rust_optuna"),
        ({"numerics": 2}, "begun by another version of rust_optuna"),
        ({"tensorflow": "2.22"}, "tensorflow is 2.22 here, but 2.21 for"),
        ({"pillow": "12.1"}, "pillow is 12.1 here, but 12.0 for"),
    ],
)
def test_a_worker_whose_versions_compute_other_numbers_is_refused(sqlite, home, change, said):
    study = make_study(sqlite, home, random_document(1))
    pin_runtime(sqlite, study, RUNTIME)
    with pytest.raises(FingerprintError, match=said):
        pin_runtime(sqlite, study, RUNTIME | change)
    pin_runtime(sqlite, study, RUNTIME)


def test_a_study_begun_before_preprocessing_was_compared_is_refused_in_plain_words(sqlite, home):
    study = make_study(sqlite, home, random_document(1))
    pin_runtime(sqlite, study, {"objective": "cross-validation", "numerics": 2, "tensorflow": "2.21", "keras": "3.15"})
    with pytest.raises(FingerprintError, match=r"an earlier version .*give its file another name.*best regime-1"):
        worker_with(sqlite, home, None).run([study.name])


def test_another_stand_in_is_refused_too(sqlite, home):
    study = run_study(sqlite, home, random_document(2), "level")
    with pytest.raises(FingerprintError, match="level for its first worker"):
        pin_runtime(sqlite, study, {"objective": "STAND-IN tests.stand_ins:peak"})


def test_other_weights_than_the_studys_are_refused(sqlite, home, monkeypatch):
    study = make_study(sqlite, home, random_document(1))
    monkeypatch.setattr(CrossValidationObjective, "runtime", lambda self: {"objective": "cross-validation"})
    monkeypatch.setattr("rust_optuna.worker.objective.trial_weights_scheme", lambda trial: "sha256:other")
    with pytest.raises(FingerprintError, match="weights 'random' on this machine are not those"):
        Worker(sqlite, home, open_store("storage/artifacts", home)).run([study.name])
    assert points(sqlite, study)[0].state == "waiting"


def test_the_supervisors_name_for_its_child_is_used(sqlite, home, monkeypatch):
    monkeypatch.setenv(processes.WORKER_ID, "child-7")
    study = run_study(sqlite, home, random_document(1))
    assert attempts(sqlite, study)[0].worker == "child-7"


def test_a_study_keeps_its_configuration_while_it_runs(sqlite, home):
    study = run_study(sqlite, home, random_document(2))
    assert load_study(sqlite, study.name).configuration == replace(configuration(random_document(2)), manifest=None)


def test_an_intermediate_value_that_cannot_be_shown_does_not_fail_the_point(sqlite, home, monkeypatch):
    def broken(self, value, step):
        raise optuna.exceptions.StorageInternalError("the database is away")

    study = make_study(sqlite, home, random_document(1))
    monkeypatch.setattr(optuna.Trial, "report", broken)
    assert worker_with(sqlite, home, FakeObjective([0.1, 0.2])).run([study.name]) == 1
    assert [row.outcome for row in attempts(sqlite, study)] == ["complete"]


@pytest.mark.parametrize("error", [optuna.exceptions.StorageInternalError("away"), KeyboardInterrupt()])
def test_a_finished_point_stays_complete_whatever_happens_while_optuna_is_told(sqlite, home, monkeypatch, error):
    def broken(self, *arguments):
        raise error

    study = make_study(sqlite, home, random_document(1))
    with monkeypatch.context() as broken_mirror:
        broken_mirror.setattr(Mirror, "tell", broken)
        broken_mirror.setattr(Mirror, "reconcile", lambda self: None)
        broken_mirror.setattr(Mirror, "sweep", lambda self: None)
        with contextlib.suppress(KeyboardInterrupt):
            worker_with(sqlite, home, FakeObjective([0.1, 0.2])).run([study.name])
    Mirror(sqlite, study).reconcile()
    assert_in_step(sqlite, study)
    assert [trial.state.name for trial in Mirror(sqlite, study).optuna_study.trials] == ["COMPLETE"]


def test_a_fault_of_the_machine_stops_its_worker_and_uses_up_no_attempt(sqlite, home):
    error = OSError(28, "No space left on device")
    study = make_study(sqlite, home, random_document(2))
    with pytest.raises(RustOptunaError, match="This machine failed while it ran point 0"):
        worker_with(sqlite, home, FakeObjective([0.1], then=error)).run([study.name])
    assert [(row.state, row.failures) for row in points(sqlite, study)] == [("waiting", 0)] * 2


def test_a_point_that_does_not_fit_into_memory_is_a_hole_and_the_others_go_on(sqlite, home):
    study = make_study(sqlite, home, random_document(2))
    objective = FakeObjective([0.1], then=MemoryError("2 GB"), only_at=0)
    assert worker_with(sqlite, home, objective).run([study.name]) == 1
    assert [row.state for row in points(sqlite, study)] == ["hole", "complete"]
    assert {(row.fault, row.reason) for row in attempts(sqlite, study, 0)} == {("memory", "out of memory: 2 GB")}


def test_no_path_of_a_film_reaches_the_database(sqlite, home):
    study = make_study(sqlite, home, random_document(1))
    error = FilmError("0" * 64, "is gone", "/films/Smith-John/1.png")
    assert "Smith-John" in str(error)
    with pytest.raises(FilmError):
        worker_with(sqlite, home, FakeObjective([0.1], then=error)).run([study.name])
    assert [row.reason for row in attempts(sqlite, study)] == ["film 000000000000 is gone"]


def test_real_scores_are_not_built_on_a_stand_ins(sqlite, home, monkeypatch):
    run_study(sqlite, home, random_document(2))
    second = make_study(sqlite, home, grid_document())
    monkeypatch.setattr(CrossValidationObjective, "runtime", lambda self: {"objective": "cross-validation"})
    monkeypatch.setattr(CrossValidationObjective, "prepare", lambda self, design: None)
    with pytest.raises(FingerprintError, match="STAND-IN"):
        Worker(sqlite, home, open_store("storage/artifacts", home)).run([second.name])
