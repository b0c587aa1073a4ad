import json
import shutil

import pytest
from click.testing import CliRunner

from rust_optuna.cli import cli
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import load_studies, load_study
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import parse_url
from tests.cli.test_main import invoke
from tests.studies import grid_document, make_study, make_worker, points, random_document, run_study, write_study


@pytest.fixture
def run(database_url, home):
    """Call the program on a database that need not exist."""
    return lambda *arguments: invoke("--home", home.root, "--storage", database_url, *arguments)


@pytest.fixture
def run_on(database, home):
    """Call the program on the database of the test."""
    url = database.url.render_as_string(hide_password=False)
    return lambda *arguments: invoke("--home", home.root, "--storage", url, *arguments)


def test_create_makes_the_database_and_says_what_it_made(run, home, database_url):
    write_study(home, random_document(4, cross_validation={"folds": 10}))
    done = run("study", "create", "regime-1.toml")
    assert done.exit_code == 0, done.output
    assert "regime-1 created in" in done.output
    assert "4 points, 20 development films" in done.output
    assert "Note: at least one fold has no positive film of" in done.output
    assert "Next: rust-optuna worker run regime-1" in done.output
    again = run("study", "create", "regime-1.toml")
    assert (again.exit_code, "regime-1 already exists" in again.output) == (0, True)
    with open_database(parse_url(database_url, home)) as database:
        assert database.artifacts() == "storage/artifacts"


def test_the_films_of_a_study_that_is_created_may_lie_below_the_data_root(run, home, database_url):
    write_study(home, random_document(2))
    shutil.move(home.root / "films", home.root / "elsewhere")
    assert "--data-root FOLDER" in run("study", "create", "regime-1.toml").output
    done = run("study", "create", "regime-1.toml", "--data-root", "elsewhere")
    assert done.exit_code == 0, done.output
    again = run("study", "create", "regime-1.toml", "--data-root", "elsewhere")
    assert (again.exit_code, "regime-1 already exists" in again.output) == (0, True)


def test_create_reports_every_problem_of_a_file(run, home):
    write_study(home, random_document(fixed={"epsilon": 0.0}, colour="red"))
    done = run("study", "create", "regime-1.toml")
    assert done.exit_code == 2
    assert "3 problems in" in done.output
    for where in ("colour", "fixed.epsilon", "learning_rate"):
        assert f"\n  {where} " in done.output


def test_create_refuses_other_contents_under_the_same_name(run_on, database, home):
    make_study(database, home)
    write_study(home, random_document(cross_validation={"folds": 5}))
    done = run_on("study", "create", "regime-1.toml")
    assert done.exit_code == 1
    assert (
        "was created with other settings: epochs is 20 in the file and 2 in the study; folds is 5 in the" in done.output
    )
    assert "rust-optuna study delete regime-1" in done.output


def test_list_names_the_studies_and_their_stand_ins(run_on, database, home):
    assert "There are no studies yet." in run_on("study", "list").output
    run_study(database, home, random_document(2))
    make_study(database, home, grid_document())
    text = run_on("study", "list").output.splitlines()
    assert text[2].split() == ["regime-1", "random", "done", "STAND-IN", "tests.stand_ins:peak"]
    assert text[3].split() == ["regime-2", "grid", "open"]
    assert json.loads(run_on("study", "list", "--json").output) == [
        {"study": "regime-1", "sampler": "random", "state": "done", "objective": "STAND-IN tests.stand_ins:peak"},
        {"study": "regime-2", "sampler": "grid", "state": "open"},
    ]


def test_show_tells_all_about_a_study(run_on, database, home):
    run_study(database, home, random_document(2))
    make_study(database, home, grid_document())
    document = json.loads(run_on("study", "show", "regime-2", "--json").output)
    assert document["study"] == "regime-2"
    assert document["source"]["study"] == "regime-1"
    assert document["configuration"]["sampler"] == {"type": "grid", "seed": 3}
    assert document["points"] == 6
    text = run_on("study", "show", "regime-1").output
    assert "STAND-IN tests.stand_ins:peak" in text
    assert "Films: 20 of 10 patients" in text
    assert run_on("study", "show", "regime-9").exit_code == 1


def test_extend_adds_points(run_on, database, home):
    study = make_study(database, home, random_document(2))
    done = run_on("study", "extend", "regime-1", "--trials", "5")
    assert "regime-1 has 5 points now" in done.output
    assert len(points(database, study)) == 5
    assert run_on("study", "extend", "regime-1", "--trials", "3").exit_code == 1
    assert run_on("study", "extend", "regime-1", "--trials", "0").exit_code == 2


def test_delete_asks_first(database, home, run_on):
    make_study(database, home)
    url = database.url.render_as_string(hide_password=False)
    refused = CliRunner().invoke(cli, ["--storage", url, "study", "delete", "regime-1"], input="n\n")
    assert refused.exit_code == 1
    assert len(load_studies(database)) == 1
    assert "regime-1 is deleted" in run_on("study", "delete", "regime-1", "--yes").output
    assert load_studies(database) == []


