import pytest

from rust_optuna.config import KEYS
from rust_optuna.search.ledger import MAX_FAILURES, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import best_point, best_trial, complete_points, status
from rust_optuna.search.studies import load_study
from tests.reports import report
from tests.studies import claim_point, grid_document, make_study, random_document, run_study

REPORT = report()


@pytest.fixture
def study(database, home):
    """Six points: two complete, one pruned, one hole, one running, one waiting."""
    study = make_study(database, home, random_document(6))
    ledger, mirror = Ledger(database), Mirror(database, study)
    for outcome, value, reported in [("complete", 0.6, None), ("complete", 0.7, REPORT), ("pruned", 0.9, None)]:
        claim = ledger.claim([study.id], "ann")
        mirror.start(claim)
        ledger.finish(claim, outcome, value, reported, f"artifact-{claim.number}")
    for _ in range(MAX_FAILURES):
        ledger.fail(claim_point(ledger, study.id, 3, "bob"), "no luck")
    ledger.claim([study.id], "eve")
    return study


def test_status_counts_points_by_state(database, study):
    assert status(database, study).to_json() == {
        "study": "regime-1",
        "sampler": "random",
        "state": "open",
        "points": 6,
        "complete": 2,
        "pruned": 1,
        "running": 1,
        "waiting": 1,
        "holes": 1,
        "accepted_holes": 0,
        "best_value": 0.7,
        "best_baseline_view_only": 0.45,
        "best_warnings": [],
        "stale": False,
        "source": None,
        "differences": [],
        "finished_by_others": 0,
        "optunas_best": None,
        "arithmetic": {},
    }


def test_kinds_of_arithmetic_are_counted_over_complete_points_and_mixed_ones_said(database, home):
    study = make_study(database, home, random_document(4))
    ledger = Ledger(database)
    for kind in ("AVX2 1", "AVX-512 2", "AVX2 1", None):
        ledger.finish(ledger.claim([study.id], "ann"), "complete", 0.5, report(arithmetic=kind), None)
        if kind == "AVX2 1":
            mixed = "AVX-512 2" in status(database, study).caveats.arithmetic
            assert (status(database, study).caveats.arithmetic_words() is not None) == mixed
    assert status(database, study).to_json()["arithmetic"] == {"AVX2 1": 2, "AVX-512 2": 1}
    best = best_trial(database, study)
    assert best.to_json()["arithmetic"] == {"AVX2 1": 2, "AVX-512 2": 1}
    assert best.to_json()["computed_with"] == "AVX2 1"
    words = "its values mix kinds of arithmetic, which round differently: 2 points by AVX2 1, 1 point by AVX-512 2"
    assert best.caveats.arithmetic_words() == words


def test_a_pruned_point_is_never_the_best(database, study):
    assert best_point(database, study).value == 0.7


def test_complete_points_come_in_order_with_all_that_is_kept(database, study):
    first, second = complete_points(database, study)
    assert (first.number, first.trial, first.report, first.artifact) == (0, 0, None, "artifact-0")
    assert (second.number, second.value, second.report, second.worker) == (1, 0.7, REPORT, "ann")
    assert 0 <= second.seconds < 600


def test_the_best_is_described_with_all_that_a_program_reads(database, study):
    document = best_trial(database, study).to_json()
    assert list(document) == [
        *("study", "number", "point", "value", "epoch", "params", "fixed", "inherited", "model", "warnings"),
        *("diverged_folds", "fold_values", "baseline_view_only", "average_precision_16", "fold_values_16"),
        *("baseline_view_only_16", "baseline_view_only_untied_16", "baseline_view_only_untied_fold_values_16"),
        *("weights", "computed_with", "pruned", "stale", "source", "differences", "finished_by_others", "optunas_best"),
        "arithmetic",
    ]
    assert (document["study"], document["number"], document["point"], document["value"]) == ("regime-1", 1, 1, 0.7)
    assert (document["epoch"], document["fold_values"], document["weights"]) == (2, [0.6, 0.7, 0.8], "random")
    assert (document["baseline_view_only"], document["baseline_view_only_16"]) == (0.45, 0.3)
    assert (document["average_precision_16"], document["fold_values_16"]) == (0.5, [0.4, 0.5, 0.6])
    untied = "baseline_view_only_untied_16", "baseline_view_only_untied_fold_values_16"
    assert [document[name] for name in untied] == [0.3, [0.3, 0.3, 0.3]]
    assert set(document["params"]) == {"batch_size", "dropout_rate"}
    assert "objective" not in document


def test_nothing_is_described_while_nothing_is_complete(database, home):
    study = make_study(database, home)
    assert best_trial(database, study) is None
    assert (status(database, study).best_value, complete_points(database, study)) == (None, [])


def test_what_was_inherited_is_described_apart(sqlite, home):
    run_study(sqlite, home, random_document(2))
    second = run_study(sqlite, home, grid_document())
    document = best_trial(sqlite, second).to_json()
    assert set(document["params"]) == {"learning_rate", "epsilon"}
    given = ("params", "fixed", "inherited", "model")
    meant = {*KEYS} - {"micro_batch"}  # which means nothing where only a head is trained
    assert sum(len(document[title]) for title in given) == len(meant)
    assert {key for title in given for key in document[title]} == meant
    assert {"batch_size", "dropout_rate", "pooling"} <= set(document["inherited"])
    assert set(document["model"]) == {"weights", "epochs"}  # which its own file names


def test_values_of_a_stand_in_are_marked(sqlite, home):
    study = run_study(sqlite, home, random_document(2))
    for document in (best_trial(sqlite, study).to_json(), status(sqlite, study).to_json()):
        assert document["objective"] == "STAND-IN tests.stand_ins:peak"
    assert load_study(sqlite, study.name).stand_in == "STAND-IN tests.stand_ins:peak"
