import json
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rust_optuna.errors import LeaseLostError
from rust_optuna.paths import Home
from rust_optuna.search import ledger as ledger_module
from rust_optuna.search.ledger import MAX_FAILURES, MAX_LOSSES, Claim, Ledger, add_points
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database, open_database
from rust_optuna.storage.url import parse_url
from tests.reports import report
from tests.studies import claim_point, end_leases

REPORT = report()


def enter_study(database, points, *, name="a-study", state="open", lease_seconds=60):
    """Enter a study of bare points, which no Optuna trial shows, and return its row's number."""

    def enter(connection):
        row = tables.study.insert().values(
            name=name,
            state=state,
            configuration="{}",
            fingerprint="{}",
            notes="[]",
            lease_seconds=lease_seconds,
            created_at=tables.database_now(),
        )
        study_id = connection.execute(row).inserted_primary_key[0]
        add_points(connection, study_id, [{"dropout_rate": number / 10} for number in range(points)], first=0)
        return study_id

    return database.transact(enter)


def rows(database, table=tables.point):
    return database.transact(lambda c: list(c.execute(sa.select(table).order_by(table.c.id)).all()))


def state_of(database, study_id):
    query = sa.select(tables.study.c.state).where(tables.study.c.id == study_id)
    return database.transact(lambda c: c.execute(query).scalar_one())


@pytest.fixture
def study(database):
    return enter_study(database, 3)


@pytest.fixture
def ledger(database, study):
    return Ledger(database)


def test_a_claim_takes_the_first_waiting_point_and_says_all_about_it(ledger, study):
    first, second = ledger.claim([study], "ann"), ledger.claim([study], "bob")
    assert (first.number, first.attempt, first.worker, first.study) == (0, 1, "ann", "a-study")
    assert (first.parameters, first.lease_seconds) == ({"dropout_rate": 0.0}, 60)
    assert (second.number, second.worker) == (1, "bob")


def test_the_studies_are_served_in_the_order_given(database, ledger, study):
    other = enter_study(database, 1, name="another")
    assert ledger.claim([other, study], "ann").study == "another"
    assert ledger.claim([other, study], "bob").study == "a-study"


@pytest.mark.parametrize("state", ["drawing", "done"])
def test_only_open_studies_are_served(database, state):
    study = enter_study(database, 1, state=state)
    assert Ledger(database).claim([study], "ann") is None


def test_nothing_is_left_to_claim_in_the_end(ledger, study):
    assert [ledger.claim([study], name).number for name in ("ann", "bob", "eve")] == [0, 1, 2]
    assert ledger.claim([study], "late") is None


def test_a_finished_point_never_changes(database, ledger, study):
    claim = ledger.claim([study], "ann")
    ledger.finish(claim, "complete", 0.7, REPORT, "an-artifact")
    before = rows(database)[0], rows(database, tables.attempt)[0]
    ledger.finish(claim, "complete", 0.7, REPORT, "an-artifact")  # as after a lost answer
    ledger.fail(claim, "late")
    ledger.release(claim, "later")
    ledger.abandon("ann", "latest")
    for stale in (
        lambda: ledger.renew(claim),
        lambda: ledger.finish(claim, "pruned", 0.9, None, None),
        lambda: ledger.record_trial(claim, 99),
    ):
        with pytest.raises(LeaseLostError):
            stale()
    assert (rows(database)[0], rows(database, tables.attempt)[0]) == before
    assert (before[0].state, before[0].value) == ("complete", 0.7)
    assert (before[1].outcome, before[1].artifact) == ("complete", "an-artifact")
    assert json.loads(before[1].result) == REPORT.to_json()


def test_a_zombies_result_is_refused_once_its_lease_has_ended(database, ledger, study):
    zombie = ledger.claim([study], "ann")
    end_leases(database)
    heir = ledger.claim([study], "bob")
    assert (heir.number, heir.attempt) == (zombie.number, 2)
    with pytest.raises(LeaseLostError):
        ledger.finish(zombie, "complete", 0.1, None, None)
    with pytest.raises(LeaseLostError):
        ledger.renew(zombie)
    ledger.fail(zombie, "nobody cares")
    ledger.finish(heir, "complete", 0.9, None, None)
    with pytest.raises(LeaseLostError):
        ledger.finish(zombie, "complete", 0.1, None, None)
    assert rows(database)[0].value == 0.9
    assert [row.outcome for row in rows(database, tables.attempt)] == ["lost", "complete"]


