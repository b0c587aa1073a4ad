import json
import re

import optuna
import pytest

from rust_optuna.cli.live import LiveTable
from rust_optuna.search.creation import extend_study
from rust_optuna.search.ledger import MAX_FAILURES, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import status
from tests.cli.test_main import invoke
from tests.reports import flat, report, scores
from tests.studies import claim_point, grid_document, make_study, make_worker, random_document, run_study, write_study


@pytest.fixture
def run(database, home):
    url = database.url.render_as_string(hide_password=False)
    return lambda *arguments: invoke("--home", home.root, "--storage", url, *arguments)


def complete_one(database, study, value, reported):
    ledger = Ledger(database)
    claim = ledger.claim([study.id], "ann")
    Mirror(database, study).start(claim)
    ledger.finish(claim, "complete", value, reported, None)


def test_status_counts_points(database, home, run):
    study = make_study(database, home, random_document(3))
    complete_one(database, study, 0.75, report())
    Ledger(database).claim([study.id], "bob")
    (document,) = json.loads(run("status", "--json").output)
    counts = {name: document[name] for name in ("points", "complete", "pruned", "running", "waiting", "holes")}
    assert counts == {"points": 3, "complete": 1, "pruned": 0, "running": 1, "waiting": 1, "holes": 0}
    assert (document["study"], document["sampler"], document["state"]) == ("regime-1", "random", "open")
    assert document["best_value"] == 0.75
    header, _, row = run("status").output.splitlines()
    assert dict(zip(header.split(), row.split(), strict=True))["running"] == "1"
    assert "0.7500" in row


def test_status_exits_with_3_while_there_are_holes(database, home, run):
    study = make_study(database, home, random_document(2))
    assert run("status").exit_code == 0
    for _ in range(MAX_FAILURES):
        Ledger(database).fail(claim_point(Ledger(database), study.id, 0), "no luck")
    done = run("status")
    assert (done.exit_code, "regime-1 has holes" in done.output) == (3, True)
    done = run("status", "--json")
    assert (done.exit_code, json.loads(done.output)[0]["holes"]) == (3, 1)


def test_status_says_that_a_study_is_stale(database, home, run):
    run_study(database, home, random_document(2))
    make_study(database, home, grid_document())
    assert "stale" not in run("status").output
    extend_study(database, "regime-1", 12)
    make_worker(database, home).run(["regime-1"])
    assert "regime-2 is stale: the best of regime-1" in run("status").output
    assert [each["stale"] for each in json.loads(run("status", "--json").output)] == [False, True]
    make_worker(database, home).run(["regime-2"])
    assert "regime-2 is stale: the best of regime-1" in run("best").output
    assert [each["stale"] for each in json.loads(run("best", "--json").output)] == [False, True]


def test_differences_from_the_source_are_told_by_create_status_and_best(database, home, run):
    run_study(database, home, random_document(2))
    write_study(home, grid_document(model={"weights": "random", "pooling": "average"}))
    said = "pooling is average here and max in regime-1"
    assert (
        f"Note: the study takes the best point of regime-1, but differs from it: {said}."
        in run("study", "create", "regime-2.toml").output
    )
    make_worker(database, home).run()
    for command in ("status", "best"):
        assert f"regime-2 differs from its source: {said}" in run(command).output
        (first, second) = json.loads(run(command, "--json").output)
        assert first["differences"] == []
        assert second["differences"] == [{"key": "pooling", "here": "average", "there": "max"}]
        assert (first["source"], second["source"]) == (None, "regime-1")


def test_best_shows_what_was_fixed_and_what_was_inherited(database, home, run):
    run_study(database, home, random_document(2, model={"weights": "random", "output": "mixed1"}), "level")
    first = run("best", "regime-1").output
    assert "  learning_rate = 0.001  (fixed)\n  epsilon = 1e-07  (fixed)\n" in first
    document = grid_document(search_space={"learning_rate": [1e-3, 1e-2]}, model={})
    document["fixed"]["epsilon"] = 1e-4
    run_study(database, home, document, "level")
    second = run("best", "regime-2").output
    assert "  epsilon = 0.0001  (fixed)\n" in second
    assert "  output = mixed1  (inherited)\n" in second
    assert "pooling" not in second  # a default
    found = json.loads(run("best", "regime-2", "--json").output)
    assert found["fixed"] == {"epsilon": 1e-4}
    assert (found["inherited"]["output"], found["inherited"]["pooling"]) == ("mixed1", "max")