def test_delete_refuses_a_study_that_runs_before_it_asks_unless_forced(database, home, run_on):
    study = make_study(database, home)
    Ledger(database).claim([study.id], "ann")
    for words in ((), ("--yes",)):
        done = run_on("study", "delete", "regime-1", *words)
        assert (done.exit_code, "--force" in done.output, "[y/N]" in done.output) == (1, True, False)
    assert run_on("study", "delete", "regime-1", "--yes", "--force").exit_code == 0


def test_the_question_before_a_deletion_tells_of_workers_that_are_alive(database, home):
    def asked(*words):
        url = database.url.render_as_string(hide_password=False)
        line = ["--home", str(home.root), "--storage", url, "study", "delete", "regime-1", *words]
        return CliRunner().invoke(cli, line, input="n\n").output

    study, ledger = make_study(database, home), Ledger(database)
    assert asked().startswith("Delete regime-1 with")
    ledger.register("ann", host="host", process=1, device="")
    assert asked().startswith(
        "1 worker of this storage may serve regime-1: rust-optuna worker list shows them.\nDelete"
    )
    ledger.claim([study.id], "ann")
    assert asked("--force").startswith("1 worker runs points of regime-1, whose results will be refused.\nDelete")
    assert len(load_studies(database)) == 1


def test_export_writes_a_table(database, home, run_on):
    run_study(database, home, random_document(3))
    done = run_on("study", "export", "regime-1", "reports")
    assert done.exit_code == 0, done.output
    assert "3 trials" in done.output
    assert len((home.root / "reports" / "trials.csv").read_text().splitlines()) == 4


def test_a_study_whose_creation_was_not_finished_is_named(database, home, run_on, monkeypatch):
    def die(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Mirror, "enqueue", die)
    write_study(home, random_document(2))
    assert run_on("study", "create", "regime-1.toml").exit_code == 130
    monkeypatch.undo()
    assert "drawing" in run_on("study", "list").output
    refused = run_on("worker", "run", "regime-1", "--objective", "tests.stand_ins:peak")
    assert (refused.exit_code, "study create" in refused.output) == (1, True)
    assert run_on("study", "create", "regime-1.toml").exit_code == 0
    assert load_study(database, "regime-1").state == "open"
    make_worker(database, home).run()


def test_a_study_without_holes_is_called_one(run_on, database, home):
    study = make_study(database, home, random_document(1))
    for command in ("retry", "accept-holes"):
        assert run_on("study", command, "regime-1").output.startswith("regime-1 has no holes\n")
    ledger = Ledger(database)
    while claim := ledger.claim([study.id], "ann"):
        ledger.fail(claim, "no luck")
    assert run_on("study", "accept-holes", "regime-1").output.startswith("1 hole of regime-1 is accepted\n")
    for command in ("retry", "accept-holes"):
        done = run_on("study", command, "regime-1")
        assert done.output.startswith("regime-1 has no holes but the 1 that is accepted\n")


def test_show_is_for_people_and_begins_with_what_went_wrong(run_on, database, home):
    study = make_study(database, home, random_document(3, model={"weights": "random", "hidden_units": [8, 4]}))
    ledger = Ledger(database)
    first = ledger.claim([study.id], "ann")
    ledger.release(ledger.claim([study.id], "bob"), "the disk is full")
    ledger.fail(first, "no luck")
    while claim := ledger.claim([study.id], "ann"):
        if claim.number == first.number:
            ledger.fail(claim, "no luck again")
        else:
            ledger.finish(claim, "complete", 0.5, None, None)
    text = run_on("study", "show", "regime-1").output
    hole = text.index(f"Point {first.number} is a hole. Its attempts:")
    others = text.index("Unsuccessful attempts at other points")
    assert f"  attempt {first.attempt}: failed (ann): no luck\n" in text[hole:others]
    assert "attempt 1: was given back (bob): the disk is full" in text[others:]
    assert text.index("Settings:") > others
    for line in (
        'name = "regime-1"',
        "[sampler]",
        'type = "random"',
        'batch_size = {type = "int", low = 2, high = 12}',
        "hidden_units = [8, 4]",
        "folds = 3",
    ):
        assert f"\n  {line}\n" in text
    assert not any(internal in text for internal in ("None", "arithmetic", "optunas_best", study.fingerprint.films))
    assert (
        json.loads(run_on("study", "show", "regime-1", "--json").output)["fingerprint"] == study.fingerprint.to_json()
    )


def test_a_study_without_a_complete_trial_is_told_in_one_form_with_what_to_run(run_on, database, home):
    make_study(database, home, random_document(1))
    for command in (("best", "regime-1"), ("study", "export", "regime-1", "reports")):
        done = run_on(*command)
        assert done.exit_code == 1
        error, following = done.output.splitlines()
        assert error == "Error: regime-1 has no complete trial yet"
        assert following.startswith("Next: rust-optuna worker run regime-1 ")
    error, following = run_on("best").output.splitlines()
    assert error == "No study has a complete trial yet"
    assert following.startswith("Next: rust-optuna worker run ")