def test_a_workers_own_earlier_attempt_at_a_point_is_stale_too(database, ledger, study):
    earlier = ledger.claim([study], "ann")
    end_leases(database)
    later = ledger.claim([study], "ann")
    assert (earlier.number, later.number, later.attempt) == (0, 0, 2)
    with pytest.raises(LeaseLostError):
        ledger.finish(earlier, "complete", 0.1, None, None)
    with pytest.raises(LeaseLostError):
        ledger.renew(earlier)
    ledger.fail(earlier, "late")
    ledger.finish(later, "complete", 0.9, None, None)
    assert (rows(database)[0].state, rows(database)[0].value) == ("complete", 0.9)


def test_a_claim_whose_answer_was_lost_is_given_again(database, ledger, study):
    claim = ledger.claim([study], "ann")
    aged = tables.point.update().where(tables.point.c.id == claim.point_id).values(lease_end=tables.database_now() + 1)
    database.transact(lambda c: c.execute(aged))
    assert ledger.claim([study], "ann") == claim
    row = rows(database)[0]
    assert (row.state, row.attempt, row.losses) == ("running", 1, 0)
    assert row.lease_end > database.transact(lambda c: c.execute(sa.select(tables.database_now())).scalar_one()) + 30
    ledger.finish(claim, "complete", 0.5, None, None)
    assert ledger.claim([study], "ann").number == 1


def test_a_renewed_lease_does_not_end(database, ledger, study):
    claim = ledger.claim([study], "ann")
    end_leases(database)
    ledger.renew(claim)
    assert ledger.expire(study) == 0
    assert ledger.claim([study], "bob").number == 1


def test_a_dead_workers_point_waits_again_as_soon_as_another_renews_its_lease(database, ledger, study):
    ledger.claim([study], "dead")
    end_leases(database)
    ledger.renew(claim_point(ledger, study, 1, "alive"))
    assert [row.state for row in rows(database)] == ["waiting", "running", "waiting"]
    claim = ledger.claim([study], "dead")
    end_leases(database)
    with pytest.raises(LeaseLostError):
        ledger.renew(Claim(**{**vars(claim), "attempt": 99}))
    assert [row.state for row in rows(database)] == ["waiting"] * 3


def test_a_beat_goes_with_each_renewal(database, ledger, study):
    ledger.register("ann", host="here", process=7, device="0")
    past = tables.worker.update().values(beat_at=0.0)
    database.transact(lambda c: c.execute(past))
    ledger.renew(ledger.claim([study], "ann"))
    assert rows(database, tables.worker)[0].beat_at > 1e9


def test_a_worker_is_entered_once(database, ledger):
    ledger.register("ann", host="here", process=7, device="0")
    ledger.register("ann", host="here", process=7, device="1")
    assert [row.device for row in rows(database, tables.worker)] == ["1"]


def test_a_worker_that_is_entered_leaves_the_others_as_they_were(database, ledger):
    ledger.register("ann", host="here", process=7, device="0")
    ledger.register("bob", host="there", process=8, device="x" * 1000)
    ledger.register("bob", host="there", process=8, device="y" * 1000)
    database.transact(lambda c: c.execute(tables.worker.update().values(beat_at=0.0)))
    ledger.beat("bob")
    found = {row.id: row for row in rows(database, tables.worker)}
    assert {name: (row.host, row.process, row.device) for name, row in found.items()} == {
        "ann": ("here", 7, "0"),
        "bob": ("there", 8, "y" * 255),  # as much as the column takes
    }
    assert (found["ann"].beat_at, found["bob"].beat_at > 1e9) == (0.0, True)


def now(database):
    return database.transact(lambda c: c.execute(sa.select(tables.database_now())).scalar_one())


def test_a_lease_lasts_as_long_as_its_study_says_from_the_claim_and_from_each_renewal(database, ledger):
    study = enter_study(database, 1, name="patient", lease_seconds=5000)
    before = now(database)
    claim = ledger.claim([study], "ann")
    assert before + 5000 <= rows(database)[-1].lease_end <= now(database) + 5000
    end_leases(database)
    before = now(database)
    ledger.renew(claim)
    assert before + 5000 <= rows(database)[-1].lease_end <= now(database) + 5000


