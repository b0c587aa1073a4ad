"""From the best trial to a model directory, with films that are read, heads that are trained and kills in between."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from sklearn.metrics import average_precision_score

from rust_optuna.cli.evaluation_output import print_evaluation
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import read_manifest, write_manifest
from rust_optuna.errors import DataError, InvalidValueError, ManifestError, OpenedBeforeError, StudyError
from rust_optuna.learn.features import FeatureCache
from rust_optuna.model import evaluation, files
from rust_optuna.model import openings as openings_module
from rust_optuna.model.openings import Openings
from rust_optuna.model.scored import ScoredFilms
from rust_optuna.paths import Home
from rust_optuna.run import evaluation as story
from rust_optuna.run.evaluation import Request
from rust_optuna.search.creation import create_study, delete_study
from rust_optuna.search.evaluation import fold_points, fresh_seed
from rust_optuna.search.results import best_point, complete_points
from rust_optuna.search.studies import load_development, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import create_database, open_database
from tests.cli.test_main import invoke
from tests.cli.test_next_step import next_words
from tests.cli.test_tables import cells_of
from tests.model.story import DOCUMENT, database_url, evaluate, in_this_process, train_folds, work
from tests.studies import Killed, configuration, random_document, run_study

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def home(searched, tmp_path):
    shutil.copytree(searched.root, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(autouse=True)
def workers_in_this_process(monkeypatch):
    """Run what `evaluate` has workers do in this process: TensorFlow is loaded here already."""
    in_this_process(monkeypatch)


def openings(home):
    with open_database(database_url(home)) as database:
        return Openings(database, home.root / "manifest.openings.json").all()


def average_precision_16(films):
    columns = [column for column in range(2, 18) if films.labels[:, column].any()]
    return np.mean([average_precision_score(films.labels[:, c], films.scores[:, c]) for c in columns])


def test_the_hold_out_is_met_by_the_heads_of_fresh_folds(evaluated):
    done, home = evaluated
    with open_database(database_url(home)) as database:
        source, study = load_study(database, "regime-1"), load_study(database, "regime-1-evaluation")
        best = best_point(database, source)
        folds = fold_points(database, study)
        searched_on, fresh = load_development(database, source), load_development(database, study)
        (row,) = database.transact(lambda c: c.execute(sa.select(tables.model)).all())

    # What is trained is the best point, for the epochs that the search chose, on folds and seeds of its own.
    values = study.configuration.values({}, study.inherited)
    for key in ("batch_size", "dropout_rate"):
        assert values[key] == best.parameters[key]
    assert values["epochs"] == best.report.epoch == len(folds[0].report.curve)
    assert study.configuration.seed == fresh_seed(5) != 5
    assert set(fresh.folds.tolist()) == {0, 1, 2} != set(searched_on.folds.tolist())
    seeds = {point.report.seed for point in folds}
    assert len(seeds) == 3
    for point in complete_points_of(home, "regime-1"):
        assert not seeds & set(point.report.seeds.folds)

    # The films that are scored are those that the manifest holds out, and no others.
    manifest = read_manifest(home.root / "manifest.csv")
    held_out = FilmIndex(home.root / "index.json").add([film.image for film in manifest.part("holdout")])
    arrays = {path.stem: ScoredFilms.load(path) for path in (done.folder / "arrays").iterdir()}
    for name in ("best_fold", "mean", "mean_flips", "whole"):
        assert sorted(arrays[name].content) == sorted(held_out.values())
    assert sorted(arrays["out_of_fold"].content) == list(fresh.content)

    # The numbers are those of the arrays; the record and the database name the same models.
    primary = done.metrics["holdout"]["best_fold"]["labels"]["macro_16"]["model"]["average_precision"]["value"]
    assert primary == pytest.approx(average_precision_16(arrays["best_fold"]), abs=1e-12)
    assert done.opening.numbers["average_precision_16"]["value"] == primary
    assert done.metrics["fresh"]["fold_values"] == [point.report.value for point in folds]
    assert done.metrics["selection"]["average_precision"] == best.value
    model = files.load_model(done.folder)
    assert {name: head.sha256 for name, head in model.heads.items()} == dict(done.opening.models)
    assert model.card.primary == f"repeat-0-fold-{int(np.argmax([point.report.value for point in folds]))}"
    assert (row.name, row.opening, row.sha256) == ("regime-1", done.opening.id, files.directory_sha256(done.folder))


def complete_points_of(home, name):
    with open_database(database_url(home)) as database:
        return complete_points(database, load_study(database, name))


def test_each_model_scores_as_its_name_says(evaluated):
    done, home = evaluated
    model = files.load_model(done.folder)
    arrays = {path.stem: ScoredFilms.load(path) for path in (done.folder / "arrays").iterdir()}
    cache = FeatureCache(home.holdout / "features", model.card.backbone)
    table = cache.load(arrays["whole"].content).table
    folds = [model.heads[f"repeat-0-fold-{fold}"] for fold in range(3)]
    each = np.array([[head.scores(table[:, flip]) for flip in range(4)] for head in folds])
    np.testing.assert_array_equal(arrays["best_fold"].scores, model.heads[model.card.primary].scores(table[:, 0]))
    np.testing.assert_array_equal(arrays["whole"].scores, model.heads["whole"].scores(table[:, 0]))
    np.testing.assert_allclose(arrays["mean"].scores, each[:, 0].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(arrays["mean_flips"].scores, each.mean(axis=(0, 1)), rtol=1e-6)


def test_baselines_know_the_training_films_alone(evaluated):
    done, home = evaluated
    films = {path.stem: ScoredFilms.load(path) for path in (done.folder / "arrays").iterdir()}
    with open_database(database_url(home)) as database:
        development = load_development(database, load_study(database, "regime-1-evaluation"))
    np.testing.assert_allclose(films["whole"].frequencies[0], development.labels.mean(axis=0))
    for position, view in enumerate(("anteroposterior", "lateral")):
        rows = development.labels[:, position] == 1
        seen = films["whole"].labels[:, position] == 1
        assert films["whole"].view_only[seen] == pytest.approx(
            np.tile(development.labels[rows].mean(axis=0), (seen.sum(), 1))
        )
        for fold in range(3):
            here = (development.folds == fold) & rows
            others = (development.folds != fold) & rows
            assert films["out_of_fold"].view_only[here] == pytest.approx(
                np.tile(development.labels[others].mean(axis=0), (here.sum(), 1))
            ), view


STAGES = {
    "after the record's file": (openings_module, "atomic_write"),
    "after the record": (evaluation.HoldOut, "features"),
    "after scoring": (evaluation, "measure"),
    "in the middle of the directory": (files, "save_head"),
    "after the directory": (Openings, "complete"),
    "after the numbers": (evaluation, "_register"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_anywhere_it_is_the_same_opening_with_the_same_numbers(home, evaluated, monkeypatch, stage):
    undisturbed, _ = evaluated
    owner, name = STAGES[stage]
    calls = 0

    @contextmanager
    def dies_after_writing(path):
        with real(path) as temporary:
            yield temporary
        raise Killed

    def dies(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if stage == "after the record's file":
            return dies_after_writing(*arguments)
        raise Killed

    real = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            evaluate(home)
    assert calls
    # Whatever was scored by then, the record came first.
    (begun,) = openings(home)
    assert (begun.numbers is None) == (stage != "after the numbers")
    done = evaluate(home)
    assert len(openings(home)) == 1
    assert done.opening.id == undisturbed.opening.id
    assert done.opening.numbers == undisturbed.opening.numbers
    assert json.dumps(done.metrics) == json.dumps(undisturbed.metrics)
    assert [path.name for path in home.models.iterdir()] == ["regime-1"]
    files.check_directory(done.folder)


def test_evaluated_again_it_is_the_same_opening(home, monkeypatch):
    # In a container the user may have a number only.
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    done, again = evaluate(home), evaluate(home)
    assert (again.opening, again.metrics) == (done.opening, done.metrics)
    assert str(os.geteuid()) in done.opening.asked_by
    assert len(openings(home)) == 1


def openings_file(home):
    return home.root / "manifest.openings.json"


def test_other_models_are_refused_before_they_are_trained_or_scored(home, monkeypatch):
    evaluate(home)
    with open_database(database_url(home)) as database:
        delete_study(database, "regime-1-evaluation", open_store(database.artifacts(), home))
    monkeypatch.setattr(story, "run_workers", None)
    with pytest.raises(OpenedBeforeError):
        evaluate(home, Request(study="regime-1", folds=2))
    assert len(openings(home)) == 1


@pytest.mark.parametrize("changed", [{"folds": 2}, {"folds": 3, "seeds": 2}])
def test_an_evaluation_goes_on_with_the_folds_and_seeds_that_it_began_with(home, monkeypatch, changed):
    evaluate(home)
    monkeypatch.setattr(story, "create_study", None)  # before anything is hashed
    with pytest.raises(StudyError, match=r"regime-1-evaluation was created with --folds 3 --seeds 1: .*study delete"):
        evaluate(home, Request(study="regime-1", **changed))


def test_an_evaluation_of_a_former_best_point_does_not_go_on(home):
    with open_database(database_url(home)) as database:
        train_folds(database, home)
        study = load_study(database, "regime-1")
        others = sa.and_(
            tables.point.c.study_id == study.id, tables.point.c.number != best_point(database, study).number
        )
        database.transact(lambda c: c.execute(tables.point.update().where(others).values(value=0.99)))
    with pytest.raises(StudyError, match=r"a former best point of regime-1.*study delete regime-1-evaluation"):
        evaluate(home)
    assert openings(home) == []


def test_again_opens_it_and_every_opening_is_shown(home, capsys):
    first = evaluate(home)
    with open_database(database_url(home)) as database:
        delete_study(database, "regime-1-evaluation", open_store(database.artifacts(), home))
    second = Request(study="regime-1", folds=2, again=True)
    with pytest.raises(DataError, match=r"holds another model.*--name"):
        evaluate(home, second)
    assert len(openings(home)) == 1
    done = evaluate(home, Request(study="regime-1", folds=2, again=True, name="second"))
    assert [opening.id for opening in done.openings] == [first.opening.id, done.opening.id]
    print_evaluation(done)
    printed = cells_of(capsys.readouterr().out)
    for each in (first, done):
        assert ["regime-1", " ".join(shown(each.opening.numbers["average_precision_16"]))] in [
            row[1:] for row in printed
        ]


def test_a_database_made_anew_does_not_seal_the_hold_out_again(home):
    evaluate(home)
    shutil.rmtree(home.storage)
    with create_database(database_url(home), "storage/artifacts") as database:
        create_study(database, configuration({**DOCUMENT, "name": "other"}), home)
        work(database, home, "other")
    with pytest.raises(OpenedBeforeError, match="by regime-1"):
        evaluate(home, Request(study="other", folds=3))


def test_a_hold_out_film_under_another_name_is_refused(home):
    manifest = read_manifest(home.root / "manifest.csv")
    films = list(manifest.films)
    (home.root / "films" / "copy.png").write_bytes(films[0].image.read_bytes())
    films[-1] = type(films[-1])(**{**vars(films[-1]), "image": home.root / "films" / "copy.png"})
    write_manifest(manifest.path, films)
    with pytest.raises(ManifestError, match=r"the same pixels.*on both sides of the split"):
        evaluate(home)
    assert openings(home) == []


def test_films_that_the_search_has_seen_are_refused(home):
    manifest = read_manifest(home.root / "manifest.csv")
    with open_database(database_url(home)) as database:
        development = load_development(database, load_study(database, "regime-1"))
    leak = next(film for film in manifest.films if film.split == "development")
    moved = [type(f)(**{**vars(f), "split": "holdout"}) if f.patient == leak.patient else f for f in manifest.films]
    leaking = type(manifest)(manifest.path, tuple(moved))
    with pytest.raises(DataError, match="the search has seen the film in row"):
        evaluation.find_hold_out(leaking, home, [development])


def test_films_that_an_earlier_search_has_seen_are_refused(home):
    manifest = read_manifest(home.root / "manifest.csv")
    first = manifest.part("development")[0].patient
    with open_database(database_url(home)) as database:
        moved = [type(f)(**{**vars(f), "split": "holdout"}) if f.patient == first else f for f in manifest.films]
        write_manifest(manifest.path, moved)
        grid = {"sampler": {"type": "grid", "seed": 3}, "search_space": {"learning_rate": [1e-3]}}
        document = {**DOCUMENT, "name": "regime-2", "fixed": {"from_best_of": "regime-1"}, **grid}
        create_study(database, configuration(document), home)
        work(database, home, "regime-2")
    with pytest.raises(DataError, match="the search has seen the film in row"):
        evaluate(home, Request(study="regime-2", folds=3))
    assert openings(home) == []


def test_a_patient_on_both_sides_is_refused(home):
    manifest = read_manifest(home.root / "manifest.csv")
    films = list(manifest.films)
    films[-1] = type(films[-1])(**{**vars(films[-1]), "patient": films[0].patient})
    write_manifest(manifest.path, films)
    with pytest.raises(ManifestError, match="both sides of the split"):
        evaluate(home)
    assert openings(home) == []


def test_an_evaluation_needs_a_search_that_is_done_and_real(home, monkeypatch):
    with open_database(database_url(home)) as database:
        with pytest.raises(StudyError, match="points are folds of one model"):
            evaluate(home, Request(study="regime-1-evaluation"))
        run_study(database, home, random_document(1, name="pretended"))
        with pytest.raises(StudyError, match="STAND-IN"):
            evaluate(home, Request(study="pretended"))
        with pytest.raises(StudyError, match="Several searches could be evaluated"):
            evaluate(home, Request())
    assert openings(home) == []


def test_films_that_were_moved_are_found_below_the_data_root(home, evaluated, tmp_path):
    (home.root / "films").rename(tmp_path / "disk2")
    done = evaluate(home, Request(study="regime-1", folds=3, data_root=tmp_path / "disk2"))
    undisturbed, _ = evaluated
    assert json.dumps(done.metrics) == json.dumps(undisturbed.metrics)


def test_a_manifest_that_is_not_known_here_is_named(home):
    home.manifests.unlink()
    with pytest.raises(DataError, match=r"not known on this machine: name it with --manifest"):
        evaluate(home)
    manifest = home.root / "manifest.csv"
    moved = manifest.rename(home.root / "renamed.csv")
    done = evaluate(home, Request(study="regime-1", folds=3, manifest=moved))
    assert done.record == home.root / "renamed.openings.json"


def test_a_head_that_is_not_the_one_reported_keeps_the_hold_out_shut(home):
    with open_database(database_url(home)) as database:
        first, second, _ = fold_points(database, load_study(database, "regime-1-evaluation"))
    store = home.storage / "artifacts"
    shutil.copy(store / second.report.artifact, store / first.report.artifact)
    with pytest.raises(DataError, match="does not hold the head that its worker reported"):
        evaluate(home)
    assert openings(home) == []


def test_a_record_goes_where_it_can_be_written(home, tmp_path):
    done = evaluate(home, Request(study="regime-1", folds=3, record=tmp_path / "records"))
    assert done.record == Path(tmp_path / "records" / "manifest.openings.json")
    assert done.record.is_file()
    assert not openings_file(home).exists()


def test_the_command_ends_with_what_comes_next(evaluated, tmp_path):
    done, source = evaluated
    shutil.copytree(source.root, tmp_path / "home")
    output = invoke("evaluate", "--study", "regime-1", "--folds", "3", "--home", tmp_path / "home").stdout
    estimate = done.metrics["holdout"]["best_fold"]["labels"]["macro_16"]["model"]["average_precision"]
    interval = f"[{estimate['low']:.4f}, {estimate['high']:.4f}]"
    assert ["best fold's model (primary)", f"{estimate['value']:.4f}", interval] in cells_of(output)
    assert "The search had 2 folds. The more folds there are, the smaller is each set" in output
    assert next_words(output)[:5] == ["evaluate", "--external", "MANIFEST.csv", "--model", "regime-1"]


def shown(estimate):
    """Return the cells of an estimate and of its interval."""
    value, low, high = (
        "–" if estimate[k] is None else f"{round(estimate[k], 4) + 0.0:.4f}" for k in ("value", "low", "high")
    )
    return [value, f"[{low}, {high}]"]


def test_each_row_that_is_printed_has_the_numbers_that_it_names(evaluated, capsys):
    done, _ = evaluated
    print_evaluation(done)
    cells = cells_of(capsys.readouterr().out)
    metrics, holdout = done.metrics, done.metrics["holdout"]
    for title, key in (("the 18 labels", "average_precision"), ("the 16 subscores", "average_precision_16")):
        assert [title, *(f"{metrics[of][key]:.4f}" for of in ("selection", "fresh"))] in cells
    macro = {model: numbers["labels"]["macro_16"] for model, numbers in holdout.items()}
    scores = {
        "best fold's model (primary)": macro["best_fold"]["model"],
        "mean of all folds' models": macro["mean"]["model"],
        "the same, mean over the four flips": macro["mean_flips"]["model"],
        "model of the whole development set": macro["whole"]["model"],
        "baseline: sees only the view": macro["best_fold"]["view_only"],
        "baseline: label frequencies": macro["best_fold"]["frequencies"],
    }
    for title, numbers in scores.items():
        assert [title, *shown(numbers["average_precision"])] in cells
    numbers = holdout["best_fold"]
    subscores, sets = numbers["subscores"]["mean"], numbers["sets"]["mean"]["model"]
    total, united = numbers["fractures"]["total"], numbers["fractures"]["united"]
    beside = {
        "subscore, exact": (subscores, "exact"),
        "subscore, within one": (subscores, "within_one"),
        "quadratic-weighted kappa": (subscores, "quadratic_kappa"),
        "total of a fracture, mean absolute error": (total, "mean_absolute_error"),
        "total of a fracture, ICC(2,1)": (total, "icc"),
        "united (total ≥ 13), ROC-AUC": (united, "roc_auc"),
        "united (total ≥ 13), Brier score": (united, "brier"),
    }
    for title, (of, key) in beside.items():
        assert [title, *shown(of["model"][key]), shown(of["view_only"][key])[0]] in cells
    assert ["sets of subscores, coverage (aim: 0.9)", *shown(sets["coverage"])] in cells
    assert ["sets of subscores, mean size", *shown(sets["mean_size"])] in cells


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 101])
def test_a_name_that_is_no_folder_below_the_models_is_refused(home, name):
    with pytest.raises(InvalidValueError, match="--name"):
        evaluate(home, Request(study="regime-1", folds=3, name=name))
    assert openings(home) == []


def test_a_threshold_outside_the_scale_leaves_the_hold_out_shut(home):
    with pytest.raises(InvalidValueError, match="does not divide the totals"):
        evaluate(home, Request(study="regime-1", folds=3, threshold=4))
    assert openings(home) == []


def test_another_threshold_needs_another_name(home):
    done = evaluate(home)
    with pytest.raises(DataError, match=r"from a total of 13, not 12.*--name"):
        evaluate(home, Request(study="regime-1", folds=3, threshold=12))
    other = evaluate(home, Request(study="regime-1", folds=3, threshold=12, name="from-12"))
    assert other.metrics["holdout"]["best_fold"]["fractures"]["threshold"] == 12
    assert other.opening == done.opening
    assert len(openings(home)) == 1
    files.check_directory(done.folder)


def test_other_labels_of_the_hold_out_are_another_opening(home):
    done = evaluate(home)
    manifest = read_manifest(home.root / "manifest.csv")
    films = list(manifest.films)
    scores = tuple(None if score is None else 5 - score for score in films[-1].subscores)
    films[-1] = type(films[-1])(**{**vars(films[-1]), "subscores": scores})
    write_manifest(manifest.path, films)
    with pytest.raises(DataError, match="holds another model"):
        evaluate(home)
    with pytest.raises(OpenedBeforeError):
        evaluate(home, Request(study="regime-1", folds=3, name="relabelled"))
    assert openings(home) == [done.opening]


def test_what_killed_processes_left_of_the_whole_head_and_the_record_is_removed(home):
    leftovers = []

    def leave(path):
        path.parent.mkdir(exist_ok=True)
        leftovers.append(path.with_name(f".{path.name}.0123456789ab.tmp"))
        leftovers[-1].write_text("half")

    with open_database(database_url(home)) as database:
        study = load_study(database, "regime-1-evaluation")
    leave(home.fits / f"{study.name}-{study.created_at:.6f}.npz")
    leave(openings_file(home))
    evaluate(home)
    assert not [path for path in leftovers if path.exists()]
