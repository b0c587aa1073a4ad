import json
import threading
from functools import partial

import pytest
from optuna.samplers import NSGAIISampler
from optuna.trial import TrialState

from rust_optuna.errors import LeaseLostError
from rust_optuna.search import adaptive
from rust_optuna.search import drawing as drawing_module
from rust_optuna.search.adaptive import SlotState
from rust_optuna.search.creation import extend_study
from rust_optuna.search.drawing import Drawing
from rust_optuna.search.foreign import foreign_trials
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import status
from rust_optuna.search.studies import (
    count_points,
    expected_parameters,
    load_parameters,
    load_study,
    parameters_to_prepare,
)
from rust_optuna.storage.database import open_database
from rust_optuna.storage.states import UNFINISHED
from tests.reports import report
from tests.studies import (
    Killed,
    adaptive_document,
    assert_in_step,
    attempts,
    end_leases,
    make_study,
    make_worker,
    points,
    run_study,
    shown,
)

REPORT = report()


def assert_exact(database, study, count, *, killed=0):
    """Assert that every slot of a study ended once, by a draw of its own, and that Optuna shows just these."""
    assert load_study(database, study.name).state == "done"
    rows = points(database, study)
    assert [row.state for row in rows] == ["complete"] * count
    assert [row.number for row in rows] == list(range(count))
    outcomes = [row.outcome for row in attempts(database, study)]
    assert (outcomes.count("complete"), len(outcomes)) == (count, count + killed)
    drawn = [json.loads(row.parameters) for row in rows]
    assert len({tuple(parameters.values()) for parameters in drawn}) == count
    assert [trial.state for trial in shown(database, study)].count(TrialState.COMPLETE) == count
    assert_in_step(database, study)
    assert status(database, study).caveats.foreign.finished == 0


def die(*arguments, **keywords):
    raise Killed


STEPS = ("claimed", "drawn in memory", "drawn", "made", "noted", "evaluated", "finished", "told")


def run_until(step, database, study, monkeypatch, worker):
    """Run one attempt as a worker does, and die after ``step``; return the parameters that the ledger has by then."""
    mirror, ledger = Mirror(database, study), Ledger(database)
    claim = ledger.claim([study.id], worker)
    assert (claim.drawn, claim.parameters, claim.trial) == (False, {}, None)
    if step == "claimed":
        return None
    if step == "drawn in memory":
        monkeypatch.setattr(Ledger, "record_draw", die)
        with pytest.raises(Killed):
            Drawing(mirror).draw(claim)
        monkeypatch.undo()
        return None
    claim = Drawing(mirror).draw(claim)
    if step == "drawn":
        return claim.parameters
    if step == "made":
        monkeypatch.setattr(Ledger, "record_trial", die)
        monkeypatch.setattr(mirror.storage, "set_trial_state_values", die)
        with pytest.raises(Killed):
            mirror.start(claim)
        monkeypatch.undo()
        return claim.parameters
    trial = mirror.start(claim)
    if step == "noted":
        return claim.parameters
    trial.report(0.4, 1)
    if step == "evaluated":
        return claim.parameters
    ledger.finish(claim, "complete", 0.4, REPORT, None)
    if step == "told":
        mirror.tell(trial.number, "complete", 0.4, REPORT.to_json())
    return claim.parameters


@pytest.mark.parametrize("sampler", ["tpe", "cma-es"])
def test_a_slot_whose_worker_died_is_drawn_once_and_ended_once(database, home, monkeypatch, sampler):
    """One worker dies after each of the steps; then another comes."""
    study = make_study(database, home, adaptive_document(12, sampler))
    left = [run_until(step, database, study, monkeypatch, f"dead, {step}") for step in STEPS]
    end_leases(database)
    make_worker(database, home).run([study.name])

    survived = STEPS.index("finished")
    # The trial that was made and not noted was made by a worker, which no other study does at a first attempt.
    assert foreign_trials(database, study.name, study.key).finished == 1
    assert_exact(database, study, 12, killed=survived)
    rows = points(database, study)
    for step, parameters, row in zip(STEPS, left, rows, strict=False):
        if parameters is not None:
            assert json.loads(row.parameters) == parameters, step
        assert row.attempt == 1 + (STEPS.index(step) < survived), step
    for trial in shown(database, study):
        assert trial.params.items() >= json.loads(rows[trial.user_attrs["point"]].parameters).items()


def test_an_empty_slot_shows_nothing_in_optuna(database, home):
    study = make_study(database, home, adaptive_document(5))
    assert (study.state, count_points(database, study), load_parameters(database, study.id)) == ("open", 5, [])
    assert shown(database, study) == []
    assert status(database, study).counts["waiting"] == 5


def test_a_draw_is_refused_once_the_lease_has_ended(database, home):
    study = make_study(database, home, adaptive_document(2))
    ledger, drawing = Ledger(database), Drawing(Mirror(database, study))
    late = ledger.claim([study.id], "ann")
    end_leases(database)
    heir = ledger.claim([study.id], "bob")
    assert (heir.number, heir.attempt, heir.drawn) == (0, 2, False)
    drawn = drawing.draw(heir)
    with pytest.raises(LeaseLostError):
        drawing.draw(late)
    assert load_parameters(database, study.id) == [drawn.parameters]
    # The refused draw left nothing behind in this process.
    assert drawing.draw(ledger.claim([study.id], "eve")).number == 1