def test_the_trial_that_shows_a_waiting_point_shows_its_first_attempt_and_no_other(database, ledger, study):
    first, second = (row.id for row in rows(database)[:2])
    ledger.show_waiting(first, 7)
    ledger.show_waiting(second, 8)
    claim = ledger.claim([study], "ann")
    assert (claim.point_id, claim.trial) == (first, 7)
    assert ledger.claim([study], "ann").trial == 7  # as after a lost answer
    ledger.show_waiting(first, 9)  # too late: it is an attempt's now
    assert [row.trial for row in rows(database)] == [7, 8, None]
    ledger.release(claim, "no")
    again = ledger.claim([study], "ann")
    assert (again.point_id, again.attempt, again.trial) == (first, 2, None)
    assert [row.trial for row in rows(database, tables.attempt)] == [7, None]
    ledger.record_trial(again, 10)
    assert [row.trial for row in rows(database)] == [10, 8, None]
    assert [row.trial for row in rows(database, tables.attempt)] == [7, 10]


def test_what_is_shown_is_noted_of_that_attempt_alone(database, ledger, study):
    ann, bob = ledger.claim([study], "ann"), ledger.claim([study], "bob")
    ledger.release(ann, "no")
    ledger.release(bob, "no")
    ledger.release(ledger.claim([study], "ann"), "no")
    ledger.mark_shown(ann.point_id, 1)
    shown = [(row.point_id, row.number, row.shown) for row in rows(database, tables.attempt)]
    assert shown == [(ann.point_id, 1, 1), (bob.point_id, 1, 0), (ann.point_id, 2, 0)]


def test_three_failures_make_a_hole_and_the_reasons_are_kept(database, ledger):
    study = enter_study(database, 1, name="one-point")
    for number in range(MAX_FAILURES):
        assert rows(database)[-1].state == "waiting"
        ledger.fail(ledger.claim([study], "ann"), f"reason {number}")
    assert MAX_FAILURES == 3
    assert (rows(database)[-1].state, rows(database)[-1].lease_owner) == ("hole", None)
    assert [row.reason for row in rows(database, tables.attempt)] == ["reason 0", "reason 1", "reason 2"]
    assert ledger.claim([study], "ann") is None


def test_whatever_an_error_says_its_end_is_recorded(database, ledger):
    study = enter_study(database, 1, name="one-point")
    ledger.fail(ledger.claim([study], "ann"), "bone \N{BONE} \0 \udc80 " + "x" * 100_000)
    reason = rows(database, tables.attempt)[-1].reason
    assert reason.startswith("bone \N{BONE}  ? xxx")
    assert len(reason) > 9_000


def test_a_result_of_any_length_is_kept(database, ledger, study):
    long = report(curve=(0.123456789,) * 20_000)
    ledger.finish(ledger.claim([study], "ann"), "complete", 0.5, long, None)
    assert json.loads(rows(database, tables.attempt)[-1].result) == long.to_json()


def test_a_point_that_failed_waits_behind_those_that_did_not(ledger, study):
    ledger.fail(ledger.claim([study], "ann"), "no luck")
    assert [ledger.claim([study], name).number for name in ("ann", "bob", "eve")] == [1, 2, 0]


def test_holes_are_tried_again_when_asked_for_and_only_they(database, ledger):
    study = enter_study(database, 2, name="two-points")
    ledger.finish(claim_point(ledger, study, 1), "complete", 0.5, None, None)
    for _ in range(MAX_FAILURES):
        ledger.fail(ledger.claim([study], "ann"), "no luck")
    assert state_of(database, study) == "done"
    assert ledger.retry_holes(study) == 1
    assert ledger.retry_holes(study) == 0
    assert state_of(database, study) == "open"
    attempts = rows(database)[-2].attempt
    again = ledger.claim([study], "ann")
    assert (again.number, again.attempt) == (0, attempts + 1)
    ledger.finish(again, "complete", 0.6, None, None)
    assert [row.state for row in rows(database)[-2:]] == ["complete", "complete"]


def make_holes(ledger, study):
    while claim := ledger.claim([study], "ann"):
        ledger.fail(claim, "no luck")


def test_a_hole_that_is_tried_again_has_all_its_attempts_again(database, ledger):
    study = enter_study(database, 1, name="one-point")
    for _ in range(MAX_LOSSES - 1):
        ledger.release(ledger.claim([study], "ann"), "stopped")
    make_holes(ledger, study)
    ledger.retry_holes(study)
    assert (rows(database)[-1].failures, rows(database)[-1].losses) == (0, 0)