def test_a_study_that_somebody_else_optimized_is_told_by_status_and_best(database, home, run):
    study = make_study(database, home, random_document(3))
    optuna.load_study(study_name="regime-1", storage=database.storage).optimize(lambda trial: 0.99, n_trials=1)
    make_worker(database, home).run()
    said = (
        "regime-1: 1 of its trials in Optuna was finished by somebody else; the best that Optuna shows, trial 0 (0.99)"
    )
    for command in (("status",), ("best",), ("best", "regime-1")):
        assert said in run(*command).output
    documents = [json.loads(run("status", "--json").output)[0], json.loads(run("best", study.name, "--json").output)]
    for document in documents:
        assert (document["finished_by_others"], document["optunas_best"]) == (1, {"number": 0, "value": 0.99})
    assert documents[0]["best_value"] == documents[1]["value"] < 0.99


@pytest.mark.parametrize("command", ["study create", "search", "search --dry-run", "features build"])
def test_a_source_with_open_holes_is_refused_by_every_command(sqlite, home, command):
    run_study(sqlite, home, random_document(3), "raising_at_point_1")
    path = write_study(home, grid_document())
    url = sqlite.url.render_as_string()
    first, *options = command.split()
    done = invoke("--home", home.root, "--storage", url, first, *options, path)
    assert done.exit_code == 3
    assert "study accept-holes regime-1" in done.output


def test_best_shows_parameters_value_spread_and_baseline(database, home, run):
    study = make_study(database, home, random_document(2))
    complete_one(database, study, 0.7, report())
    text = run("best", "regime-1").output
    assert "regime-1: trial 0 (point 0), epoch 2" in text
    assert "batch_size = " in text
    assert "0.7000 ± 0.1000" in text
    assert "0.4500" in text
    assert "+0.2000 ± 0.0577" in text
    document = json.loads(run("best", "regime-1", "--json").output)
    assert (document["value"], document["epoch"], document["fold_values"]) == (0.7, 2, [0.6, 0.7, 0.8])


def test_best_shows_what_an_earlier_version_reported(sqlite, home):
    """It knew no baseline with its ties broken at random, so there is no lift."""
    study = make_study(sqlite, home, random_document(2))
    complete_one(sqlite, study, 0.7, report(untied_baseline=None))
    where = ("--home", home.root, "--storage", sqlite.url.render_as_string())
    done = invoke(*where, "best", "regime-1")
    assert (done.exit_code, "lift" in done.output) == (0, False)
    assert re.search(r"16 subscores +0\.5000 ± 0\.1000 +0\.3000\n", done.output)
    document = json.loads(invoke(*where, "best", "regime-1", "--json").output)
    assert document["baseline_view_only_untied_fold_values_16"] is None


def test_best_without_a_name_lists_every_study_that_has_one(database, home, run):
    assert "There are no studies yet." in run("best").output
    assert json.loads(run("best", "--json").output) == []
    run_study(database, home, random_document(2))
    make_study(database, home, grid_document())
    assert [each["study"] for each in json.loads(run("best", "--json").output)] == ["regime-1"]
    assert "STAND-IN tests.stand_ins:peak: no real score" in run("best").output
    missing = run("best", "regime-2")
    assert (missing.exit_code, "no complete trial yet" in missing.output) == (1, True)
    assert run("best", "regime-9").exit_code == 1


def test_stand_ins_are_shown_wherever_values_are(database, home, run):
    run_study(database, home, random_document(2))
    for command in (("status",), ("best",), ("best", "regime-1"), ("study", "list"), ("study", "show", "regime-1")):
        assert "STAND-IN tests.stand_ins:peak" in run(*command).output, command
        assert "STAND-IN tests.stand_ins:peak" in run(*command, "--json").output, command


NO_BETTER = {"scores": scores(average_precision_16=flat(0.1764))}
PAIR = "on the 16 subscores 0.1764 is no better than the view-only baseline's 0.3000 (ties broken at random)"
DIVERGED = {"diverged_folds": (0, 2)}


