import pytest

from rust_optuna.errors import CircuitBreakerError
from rust_optuna.search.ledger import Ledger
from rust_optuna.storage import tables
from rust_optuna.storage.roster import any_serves, list_workers, points_finished_by
from tests.studies import end_leases, make_study, make_worker, random_document


def beat(database, worker, seconds_ago):
    past = tables.worker.update().where(tables.worker.c.id == worker)
    database.transact(lambda c: c.execute(past.values(beat_at=tables.database_now() - seconds_ago)))


def test_each_worker_is_listed_with_what_it_runs_and_when_it_was_heard_of(database, home):
    study = make_study(database, home, random_document(4))
    ledger = Ledger(database)
    for name, device in (("ann", "0"), ("bob", "-1")):
        ledger.register(name, host="host", process=7, device=device)
    claim = ledger.claim([study.id], "ann")
    ann, bob = list_workers(database)
    assert (ann.worker, ann.host, ann.process, ann.device) == ("ann", "host", 7, "0")
    assert (ann.study, ann.point, ann.attempt) == ("regime-1", claim.number, 1)
    assert 0 <= ann.running_seconds < 60
    assert 0 < ann.lease_seconds <= claim.lease_seconds
    assert (bob.worker, bob.study, bob.point, bob.running_seconds) == ("bob", None, None, None)
    beat(database, "bob", 100)
    assert list_workers(database)[1].beat_seconds == pytest.approx(100, abs=60)


def test_a_worker_that_is_silent_is_listed_as_long_as_it_holds_a_point(database, home):
    study = make_study(database, home, random_document(4))
    ledger = Ledger(database)
    for name in ("ann", "bob"):
        ledger.register(name, host="host", process=7, device="0")
        beat(database, name, 5000)
    ledger.claim([study.id], "ann")
    end_leases(database)
    (ann,) = list_workers(database)
    assert (ann.worker, ann.lease_seconds < 0) == ("ann", True)
    assert [each.worker for each in list_workers(database, recent_seconds=None)] == ["ann", "bob"]


def test_points_finished_are_counted_by_worker(database, home):
    study = make_study(database, home, random_document(3))
    worker = make_worker(database, home)
    assert points_finished_by(database, worker.id) == 0
    worker.run([study.name])
    assert points_finished_by(database, worker.id) == 3
    assert points_finished_by(database, "nobody") == 0


def test_a_worker_that_has_ended_is_not_listed(database, home):
    study = make_study(database, home, random_document(3))
    ledger = Ledger(database)
    ledger.register("killed", host="host", process=7, device="0")
    ledger.claim([study.id], "killed")
    make_study(database, home, random_document(1, name="another"))
    make_worker(database, home).run(["another"])
    assert [each.worker for each in list_workers(database, recent_seconds=None)] == ["killed"]
    make_study(database, home, random_document(3, name="other"))
    with pytest.raises(CircuitBreakerError):
        make_worker(database, home, "raising").run(["other"])
    ledger.abandon("killed", "its supervisor saw it die")
    assert list_workers(database, recent_seconds=None) == []


def test_a_worker_serves_from_its_first_sign_of_life_on(database):
    ledger = Ledger(database)
    for name in ("ann", "bob"):
        ledger.register(name, host="host", process=7, device="0")
    assert not any_serves(database, ["ann", "bob"])
    ledger.beat("bob")
    assert any_serves(database, ["ann", "bob"])
    assert not any_serves(database, ["ann"])