def test_holes_of_another_study_are_left_alone(database, ledger):
    mine, other = (enter_study(database, 1, name=name) for name in ("mine", "other"))
    make_holes(ledger, mine)
    make_holes(ledger, other)
    assert ledger.retry_holes(mine) == 1
    assert (state_of(database, mine), state_of(database, other)) == ("open", "done")
    assert [row.state for row in rows(database)[-2:]] == ["waiting", "hole"]
    make_holes(ledger, mine)
    assert ledger.accept_holes(mine) == 1
    assert [row.accepted for row in rows(database)[-2:]] == [1, 0]


def test_a_study_that_is_being_extended_is_not_opened_by_a_retry(database, ledger):
    study = enter_study(database, 1, name="one-point")
    make_holes(ledger, study)
    drawing = tables.study.update().where(tables.study.c.id == study).values(state="drawing")
    database.transact(lambda c: c.execute(drawing))
    ledger.retry_holes(study)
    assert state_of(database, study) == "drawing"


def test_who_looks_for_a_point_closes_a_study_whose_last_two_ended_at_once(database, ledger):
    """Each of the two saw the other's point running, so neither closed the study."""
    study, other = (enter_study(database, 1, name=name) for name in ("one-point", "another"))
    complete = tables.point.update().where(tables.point.c.study_id == study).values(state="complete")
    database.transact(lambda c: c.execute(complete))
    assert ledger.claim([study], "ann") is None
    assert (state_of(database, study), state_of(database, other)) == ("done", "open")


def test_accepted_holes_are_kept_and_not_tried_again(database, ledger):
    study = enter_study(database, 1, name="one-point")
    for _ in range(MAX_FAILURES):
        ledger.fail(ledger.claim([study], "ann"), "no luck", "memory")
    assert ledger.accept_holes(study) == 1
    assert ledger.accept_holes(study) == 0
    assert ledger.retry_holes(study) == 0
    assert (rows(database)[-1].state, rows(database)[-1].accepted, state_of(database, study)) == ("hole", 1, "done")
    assert {row.fault for row in rows(database, tables.attempt)} == {"memory"}


def test_open_studies_are_listed_oldest_first(database, ledger, study):
    later = enter_study(database, 1, name="another")
    third = enter_study(database, 1, name="third", state="drawing")
    enter_study(database, 1, name="fourth", state="done")
    assert [(name, key.id) for name, key in ledger.open_studies().items()] == [("a-study", study), ("another", later)]
    every = ledger.open_studies(drawing=True)
    assert [(name, key.id) for name, key in every.items()] == [("a-study", study), ("another", later), ("third", third)]
    assert ledger.claim([study], "ann").study_key == every["a-study"]


def test_a_study_is_untold_from_the_end_of_an_attempt_until_that_is_shown(database, ledger, study):
    enter_study(database, 1, name="another")
    claim = ledger.claim([study], "ann")
    assert ledger.untold() == []
    ledger.release(claim, "no")
    ledger.release(ledger.claim([study], "bob"), "no")
    assert ledger.untold() == ["a-study"]
    ledger.mark_shown(claim.point_id, 1)
    ledger.mark_shown(claim.point_id, 2)
    assert ledger.untold() == []


def test_an_attempt_that_is_no_longer_ones_own_cannot_be_given_up(database, ledger, study):
    claim = ledger.claim([study], "ann")
    assert ledger.release(claim, "first") is True
    assert ledger.release(claim, "again, as after a lost answer") is True
    assert ledger.fail(claim, "third") is False
    assert [row.reason for row in rows(database, tables.attempt)] == ["first"]


def test_twenty_losses_make_a_hole_and_are_not_counted_with_failures(database, ledger):
    study = enter_study(database, 1, name="one-point")
    for _ in range(MAX_FAILURES - 1):
        ledger.fail(ledger.claim([study], "ann"), "failed")
    for number in range(MAX_LOSSES):
        assert rows(database)[-1].state == "waiting"
        claim = ledger.claim([study], "ann")
        if number % 2:
            end_leases(database)
            assert ledger.expire(study) == 1
        else:
            ledger.release(claim, "stopped")
    assert MAX_LOSSES == 20
    assert (rows(database)[-1].state, state_of(database, study)) == ("hole", "done")
    assert [row.number for row in rows(database, tables.attempt)] == list(range(1, MAX_LOSSES + MAX_FAILURES))


def test_what_a_dead_worker_ran_waits_again_at_once(database, ledger, study):
    ledger.claim([study], "ann"), ledger.claim([study], "bob")
    assert ledger.abandon("ann", "killed") == 1
    assert ledger.abandon("ann", "killed") == 0
    assert [row.state for row in rows(database)] == ["waiting", "running", "waiting"]
    assert (rows(database, tables.attempt)[0].outcome, rows(database, tables.attempt)[0].reason) == ("lost", "killed")


