"""Cross-validation that leaves out one hospital at a time: its folds, its numbers, and how its studies are shown."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sqlalchemy as sa
from sklearn.metrics import average_precision_score

from rust_optuna.config import StudyKind
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import read_manifest
from rust_optuna.data.metrics import expected_average_precision
from rust_optuna.errors import DataError, FingerprintError, StudyError
from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.model import files
from rust_optuna.model.by_source import measure_by_source
from rust_optuna.model.scored import ScoredFilms
from rust_optuna.paths import Home
from rust_optuna.run import by_source
from rust_optuna.run import evaluation as story
from rust_optuna.run.by_source import SourcesRequest
from rust_optuna.search.creation import create_study
from rust_optuna.search.evaluation import fold_points, refuse_evaluation
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.note import note_of
from rust_optuna.search.results import complete_points, status
from rust_optuna.search.studies import load_development, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import open_database
from tests.cli.test_main import invoke
from tests.cli.test_next_step import next_words
from tests.data.films import rewrite
from tests.model.films import draw_films
from tests.model.story import DOCUMENT, database_url, in_this_process
from tests.model.test_evaluation import average_precision_16
from tests.studies import REPOSITORY, Killed, configuration, random_document, site_of, toml

pytestmark = pytest.mark.tensorflow
SOURCES = ("Bergen", "Oslo", "Tromsø")
REQUEST = SourcesRequest(study="regime-1")


def source_of(film):
    return SOURCES[::-1][int(film.patient.removeprefix("MRN-")) % 3]


def with_sources(home, of=source_of):
    manifest = read_manifest(home.root / "manifest.csv")
    return rewrite(manifest, source={film.row: of(film) for film in manifest.films})


@pytest.fixture(autouse=True)
def workers_in_this_process(monkeypatch):
    in_this_process(monkeypatch)
    monkeypatch.setattr("rust_optuna.worker.stopping.stop_on_signals", lambda stop: None)


@pytest.fixture(scope="module")
def scored(searched, tmp_path_factory):
    """A cross-validation by source that nothing disturbed, with the home in which it took place."""
    home = Home(tmp_path_factory.mktemp("by-source") / "home")
    shutil.copytree(searched.root, home.root)
    with_sources(home)
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        return evaluate(home), home


@pytest.fixture
def home(searched, tmp_path):
    shutil.copytree(searched.root, tmp_path / "home")
    return Home(tmp_path / "home")


def evaluate(home, request=REQUEST):
    return by_source.evaluate_by_source(site_of(home, database_url(home)), request, DeviceChoice("none", 1))


def test_each_source_is_scored_by_a_head_that_was_trained_on_the_others(scored):
    done, home = scored
    manifest = read_manifest(home.root / "manifest.csv")
    hashes = FilmIndex(home.root / "index.json").add([film.image for film in manifest.part("development")])
    source = {hashes[film.image]: film.source for film in manifest.part("development")}
    with open_database(database_url(home)) as database:
        study = load_study(database, "regime-1-by-source")
        development, points = load_development(database, study), fold_points(database, study)
        store = open_store(database.artifacts(), home)
        kept_points, folds = by_source.fitted_folds(database, study, store)
    assert study.configuration.kind == StudyKind.SOURCES
    assert [point.fold for point in kept_points] == [0, 1, 2]
    films = ScoredFilms.load(done.folder / "out_of_fold.npz")
    row = {content: position for position, content in enumerate(films.content)}
    for position, name in enumerate(SOURCES):
        left_out = {content for content, of in source.items() if of == name}
        assert set(folds[position].films.tolist()) == left_out
        rows = [row[content] for content in folds[position].films.tolist()]
        assert {films.sources[each] for each in rows} == {name}
        np.testing.assert_array_equal(films.scores[rows], folds[position].scores)
        others = np.array([source[content] != name for content in development.content])
        np.testing.assert_allclose(films.frequencies[rows[0]], development.labels[others].mean(axis=0))
    assert sorted(films.content) == sorted(source)
    assert {point.report.epoch for point in points} == {done.numbers["epochs"]}


def test_the_script_recomputes_the_numbers_and_finds_a_changed_one(scored, tmp_path):
    done, _ = scored
    shutil.copytree(done.folder, tmp_path / "report")
    command = [sys.executable, REPOSITORY / "docs" / "recompute_evaluation.py", tmp_path / "report"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "numbers compared" in found.stdout
    path = tmp_path / "report" / "numbers.json"
    numbers = json.loads(path.read_text())
    numbers["mean_over_sources"]["lift"]["value"] += 1e-6
    path.write_text(json.dumps(numbers))
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stdout.startswith("by source, mean_over_sources, lift: reported")


def test_the_report_holds_the_numbers_of_each_source_and_no_patient(scored):
    done, home = scored
    assert done.folder == home.reports / "regime-1-by-source"
    files.check_directory(done.folder)
    text = (done.folder / "numbers.json").read_text()
    assert json.loads(text) == done.numbers
    assert "MRN" not in text
    films = ScoredFilms.load(done.folder / "out_of_fold.npz")
    groups = done.numbers["subgroups"]["source"]
    assert list(groups) == list(SOURCES)
    for name, group in groups.items():
        here = films.take(np.flatnonzero(np.array(films.sources) == name))
        assert (group["films"], group["patients"]) == (len(here), len(set(here.patients)))
        assert group["model"]["average_precision"]["value"] == pytest.approx(average_precision_16(here), abs=1e-12)
    text = json.dumps(done.numbers["labels"])
    assert "recall" in text
    assert "at_threshold" not in text


def test_no_source_enters_the_database_and_the_hold_out_stays_sealed(scored, searched):
    _, home = scored
    stored = home.database.read_bytes()
    assert b"regime-1-by-source" in stored
    assert not any(name.encode() in stored or json.dumps(name).encode()[1:-1] in stored for name in SOURCES)
    assert not home.holdout.exists()
    assert not (home.root / "manifest.openings.json").exists()


def test_stopped_it_goes_on_with_the_same_numbers(home, scored, monkeypatch):
    with_sources(home)

    def dies(*_):
        raise Killed

    for owner, name in ((story, "run_workers"), (by_source, "measure_by_source"), (ScoredFilms, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dies)
            with pytest.raises(Killed):
                evaluate(home)
        assert not (home.reports / "regime-1-by-source").exists()
    done = evaluate(home)
    assert json.dumps(done.numbers) == json.dumps(scored[0].numbers)
    monkeypatch.setattr(by_source, "train_folds", lambda database, site, creation, *_: creation.study)
    assert json.dumps(evaluate(home).numbers) == json.dumps(done.numbers)


REFUSED = {
    "no column": (lambda film: "", "does not say where its films come from: it has no column `source`"),
    "some without": (lambda film: "" if film.row in (3, 5) else source_of(film), "rows 3, 5 without a source"),
    "one source": (lambda film: "Oslo", "all development films are of one source"),
    "a source that is held out whole": (
        lambda film: "Oslo" if film.split == "development" else "Bergen",
        "all development films are of one source",
    ),
    "a patient of two": (lambda film: SOURCES[film.row % 2], "rows 2, 3 are of one patient and of two sources"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_films_that_cannot_be_left_out_by_source_are_refused(home, fault):
    of, words = REFUSED[fault]
    with_sources(home, of)
    with pytest.raises(DataError, match=words) as refused:
        evaluate(home)
    assert "\n" not in str(refused.value)
    with open_database(database_url(home)) as database, pytest.raises(StudyError, match="No study"):
        load_study(database, "regime-1-by-source")


def test_other_sources_than_those_of_the_folds_are_refused(scored):
    _, home = scored
    before = (home.root / "manifest.csv").read_bytes()
    with_sources(home, lambda film: SOURCES[int(film.patient.removeprefix("MRN-")) % 3])
    with pytest.raises(FingerprintError, match="the folds differ"):
        evaluate(home)
    (home.root / "manifest.csv").write_bytes(before)


def slow_lift(films):
    """Return the average precision of model and view-only baseline, and the lift, of films of one source."""
    labels = [column for column in range(2, 18) if films.labels[:, column].any()]
    model = [average_precision_score(films.labels[:, c], films.scores[:, c]) for c in labels]
    tied = [average_precision_score(films.labels[:, c], films.view_only[:, c]) for c in labels]
    untied = expected_average_precision(films.labels[:, labels], films.view_only[:, labels])
    return np.array([np.mean(model), np.mean(tied), np.mean(model) - np.mean(untied)])


def test_the_mean_over_sources_ranks_films_within_their_source_alone():
    films = draw_films(3, 30, sources=True)
    # A head whose scores are all lower on one source: pooled films would be ranked by their source.
    of_a = np.array(films.sources) == "A"
    shifted = films.with_scores(np.where(of_a[:, None], films.scores / 100, films.scores).astype(np.float32))
    found = measure_by_source(shifted, resamples=50)["mean_over_sources"]
    each = [slow_lift(films.take(np.flatnonzero(np.array(films.sources) == name))) for name in "AB"]
    ours = [found["model"]["average_precision"], found["view_only"]["average_precision"], found["lift"]]
    np.testing.assert_allclose([number["value"] for number in ours], np.mean(each, axis=0), atol=1e-9)
    assert ours[0]["low"] < ours[0]["value"] < ours[0]["high"]


def test_a_source_for_which_the_model_is_no_better_than_its_baseline_is_named():
    films = draw_films(4, 60, skill=3.0, sources=True)
    assert measure_by_source(films, resamples=200)["words"] == []
    random = np.random.default_rng(0).random(films.scores.shape).astype(np.float32)
    of_b = np.array(films.sources) == "B"
    half = films.with_scores(np.where(of_b[:, None], random, films.scores))
    (words,) = [each for each in measure_by_source(half, resamples=200)["words"] if not each.startswith("Mean")]
    assert words.startswith("Films of B: The model is")
    assert "than a baseline that sees only the view" in words


@pytest.fixture(scope="module")
def both(scored, tmp_path_factory):
    """A home with a search, its evaluation's folds and its cross-validation by source, all done."""
    home = Home(tmp_path_factory.mktemp("both") / "home")
    shutil.copytree(scored[1].root, home.root)
    return home