@pytest.mark.parametrize(
    ("reported", "in_full", "in_short"),
    [
        (NO_BETTER, f"{PAIR}: a model that sees nothing but", [PAIR]),
        (DIVERGED, "training diverged in 2 of its 3 folds: the loss", ["training diverged in 2 of its 3 folds"]),
        ({**NO_BETTER, "diverged_folds": (1,)}, PAIR, ["training diverged in 1 of its 3 folds", PAIR]),
        (
            {**NO_BETTER, "curve": (0.7, 0.7)},
            "the same after each of its 2 epochs",
            [PAIR, "its value is the same after each of its 2 epochs"],
        ),
    ],
)
def test_a_best_trial_below_its_baseline_or_diverged_is_said_in_words(
    sqlite, home, reported, in_full, in_short, capsys
):
    study = make_study(sqlite, home, random_document(2))
    complete_one(sqlite, study, 0.7, report(**reported))
    where = ("--home", home.root, "--storage", sqlite.url.render_as_string())
    for command in (("status",), ("best",), ("best", "regime-1"), ("study", "show", "regime-1")):
        assert in_full in invoke(*where, *command).output
    assert in_full in " ".join(json.loads(invoke(*where, "status", "--json").output)[0]["best_warnings"])
    assert in_full in " ".join(json.loads(invoke(*where, "best", "regime-1", "--json").output)["warnings"])
    Mirror(sqlite, study).write_note()
    note = sqlite.storage.get_study_system_attrs(sqlite.storage.get_study_id_from_name("regime-1"))
    assert in_full in "".join(text for name, text in note.items() if name.startswith("dashboard:note_str"))
    LiveTable().show(status(sqlite, study, foreign=False))
    line = "; ".join(["regime-1: 1 of 2 complete, best 0.7000, view-only baseline 0.4500", *in_short])
    assert capsys.readouterr().err == f"{line}\n"


def test_a_baseline_stands_beside_every_best_value_and_a_good_one_is_not_warned_of(sqlite, home, capsys):
    study = make_study(sqlite, home, random_document(2))
    complete_one(sqlite, study, 0.7, report())
    where = ("--home", home.root, "--storage", sqlite.url.render_as_string())
    header, _, row = invoke(*where, "status").output.splitlines()
    shown = dict(zip(header.split(), row.split(), strict=True))
    assert (shown["best"], shown["baseline"]) == ("0.7000", "0.4500")
    (document,) = json.loads(invoke(*where, "status", "--json").output)
    assert (document["best_baseline_view_only"], document["best_warnings"]) == (0.45, [])
    assert "WARNING" not in invoke(*where, "best").output
    table = LiveTable()
    table.show(status(sqlite, study, foreign=False))
    assert capsys.readouterr().err == "regime-1: 1 of 2 complete, best 0.7000, view-only baseline 0.4500\n"
    table.console.print(table._table())
    assert "0.4500" in capsys.readouterr().err


def test_the_live_table_counts_pruned_points_if_there_are_any(sqlite, home, capsys):
    study, ledger, table = make_study(sqlite, home, random_document(3)), Ledger(sqlite), LiveTable()
    ledger.finish(ledger.claim([study.id], "ann"), "complete", 0.5, None, None)
    table.show(status(sqlite, study, foreign=False))
    table.console.print(table._table())
    assert "pruned" not in capsys.readouterr().err
    ledger.finish(ledger.claim([study.id], "ann"), "pruned", 0.1, None, None)
    table.show(status(sqlite, study, foreign=False))
    assert capsys.readouterr().err == "regime-1: 1 of 3 complete, 1 pruned, best 0.5000\n"
    table.console.print(table._table())
    shown = capsys.readouterr().err
    assert "pruned" in shown, shown


def test_the_live_table_names_the_pair_that_speaks_against_a_best_trial(sqlite, home, capsys):
    study = make_study(sqlite, home, random_document(2))
    complete_one(sqlite, study, 0.7, report(**NO_BETTER))
    table = LiveTable()
    table.show(status(sqlite, study, foreign=False))
    capsys.readouterr()
    table.console.print(table._table())
    assert f"regime-1: {PAIR}" in " ".join(capsys.readouterr().err.split())