def test_a_study_is_done_when_no_point_waits_or_runs(database, ledger, study):
    claims = [ledger.claim([study], name) for name in ("ann", "bob", "eve")]
    ledger.finish(claims[0], "complete", 0.5, None, None)
    ledger.finish(claims[1], "pruned", None, None, None)
    assert state_of(database, study) == "open"
    for _ in range(MAX_FAILURES):
        ledger.fail(claims[2], "no")
        claims[2] = ledger.claim([study], "ann")
    assert state_of(database, study) == "done"


def claim_all(url, barrier, study, name):
    with open_database(parse_url(url, Home(Path("/nowhere")))) as database:
        ledger = Ledger(database)
        barrier.wait()
        while claim := ledger.claim([study], name):
            ledger.finish(claim, "complete", 0.5, None, None)


def test_processes_that_claim_at_once_take_each_point_once(database, children):
    study = enter_study(database, 40)
    barrier = children.context.Barrier(6)
    url = database.url.render_as_string(hide_password=False)
    for number in range(6):
        children.start(claim_all, url, barrier, study, f"worker-{number}")
    assert children.join() == [0] * 6
    assert [row.state for row in rows(database)] == ["complete"] * 40
    assert sorted(row.point_id for row in rows(database, tables.attempt)) == [row.id for row in rows(database)]
    assert state_of(database, study) == "done"


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_one_who_claims_does_not_wait_for_another_nor_miss_what_is_free(server, request):
    """SQLite admits one writer at a time; on a server, only the claimed point is locked."""
    database = request.getfixturevalue(server)
    study = enter_study(database, 3)
    with open_database(database.url) as slow, slow.engine.begin() as connection:
        slow.transact = lambda function: function(connection)
        first = Ledger(slow).claim([study], "slow")
        others = [Ledger(database).claim([study], name) for name in ("ann", "bob", "cid")]
        assert [first.number, others[0].number, others[1].number, others[2]] == [0, 1, 2, None]