@pytest.fixture
def call(both):
    def call(*arguments, code=0):
        done = invoke(*arguments, "--home", both.root)
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    return call


def test_the_best_trial_is_that_of_searches_alone(call):
    output = call("best")
    assert output.count(": trial ") == 1
    assert output.startswith("regime-1: trial")
    assert [each["study"] for each in json.loads(call("best", "--json"))] == ["regime-1"]


@pytest.mark.parametrize("command", [("best", "{}"), ("study", "export", "{}", "x")], ids=["best", "export"])
@pytest.mark.parametrize(("study", "more"), [("regime-1-evaluation", ""), ("regime-1-by-source", " --by-source")])
def test_folds_have_no_best_and_are_not_exported(call, both, command, study, more):
    output = call(*(word.format(study) for word in command), code=1)
    assert len(output.splitlines()) == 1
    assert output.strip().endswith(f"run rust-optuna evaluate --study regime-1{more}")
    assert not (both.root / "x").exists()


def test_progress_and_settings_of_folds_are_shown_without_a_best(call):
    rows = {line.split()[0]: line.split() for line in call("status").splitlines() if line.startswith("regime")}
    assert rows["regime-1-by-source"][1:] == ["done", "3", "3", "0", "0", "0", "0", "–", "–"]
    assert rows["regime-1"][-1] != "–"
    for study in json.loads(call("status", "--json")):
        assert (study["best_value"] is None) == (study["study"] != "regime-1")
    shown = call("study", "show", "regime-1-by-source")
    assert 'kind = "sources"' in shown
    assert "Inherited from regime-1" in shown
    listed = {line.split()[0]: line for line in call("study", "list").splitlines() if line.startswith("regime")}
    assert listed["regime-1-evaluation"].endswith("evaluates regime-1")
    assert listed["regime-1-by-source"].endswith("evaluates regime-1 by source")
    kinds = [study.get("kind") for study in json.loads(call("study", "list", "--json"))]
    assert kinds == [None, "evaluation", "sources"]


