"""Configurations side by side: their folds, their numbers, and how a search takes the best of them."""

import json
import os
import re
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.metrics import expected_average_precision
from rust_optuna.errors import ConfigurationError, DataError, OpenHolesError, StudyError
from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.learn.backbone import build_backbone
from rust_optuna.learn.cross_validation import cross_validate, load_fold_curve
from rust_optuna.learn.features import FeatureCache
from rust_optuna.learn.runtime import load_keras
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.model import files
from rust_optuna.model.comparison import ComparedConfiguration, load_compared, measure_comparison
from rust_optuna.paths import Home
from rust_optuna.run import comparison as story
from rust_optuna.search.comparison import mean_curve
from rust_optuna.search.creation import create_study, delete_study
from rust_optuna.search.evaluation import refuse_evaluation
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.note import note_of
from rust_optuna.search.results import complete_points, status
from rust_optuna.search.studies import complete_rows, load_development, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import open_database
from rust_optuna.storage.roster import list_workers
from rust_optuna.study_file import parse_study
from rust_optuna.worker.worker import Worker
from tests.cli.test_main import invoke
from tests.cli.test_next_step import next_words
from tests.compiled import compile_once
from tests.data.films import make_manifest
from tests.model.story import database_url, work
from tests.studies import (
    Killed,
    configuration,
    end_leases,
    make_worker,
    one_document,
    random_document,
    run_command,
    site_of,
    start_command,
    toml,
    wait_until,
    write_study,
)

pytestmark = pytest.mark.tensorflow

MODEL = {"weights": "random", "output": "mixed0", "image_size": 75, "hidden_units": [8, 4], "standardize": True}
VALIDATION = {"folds": 3, "epochs": 4, "seed": 5}
DOCUMENTS = {
    "early": one_document(name="early", model=MODEL, cross_validation=VALIDATION),
    "late": one_document(name="late", model={**MODEL, "output": "mixed1"}, cross_validation=VALIDATION),
}
FILES = ("early.toml", "late.toml")


def in_this_process(patch):
    compile_once(patch)
    patch.setattr(story, "build_features", lambda *_: None)
    patch.setattr(story, "run_together", run_together)


def run_together(database, studies, home, *_):
    Worker(database, home, open_store(database.artifacts(), home)).run([study.name for study in studies])


@pytest.fixture(autouse=True)
def workers_in_this_process(monkeypatch):
    in_this_process(monkeypatch)
    monkeypatch.setattr("rust_optuna.worker.stopping.stop_on_signals", lambda stop: None)


def new_home(folder):
    home = Home(folder / "home")
    make_manifest(home.root, patients=14, holdout=4)
    for document in DOCUMENTS.values():
        write_study(home, document)
    return home