def test_an_ended_lease_goes_to_one_of_those_who_want_it(database):
    study = enter_study(database, 1)
    for _ in range(10):
        Ledger(database).claim([study], "dead")
        end_leases(database)
        barrier, winners = threading.Barrier(4), []

        def want(name, barrier=barrier, winners=winners):
            with open_database(database.url) as mine:
                barrier.wait()
                if claim := Ledger(mine).claim([study], name):
                    winners.append(claim)

        threads = [threading.Thread(target=want, args=(f"heir {number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        # Undone without counting as a loss.
        back = tables.point.update().values(state="waiting", losses=0, lease_owner=None, lease_end=None)
        database.transact(lambda c, back=back: c.execute(back))


# Against a model


@dataclass
class PointModel:
    """What a point should be."""

    state: str = "waiting"
    owner: str | None = None
    ended: bool = False
    failures: int = 0
    value: float | None = None
    outcomes: list[str] = field(default_factory=list)

    @property
    def losses(self) -> int:
        return sum(outcome in ("lost", "released") for outcome in self.outcomes)

    def holds(self, claim: Claim) -> bool:
        return self.state == "running" and self.owner == claim.worker and len(self.outcomes) == claim.attempt

    def give_up(self, outcome: str, most_losses: int) -> None:
        self.outcomes[-1] = outcome
        self.failures += outcome == "failed"
        self.owner = None
        self.state = "hole" if self.failures >= MAX_FAILURES or self.losses >= most_losses else "waiting"


WORKERS = ("ann", "bob", "eve")
LOSSES = 4


class LedgerMachine(RuleBasedStateMachine):
    """Workers that claim, renew, finish, fail, release, die and come back late, in any order."""

    template: Path

    @initialize(points=st.integers(1, 4))
    def begin(self, points):
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(self.template, self.folder / "ledger.db")
        self.database = Database(parse_url(f"sqlite:///{self.folder}/ledger.db", Home(self.folder)))
        self.ledger = Ledger(self.database)
        self.study = enter_study(self.database, points)
        self.points = [PointModel() for _ in range(points)]
        self.claims: list[Claim] = []

    def teardown(self):
        if hasattr(self, "database"):
            self.database.close()
            shutil.rmtree(self.folder)

    def expire(self):
        ended = [point for point in self.points if point.state == "running" and point.ended]
        for point in ended:
            point.give_up("lost", LOSSES)
        return len(ended)

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker):
        # What ends a study closes it, and a closed study hands out nothing; lapsed leases do not close one.
        self.expire()
        queued = [(p.failures, number) for number, p in enumerate(self.points) if p.state == "waiting"]
        waiting = [number for _, number in sorted(queued)]
        held = [point for point in self.points if point.state == "running" and point.owner == worker]
        claim = self.ledger.claim([self.study], worker)
        if held:
            assert self.points[claim.number] is held[0]
            assert claim.attempt == len(held[0].outcomes)
            return
        if not waiting:
            assert claim is None
            return
        point = self.points[waiting[0]]
        point.state, point.owner, point.ended = "running", worker, False
        point.outcomes.append("running")
        assert (claim.number, claim.attempt, claim.worker) == (waiting[0], len(point.outcomes), worker)
        self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data):
        claim = data.draw(st.sampled_from(self.claims))
        point = self.points[claim.number]
        if point.holds(claim):
            self.ledger.renew(claim)
            point.ended = False
        else:
            with pytest.raises(LeaseLostError):
                self.ledger.renew(claim)
        self.expire()

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), outcome=st.sampled_from(["complete", "pruned"]), value=st.floats(0, 1))
    def finish(self, data, outcome, value):
        claim = data.draw(st.sampled_from(self.claims))
        point = self.points[claim.number]
        if point.holds(claim):
            self.ledger.finish(claim, outcome, value, None, None)
            point.state, point.value, point.owner = outcome, value, None
            point.outcomes[-1] = outcome
        elif point.outcomes[claim.attempt - 1] == outcome:
            self.ledger.finish(claim, outcome, value, None, None)
        else:
            with pytest.raises(LeaseLostError):
                self.ledger.finish(claim, outcome, value, None, None)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), outcome=st.sampled_from(["failed", "released"]))
    def give_up(self, data, outcome):
        claim = data.draw(st.sampled_from(self.claims))
        (self.ledger.fail if outcome == "failed" else self.ledger.release)(claim, "a reason")
        if self.points[claim.number].holds(claim):
            self.points[claim.number].give_up(outcome, LOSSES)

    @rule(worker=st.sampled_from(WORKERS))
    def abandon(self, worker):
        held = [point for point in self.points if point.owner == worker]
        assert self.ledger.abandon(worker, "dead") == len(held)
        for point in held:
            point.give_up("lost", LOSSES)

    @precondition(lambda self: any(point.state == "running" for point in self.points))
    @rule(data=st.data())
    def let_a_lease_end(self, data):
        running = [number for number, point in enumerate(self.points) if point.state == "running"]
        number = data.draw(st.sampled_from(running))
        past = tables.point.update().where(tables.point.c.number == number).values(lease_end=0.0)
        self.database.transact(lambda c: c.execute(past))
        self.points[number].ended = True

    @rule()
    def expire_leases(self):
        expected = self.expire()
        assert self.ledger.expire(self.study) == expected

    @invariant()
    def ledger_and_model_agree(self):
        if not hasattr(self, "database"):
            return
        attempts = rows(self.database, tables.attempt)
        for row, point in zip(rows(self.database), self.points, strict=True):
            assert (row.state, row.lease_owner, row.value) == (point.state, point.owner, point.value)
            assert (row.attempt, row.failures, row.losses) == (len(point.outcomes), point.failures, point.losses)
            mine = [attempt for attempt in attempts if attempt.point_id == row.id]
            assert [attempt.number for attempt in mine] == list(range(1, len(mine) + 1))
            assert [attempt.outcome for attempt in mine] == point.outcomes
            assert [attempt.outcome for attempt in mine].count("running") == (row.state == "running")
            assert all((attempt.ended_at is None) == (attempt.outcome == "running") for attempt in mine)


def test_whatever_the_order_the_ledger_does_as_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "MAX_LOSSES", LOSSES)
    with Database(parse_url(f"sqlite:///{tmp_path}/template.db", Home(tmp_path))) as database:
        with database.engine.begin() as connection:
            tables.metadata.create_all(connection)
        with database.engine.connect() as connection:
            connection.connection.cursor().execute("PRAGMA journal_mode = DELETE")
    LedgerMachine.template = tmp_path / "template.db"
    # Shrinking forty steps on a database takes minutes and says little more.
    phases = (Phase.reuse, Phase.generate)
    steps = settings(
        max_examples=25, stateful_step_count=40, deadline=None, phases=phases, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(LedgerMachine, settings=steps)