def test_the_dashboard_s_note_says_what_the_points_are(both):
    with open_database(database_url(both)) as database:
        for name in ("regime-1-evaluation", "regime-1-by-source"):
            study = load_study(database, name)
            note = note_of(status(database, study))
            assert "- evaluation of regime-1: each point is a fold of one model" in note
            assert "best trial" not in note
            mirror = Mirror(database, study)
            mirror.describe_study()
            assert note_of(status(database, study)) == note
        assert "evaluation of" not in note_of(status(database, load_study(database, "regime-1")))


def test_what_comes_next_is_the_evaluation(call, both):
    for command in (("best",), ("best", "regime-1")):
        assert next_words(call(*command))[:3] == ["evaluate", "--study", "regime-1"]
    assert next_words(call("worker", "run", "regime-1-evaluation"))[:3] == ["evaluate", "--study", "regime-1"]
    after = next_words(call("worker", "run", "regime-1-by-source"))[:4]
    assert after == ["evaluate", "--study", "regime-1", "--by-source"]
    assert next_words(call("worker", "run"))[:1] == ["best"]
    assert "Next" not in call("best", "regime-1", "--json")
    (both.root / "regime-1.toml").write_text(toml(DOCUMENT))
    searched = next_words(call("search", "regime-1.toml", "--gpus", "none", "--workers", "1"))
    assert searched[:3] == ["evaluate", "--study", "regime-1"]