def test_a_claim_whose_answer_was_lost_keeps_its_draw(database, home):
    study = make_study(database, home, adaptive_document(2))
    ledger, drawing = Ledger(database), Drawing(Mirror(database, study))
    drawn = drawing.draw(ledger.claim([study.id], "ann"))
    again = ledger.claim([study.id], "ann")
    assert (again.drawn, again.parameters, again.attempt) == (True, drawn.parameters, 1)


def draws_of(database, study, *, one_process):
    """Run a study point by point; draw in one process, or each time in one that has just started."""
    ledger, drawing = Ledger(database), Drawing(Mirror(database, study))
    while claim := ledger.claim([study.id], "ann"):
        if not one_process:
            drawing = Drawing(Mirror(database, study))
        claim = drawing.draw(claim)
        ledger.finish(claim, "complete", 1 - abs(claim.parameters["dropout_rate"] - 0.2), None, None)
    return load_parameters(database, study.id)


@pytest.mark.parametrize("sampler", ["tpe", "cma-es", "nsga-ii"])
def test_the_same_seed_and_results_give_the_same_draws(sqlite, home, monkeypatch, sampler):
    small = partial(NSGAIISampler, population_size=4)
    monkeypatch.setitem(adaptive._SAMPLERS, "nsga-ii", lambda seed: small(seed=seed))
    first = make_study(sqlite, home, adaptive_document(15, sampler, name="first"))
    second = make_study(sqlite, home, adaptive_document(15, sampler, name="second"))
    drawn = draws_of(sqlite, first, one_process=True)
    assert draws_of(sqlite, second, one_process=False) == drawn
    assert len(drawn) == 15
    if sampler != "tpe":  # the notes matter
        third = make_study(sqlite, home, adaptive_document(15, sampler, name="third"))
        monkeypatch.setattr(Drawing, "_notes", lambda self: {})
        assert draws_of(sqlite, third, one_process=False) != drawn


def test_a_draw_reads_only_what_is_new(sqlite, home, monkeypatch):
    study = make_study(sqlite, home, adaptive_document(6))
    ledger, drawing, read = Ledger(sqlite), Drawing(Mirror(sqlite, study)), []
    slots = drawing._slots
    monkeypatch.setattr(drawing, "_slots", lambda numbers: read.append(list(numbers)) or slots(numbers))
    claims = [drawing.draw(ledger.claim([study.id], name)) for name in ("ann", "bob")]
    ledger.finish(claims[0], "complete", 0.5, None, None)
    drawing.draw(ledger.claim([study.id], "eve"))
    assert read == [[], [], [0]]


def test_many_points_are_read_in_parts(sqlite, home, monkeypatch):
    monkeypatch.setattr(drawing_module, "AT_ONCE", 3)
    study = run_study(sqlite, home, adaptive_document(11))
    design = Drawing(Mirror(sqlite, study))._up_to_date()
    assert sorted(design.known) == list(range(11))


def test_a_hole_that_is_tried_again_keeps_its_parameters(sqlite, home):
    """A worker that knew the hole draws on, and again counts the slot among those that others run."""
    study = make_study(sqlite, home, adaptive_document(3))
    ledger, drawing = Ledger(sqlite), Drawing(Mirror(sqlite, study))

    def run_all():
        while claim := ledger.claim([study.id], "ann"):
            if not claim.drawn:
                claim = drawing.draw(claim)
            if claim.number == 0:
                ledger.fail(claim, "no luck")
            else:
                ledger.finish(claim, "complete", 0.5, None, None)

    run_all()
    extend_study(sqlite, study.name, 4)
    run_all()
    before = load_parameters(sqlite, study.id)
    assert [row.state for row in points(sqlite, study)] == ["hole", "complete", "complete", "complete"]
    assert drawing._design.known[0] is SlotState.HOLE
    assert ledger.retry_holes(study.id) == 1
    extend_study(sqlite, study.name, 5)
    assert ledger.claim([study.id], "bob").parameters == before[0]
    assert drawing.draw(ledger.claim([study.id], "ann")).number == 4
    assert drawing._design.known[0] is SlotState.DRAWN
    assert load_parameters(sqlite, study.id)[:4] == before


def test_more_slots_continue_a_study_that_was_done(database, home):
    study = run_study(database, home, adaptive_document(4))
    before = load_parameters(database, study.id)
    assert extend_study(database, study.name, 7).state == "open"
    assert shown(database, study)[4:] == []
    make_worker(database, home).run([study.name])
    assert load_parameters(database, study.id)[:4] == before
    assert_exact(database, study, 7)


def test_random_points_stand_for_empty_slots(sqlite, home):
    study = make_study(sqlite, home, adaptive_document(4))
    drawn = Drawing(Mirror(sqlite, study)).draw(Ledger(sqlite).claim([study.id], "ann"))
    expected = expected_parameters(sqlite, study, states=UNFINISHED)
    assert (len(expected), expected[0]) == (4, drawn.parameters)
    assert parameters_to_prepare(sqlite, study) == [{"batch_size": 2, "dropout_rate": 0.0}]


def test_eight_workers_end_each_of_their_slots_once_although_three_died(database, home, monkeypatch):
    """The quick variant: threads work, and three workers have died before, each at another step."""
    study = make_study(database, home, adaptive_document(24))
    for step in ("claimed", "drawn", "evaluated"):
        run_until(step, database, study, monkeypatch, f"dead, {step}")
    end_leases(database)
    errors = []

    def work():
        try:
            with open_database(database.url) as mine:
                make_worker(mine, home).run([study.name])
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert errors == []
    assert_exact(database, study, 24, killed=3)