def compare(home, *documents):
    configurations = [configuration(document) for document in documents or DOCUMENTS.values()]
    return story.compare(site_of(home, database_url(home)), configurations, DeviceChoice("none", 1))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison that nothing disturbed, with the home in which it took place."""
    home = new_home(tmp_path_factory.mktemp("comparison"))
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        return compare(home), home


@pytest.fixture
def home(compared, tmp_path):
    shutil.copytree(compared[1].root, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def fresh(compared, tmp_path):
    """A home in which nothing was compared yet; the features are there."""
    home = new_home(tmp_path)
    shutil.copytree(compared[1].features, home.features)
    return home


@pytest.fixture
def call(home):
    def call(*arguments, code=0):
        done = invoke(*arguments, "--home", home.root)
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    return call


def without_times(numbers):
    """Return the numbers that are the same whenever and wherever they are computed."""
    each = [{k: v for k, v in one.items() if "seconds" not in k} for one in numbers["compared"]]
    return json.dumps({**numbers, "compared": each})


# --- The numbers


def precisions(labels, scores):
    """Return average precision over the labels that have positives, of all 18 and of the 16 subscores."""
    some = [column for column in range(18) if labels[:, column].any()]
    each = {column: average_precision_score(labels[:, column], scores[:, column]) for column in some}
    return np.mean([*each.values()]), np.mean([value for column, value in each.items() if column > 1])


def recomputed(path):
    """Return value and deviation over folds, of 18 and 16 labels, the view-only baseline of the 18, and the lift."""
    with np.load(path) as arrays:
        fold, labels, scores = arrays["fold"], arrays["labels"], arrays["scores"]
    values, tied, untied = [], [], []
    for number in np.unique(fold):
        here = fold == number
        views = labels[here][:, 0]
        frequencies = np.array([labels[~here & (labels[:, 0] == view)].mean(axis=0) for view in views])
        some = [column for column in range(2, 18) if labels[here][:, column].any()]
        values.append(precisions(labels[here], scores[here]))
        tied.append(precisions(labels[here], frequencies)[0])
        untied.append(np.mean(expected_average_precision(labels[here][:, some], frequencies[:, some])))
    mean, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
    return mean, spread, np.mean(tied), mean[1] - np.mean(untied)


def test_every_number_is_that_of_scikit_learn_on_the_arrays_of_the_report(compared):
    done, _ = compared
    files.check_directory(done.folder)
    assert json.loads((done.folder / "numbers.json").read_text()) == done.numbers
    found = {each["study"]: each for each in done.numbers["compared"]}
    truth = {name: recomputed(done.folder / f"{name}.npz") for name in found}
    for name, numbers in found.items():
        mean, spread, baseline, lift = truth[name]
        assert numbers["curve"][numbers["epoch"] - 1] == max(numbers["curve"]) == pytest.approx(mean[0], abs=1e-12)
        assert [numbers[key]["value"] for key in ("average_precision", "average_precision_16")] == pytest.approx(mean)
        assert [numbers["deviation"], numbers["deviation_16"]] == pytest.approx(spread)
        assert numbers["baseline_view_only"]["average_precision"] == pytest.approx(baseline)
        assert numbers["lift"]["value"] == pytest.approx(lift)
        assert numbers["curve_16"][numbers["epoch"] - 1] == pytest.approx(mean[1])
    assert found["early"]["difference"] is None
    for key, position in (("average_precision", 0), ("average_precision_16", 1)):
        difference = truth["late"][0][position] - truth["early"][0][position]
        assert found["late"]["difference"][key]["value"] == pytest.approx(difference)
    assert "MRN" not in (done.folder / "numbers.json").read_text()


def test_the_folds_are_those_of_one_cross_validation_to_the_bit(compared):
    """The values of a comparison are those that a trial of a search would have."""
    done, home = compared
    with open_database(database_url(home)) as database:
        for name in DOCUMENTS:
            study = load_study(database, name)
            development = load_development(database, study)
            trial = study.trial_configuration({}, home)
            features = CachedFeatures(FeatureCache(home.features, trial.backbone).load(development.content))
            whole = cross_validate(development, features, trial, seed=5, point=0, on_epoch=lambda *_: None)
            found = mean_curve(database, study)
            assert (found.curve, found.epoch, found.value) == (
                whole.report.curve,
                whole.report.epoch,
                whole.report.value,
            )
            assert found.fold_values == whole.report.fold_values
            assert [fold.seed for fold in found.folds] == list(whole.report.seeds.folds)
            with np.load(done.folder / f"{name}.npz") as arrays:
                np.testing.assert_array_equal(arrays["scores"], whole.out_of_fold.scores)


def test_a_fold_keeps_the_scores_of_every_epoch(compared):
    _, home = compared
    with open_database(database_url(home)) as database:
        study = load_study(database, "early")
        rows = database.transact(lambda connection: connection.execute(complete_rows(study)).all())
    for row in rows:
        fold = load_fold_curve(home.root / "storage" / "artifacts" / row.artifact)
        report = json.loads(row.result)
        assert fold.scores.shape == (4, len(fold.films), 18)
        for epoch, scores in enumerate(fold.scores):
            expected = precisions(fold.labels, scores)
            assert (report["curve"][epoch], report["curve_16"][epoch]) == pytest.approx(expected, abs=1e-12)
        # A fold alone chooses nothing: its value in Optuna is that after the last epoch.
        assert row.value == report["value"] == report["curve"][-1]


def drawn(compared, change):
    """Return a compared configuration with other scores."""
    _, home = compared
    with open_database(database_url(home)) as database:
        one = load_compared(database, load_study(database, "early"), open_store(database.artifacts(), home))
    return replace(one, scores=change(one).astype(np.float32))


def test_intervals_are_of_differences_between_the_same_patients(compared):
    """By scikit-learn on films that are repeated as often as their patient was drawn."""
    done, _ = compared
    found = done.numbers["compared"][1]["difference"]["average_precision_16"]
    assert found["low"] <= found["value"] <= found["high"]
    arrays = [dict(np.load(done.folder / f"{name}.npz")) for name in ("early", "late")]
    patients, fold, labels = (arrays[0][key] for key in ("patient", "fold", "labels"))
    names, patient_of = np.unique(patients, return_inverse=True)
    drawings = np.random.default_rng(0).integers(len(names), size=(2000, len(names)))[:60]
    slow = []
    for drawing in drawings:
        times = np.bincount(drawing, minlength=len(names))[patient_of]
        of_both = []
        for each in arrays:
            of_folds = []
            for number in np.unique(fold):
                rows = np.repeat(np.flatnonzero(fold == number), times[fold == number])
                if labels[rows][:, 2:].any():
                    of_folds.append(precisions(labels[rows], each["scores"][rows])[1])
            of_both.append(np.mean(of_folds))
        slow.append(of_both[1] - of_both[0])
    # The first of 2,000 resamples lie around the same middle, and as wide.
    shifted = np.array(slow) - np.mean(slow) + found["value"]
    low, high = np.percentile(shifted, (2.5, 97.5))
    assert (low, high) == pytest.approx((found["low"], found["high"]), abs=0.25 * (found["high"] - found["low"]))


def test_the_same_scores_differ_by_nothing_however_patients_are_drawn(compared):
    one = drawn(compared, lambda one: one.scores)
    two = replace(one, study=replace(one.study, name="two"))
    difference = measure_comparison([one, two], resamples=50)["compared"][1]["difference"]
    assert [difference["average_precision"][key] for key in ("value", "low", "high")] == [0.0, 0.0, 0.0]


def test_a_configuration_that_knows_the_labels_is_better_than_the_baseline_and_one_that_does_not_is_not(compared):
    random = np.random.default_rng(1)
    knows = drawn(compared, lambda one: 0.5 * one.development.labels + 0.5 * random.random(one.scores.shape))
    guesses = drawn(compared, lambda one: random.random(one.scores.shape))
    assert measure_comparison([knows], resamples=200)["words"] == []
    (words,) = measure_comparison([guesses], resamples=200)["words"]
    assert words.startswith("early: The model is ")
    assert "than a baseline that sees only the view" in words


# --- Exactly once, by any number of workers


def test_stopped_anywhere_it_goes_on_with_the_same_numbers(fresh, compared, monkeypatch):
    def dies(*_):
        raise Killed

    for owner, name in (
        (story, "run_together"),
        (story, "measure_comparison"),
        (ComparedConfiguration, "save"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dies)
            with pytest.raises(Killed):
                compare(fresh)
        assert not [*fresh.reports.glob("comparison*")]
    assert without_times(compare(fresh).numbers) == without_times(compared[0].numbers)


def test_folds_that_one_worker_left_are_trained_by_another_to_the_same_bits(fresh, compared, monkeypatch):
    trained = []
    with monkeypatch.context() as patch:
        finish = Ledger.finish

        def finishes_twice_then_dies(self, claim, *result):
            if len(trained) == 2:
                raise Killed
            trained.append(claim.number)
            finish(self, claim, *result)

        patch.setattr(Ledger, "finish", finishes_twice_then_dies)
        patch.setattr("rust_optuna.worker.attempt.Attempt._fail", lambda self, error: (_ for _ in ()).throw(error))
        with pytest.raises(Killed):
            compare(fresh)
    with open_database(database_url(fresh)) as database:
        end_leases(database)
    assert without_times(compare(fresh).numbers) == without_times(compared[0].numbers)
    assert len(trained) == 2


@pytest.mark.long
def test_two_workers_of_which_one_is_killed_make_the_same_numbers(fresh, compared):
    url = database_url(fresh).render_as_string()
    words = ("compare", *(fresh.root / file for file in FILES), "--gpus", "none", "--workers", "2")
    for file in FILES:
        assert invoke("study", "create", file, "--home", fresh.root).exit_code == 0
    running = start_command(fresh, url, *words)

    def working():
        with open_database(database_url(fresh), read_only=True) as database:
            return [worker.process for worker in list_workers(database) if worker.point is not None]

    os.kill(wait_until(working, 120)[0], signal.SIGKILL)
    running.communicate(timeout=300)
    done = run_command(fresh, url, *words, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    del document["report"]
    assert without_times(document) == without_times(compared[0].numbers)


def test_scores_that_are_not_those_reported_are_refused(home):
    with open_database(database_url(home)) as database:
        study = load_study(database, "early")
        rows = database.transact(lambda connection: connection.execute(complete_rows(study)).all())
    artifacts = home.root / "storage" / "artifacts"
    shutil.copy(artifacts / rows[1].artifact, artifacts / rows[0].artifact)
    with pytest.raises(DataError, match="does not hold the scores that its worker reported"):
        compare(home)


# --- Weights


def test_a_file_of_a_whole_model_without_its_top_makes_the_backbone(fresh, compared):
    """RadImageNet's file is such a one; it was saved where other models had been built, which changes layers' names."""
    load_keras().layers.Conv2D(1, 1)
    model = build_backbone(BackboneConfiguration(weights="random", image_size=75, output="mixed10"))
    path = fresh.root / "weights" / "RadImageNet-InceptionV3_notop.h5"
    path.parent.mkdir()
    model.save(path)
    document = {**DOCUMENTS["early"], "name": "file", "model": {**MODEL, "weights": str(path.relative_to(fresh.root))}}
    numbers = compare(fresh, DOCUMENTS["early"], document).numbers
    early, from_file = numbers["compared"]
    assert from_file["weights"].startswith("sha256:")
    assert early["weights"].startswith("random")
    assert from_file["fold_curves"] == early["fold_curves"]


# --- The command


def cells(output):
    """Return the rows of both tables of the command's output by study, each cell by its column's title."""
    found = []
    for line in output.splitlines():
        words = re.split(r" {2,}", line.strip())
        if words[0] == "study":
            found.append((words, {}))
        elif found and len(words) == len(found[-1][0]) and words[0] in DOCUMENTS:
            found[-1][1][words[0]] = dict(zip(found[-1][0], words, strict=True))
    return [rows for _, rows in found]


def test_the_command_prints_what_the_report_holds_and_what_comes_next(call, compared):
    done, _ = compared
    output = call("compare", "early.toml", "late.toml", "--gpus", "none", "--workers", "1")
    all_labels, subscores = cells(output)
    for each in done.numbers["compared"]:
        row, row_16 = all_labels[each["study"]], subscores[each["study"]]
        value = each["curve"][each["epoch"] - 1]
        assert row["epoch"] == f"{each['epoch']} of 4"
        assert row["value ± deviation over folds"] == f"{value:.4f} ± {each['deviation']:.4f}"
        assert row["view-only baseline"] == f"{each['baseline_view_only']['average_precision']:.4f}"
        assert row_16["lift"].startswith(f"{each['lift']['value']:+.4f} [{each['lift']['low']:+.4f}, ")
        if each["difference"] is None:
            assert row["difference to early"] == row_16["difference to early"] == "–"
        else:
            shown = each["difference"]["average_precision"]
            assert row["difference to early"] == f"{shown['value']:+.4f} [{shown['low']:+.4f}, {shown['high']:+.4f}]"
    for words in done.numbers["words"]:
        assert f"WARNING: {words}" in output
    assert "selection scores" in output
    assert 'from_best_of = ["early", "late"]' in output
    assert next_words(output)[:1] == ["search"]
    document = json.loads(call("compare", "early", "late", "--json", "--gpus", "none", "--workers", "1"))
    assert document.pop("report").endswith("comparison-early-late")
    assert without_times(document) == without_times(done.numbers)
    alone = call("compare", "late", "--gpus", "none", "--workers", "1")
    assert "difference to" not in alone
    assert 'from_best_of = "late"' in alone


def test_the_picture_shows_every_fold_of_each_configuration(compared):
    done, _ = compared
    tree = ElementTree.parse(done.folder / "curves.svg")
    name = "{http://www.w3.org/2000/svg}"
    words = [element.text for element in tree.iter(f"{name}text")]
    assert {"early", "late"} <= {*words}
    assert len([*tree.iter(f"{name}polyline")]) == 2 * (3 + 1)
    for each in done.numbers["compared"]:
        value = each["curve"][each["epoch"] - 1]
        assert f"{value:.3f} ± {each['deviation']:.3f} at epoch {each['epoch']}" in words


DIFFERING = {
    "seed": ({"cross_validation": {**VALIDATION, "seed": 6}}, "cross_validation.seed  is 6 here and 5 in"),
    "folds": ({"cross_validation": {**VALIDATION, "folds": 2}}, "cross_validation.folds  is 2 here and 3 in"),
    "manifest": ({"manifest": "films/../other.csv"}, "manifest  is .*other.csv here and .*manifest.csv in"),
    "name": ({"name": "early"}, "name  is 'early' in"),
}


@pytest.mark.parametrize("key", DIFFERING)
def test_files_that_cannot_be_paired_are_refused_before_anything_is_created(tmp_path, key):
    home = new_home(tmp_path)
    changes, words = DIFFERING[key]
    shutil.copy(home.root / "manifest.csv", home.root / "other.csv")
    (home.root / "other.toml").write_text(toml({**DOCUMENTS["late"], **changes}))
    done = invoke("compare", "early.toml", "other.toml", "--home", home.root)
    assert done.exit_code == 2
    assert re.search(words, done.output)
    assert not home.database.exists()


def test_a_search_is_not_compared_and_a_configuration_is_not_searched(call, home):
    write_study(home, random_document(1, name="regime"))
    output = call("compare", "early.toml", "regime.toml", code=2)
    assert "describes a search" in output
    output = call("search", "early.toml", "--gpus", "none", code=2)
    assert "there is nothing to search: rust-optuna compare" in output
    assert "There is no such" not in call("compare", "missing", code=2)
    with open_database(database_url(home)) as database:
        create_study(database, configuration(random_document(1, name="regime")), home)
    assert "regime is not a configuration to compare" in call("compare", "early", "regime", code=1)
    assert "early is named twice" in call("compare", "early", "early", code=1)


def test_a_fold_that_could_not_be_trained_is_named(home):
    with open_database(database_url(home)) as database:
        study = load_study(database, "early")
        first = tables.point.update().where(tables.point.c.study_id == study.id, tables.point.c.number == 0)
        database.transact(lambda c: c.execute(first.values(state="hole")))
    with pytest.raises(OpenHolesError, match=r"study retry early --holes\), and run rust-optuna compare early"):
        compare(home)


# --- How the other commands treat such a study


@pytest.mark.parametrize(
    "command", [("best", "early"), ("study", "export", "early", "x"), ("evaluate", "--study", "early")], ids=" ".join
)
def test_folds_have_no_best_and_the_command_that_shows_their_numbers_is_named(call, home, command):
    output = call(*command, code=1)
    assert len(output.splitlines()) == 1
    assert output.strip().endswith("run rust-optuna compare early")
    assert not (home.root / "x").exists()


def test_progress_and_settings_of_a_configuration_are_shown_without_a_best(call, home):
    rows = {line.split()[0]: line.split() for line in call("status").splitlines() if line.startswith(("early", "late"))}
    assert rows["early"][1:] == ["done", "3", "3", "0", "0", "0", "0", "–", "–"]
    listed = {line.split()[0]: line for line in call("study", "list").splitlines()}
    assert listed["late"].endswith("one configuration, to compare")
    assert [each["kind"] for each in json.loads(call("study", "list", "--json"))] == ["comparison", "comparison"]
    assert 'kind = "comparison"' in call("study", "show", "early")
    assert next_words(call("worker", "run", "early"))[:2] == ["compare", "early"]
    assert next_words(call("features", "build", "early.toml"))[:2] == ["compare", "early.toml"]
    assert next_words(call("best"))[:3] == ["compare", "early", "late"]
    with open_database(database_url(home)) as database:
        study = load_study(database, "early")
        assert "each point is a fold of it, none is the best" in note_of(status(database, study))
        with pytest.raises(StudyError, match="compared with others"):
            refuse_evaluation(study)


def test_a_study_can_be_created_for_workers_elsewhere_before_it_is_compared(fresh, compared):
    for file in FILES:
        assert invoke("study", "create", file, "--home", fresh.root).exit_code == 0
    with open_database(database_url(fresh)) as database:
        for name in DOCUMENTS:
            work(database, fresh, name)
    assert without_times(compare(fresh).numbers) == without_times(compared[0].numbers)


# --- What a search takes


HEIR = {
    **random_document(2, name="heir", model={}, cross_validation={"folds": 2, "epochs": 1, "seed": 9}),
    "fixed": {"from_best_of": ["early", "late"]},
}


def test_a_search_takes_the_configuration_of_the_better_one(home, compared, call):
    values = {each["study"]: max(each["curve"]) for each in compared[0].numbers["compared"]}
    better = max(values, key=values.get)
    with open_database(database_url(home)) as database:
        heir = create_study(database, configuration(HEIR), home).study
        assert heir.source.study == better
        assert (heir.source.value, heir.source.candidates) == (values[better], values)
        assert heir.inherited["output"] == DOCUMENTS[better]["model"]["output"]
        assert heir.inherited["learning_rate"] == 1e-3
        assert not {"batch_size", "dropout_rate", "epochs"} & {*heir.inherited}
        # The search has folds, seed and epochs of its own, on purpose.
        assert heir.source.differences == ()
        assert not [note for note in heir.notes if "differs" in note]
        assert not status(database, heir).caveats.stale
        trial = heir.trial_configuration({"batch_size": 4, "dropout_rate": 0.1}, home)
        assert (trial.backbone.output, trial.epochs) == (DOCUMENTS[better]["model"]["output"], 1)
        other = next(name for name in values if name != better)
        assert f"inherited from {better} {values[better]:.4f}, the best of it and {other}" in note_of(
            status(database, heir)
        )
        work(database, home, "heir")
        assert len(complete_points(database, load_study(database, "heir"))) == 2
    assert f"Inherited from {better} " in call("study", "show", "heir")
    # What was compared is gone, so that the choice can no longer be followed.
    with open_database(database_url(home)) as database:
        delete_study(database, better, open_store(database.artifacts(), home))
        assert status(database, load_study(database, "heir")).caveats.stale


def test_a_search_may_name_one_configuration_as_it_would_a_search(home):
    with open_database(database_url(home)) as database:
        document = {**HEIR, "fixed": {"from_best_of": "late"}}
        heir = create_study(database, configuration(document), home).study
    assert (heir.source.study, heir.inherited["output"]) == ("late", "mixed1")


def test_a_search_takes_nothing_from_what_is_not_compared_or_not_done(home):
    with open_database(database_url(home)) as database:
        create_study(database, configuration(random_document(1, name="regime")), home)
        with pytest.raises(StudyError, match="regime is not one configuration to compare"):
            create_study(database, heir_of("early", "regime"), home)
        create_study(database, configuration({**DOCUMENTS["early"], "name": "third"}), home)
        with pytest.raises(StudyError, match="third, which is not done yet: finish it with rust-optuna compare third"):
            create_study(database, heir_of("early", "third"), home)
        other = {**DOCUMENTS["early"], "name": "other", "cross_validation": {**VALIDATION, "seed": 6}}
        create_study(database, configuration(other), home)
        work(database, home, "other")
        with pytest.raises(StudyError, match="other and early cannot be compared: seed is 6 in other and 5 in early"):
            create_study(database, heir_of("early", "other"), home)
        with pytest.raises(StudyError, match="nowhere, which is not in"):
            create_study(database, heir_of("early", "nowhere"), home)


def heir_of(*names):
    return configuration({**HEIR, "fixed": {"from_best_of": [*names]}})


def test_a_stand_in_s_values_are_not_compared(home):
    with open_database(database_url(home)) as database:
        create_study(database, configuration({**DOCUMENTS["early"], "name": "third"}), home)
        make_worker(database, home, "level").run(["third"])
        with pytest.raises(StudyError, match="third, which was run by STAND-IN"):
            create_study(database, heir_of("third"), home)


def test_a_file_with_neither_section_is_one_configuration_and_its_error_says_so():
    with pytest.raises(ConfigurationError, match="is one configuration, for rust-optuna compare"):
        parse_study({"name": "a", "manifest": "b.csv"}, "c.toml")


# --- Whole networks beside a head on features


def test_a_network_that_is_trained_end_to_end_stands_beside_a_head(fresh, compared):
    model = {"architecture": "lenet_1998", "train": "all", "image_size": 75}
    lenet = one_document(name="lenet", model=model, cross_validation={**VALIDATION, "epochs": 2})
    early, network = compare(fresh, DOCUMENTS["early"], lenet).numbers["compared"]
    assert early["curve"] == compared[0].numbers["compared"][0]["curve"]
    assert (network["epochs"], len(network["fold_curves"])) == (2, 3)
    assert network["difference"]["average_precision"]["value"] == pytest.approx(
        max(network["curve"]) - max(early["curve"])
    )