def test_a_search_with_a_hole_that_nobody_accepted_is_not_sent_on_to_its_evaluation(home):
    with open_database(database_url(home)) as database:
        study = load_study(database, "regime-1")
        worst = min(complete_points(database, study), key=lambda point: point.value)
        row = sa.and_(tables.point.c.study_id == study.id, tables.point.c.number == worst.number)
        database.transact(lambda c: c.execute(tables.point.update().where(row).values(state="hole")))
    assert "Next" not in invoke("best", "regime-1", "--home", home.root).stdout
    with open_database(database_url(home)) as database:
        database.transact(lambda c: c.execute(tables.point.update().where(row).values(accepted=1)))
    assert "Next: rust-optuna evaluate" in invoke("best", "regime-1", "--home", home.root).stdout


def test_the_command_prints_each_source_and_what_comes_next(call, both, scored):
    done, _ = scored
    output = call("evaluate", "--by-source", "--study", "regime-1")
    rows = {line.split()[0]: line for line in output.splitlines() if line.startswith("  ")}
    for name, group in done.numbers["subgroups"]["source"].items():
        cells = rows[name].split()
        assert cells[1:3] == [str(group["films"]), str(group["patients"])]
        assert cells[3] == f"{group['model']['average_precision']['value']:.4f}"
        # What is printed of the baseline is what the lift is over.
        baseline = group["view_only_untied"]["average_precision"]
        assert f"{baseline['value']:.4f} [{baseline['low']:.4f}" in rows[name]
        assert f"{group['lift']['value']:.4f} [{group['lift']['low']:.4f}" in rows[name]
    assert f"{done.numbers['mean_over_sources']['lift']['value']:.4f}" in rows["mean"]
    for words in done.numbers["words"]:
        assert f"WARNING: {words}" in output
    assert done.numbers["words"]
    assert next_words(output)[:3] == ["evaluate", "--study", "regime-1"]
    (both.models / "regime-1").mkdir(parents=True)
    output = call("evaluate", "--by-source", "--study", "regime-1")
    assert "with films of another hospital" in output.splitlines()[-1]
    assert next_words(output)[:5] == ["evaluate", "--external", "MANIFEST.csv", "--model", "regime-1"]
    document = json.loads(call("evaluate", "--by-source", "--study", "regime-1", "--json"))
    document.pop("report")
    assert document == done.numbers


def test_an_evaluation_gives_no_hyperparameters_and_no_file_can_describe_one(home):
    with open_database(database_url(home)) as database:
        study = load_study(database, "regime-1-evaluation")
        with pytest.raises(StudyError, match=r"evaluate --study regime-1$"):
            refuse_evaluation(study)
        heir = random_document(1, name="heir", fixed={"from_best_of": study.name}, model={"weights": "random"})
        with pytest.raises(StudyError, match="is not a search: its points are folds"):
            create_study(
                database, configuration({**heir, "fixed": {"from_best_of": study.name, "epsilon": 1e-7}}), home
            )
    with pytest.raises(Exception, match="kind  is not a key here"):
        configuration(random_document(1, kind="evaluation"))
