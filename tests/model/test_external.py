"""The models of a finished evaluation on a second data set: what they score, what is refused, and what is written."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import read_manifest, write_manifest
from rust_optuna.errors import DataError, ManifestError, MissingWeightsError
from rust_optuna.learn.features import FeatureCache
from rust_optuna.model import files
from rust_optuna.model.external import find_external, find_model, meet_external, refuse_other_features
from rust_optuna.model.films import UnseenFilms
from rust_optuna.model.scored import ScoredFilms
from rust_optuna.paths import Home
from rust_optuna.run import external as story
from rust_optuna.storage import tables
from rust_optuna.storage.database import open_database
from tests.cli.test_main import invoke
from tests.cli.test_tables import cells_of
from tests.data.films import draw_film, make_manifest, rewrite
from tests.model.story import database_url
from tests.model.test_evaluation import average_precision_16
from tests.studies import REPOSITORY, Killed, site_of

pytestmark = pytest.mark.tensorflow
MODELS = ("best_fold", "mean", "mean_flips", "whole")
FIRST = 1000


@pytest.fixture(scope="module")
def home(evaluated, tmp_path_factory):
    """A home with a model, and a second data set in it."""
    _, source = evaluated
    home = Home(tmp_path_factory.mktemp("external") / "home")
    shutil.copytree(source.root, home.root)
    make_manifest(home.root / "other", patients=6, holdout=2, first=FIRST)
    return home


@pytest.fixture(scope="module")
def before(home):
    return opened_and_registered(home), search_features(home)


@pytest.fixture(scope="module")
def scored(home, before):
    return evaluate_external(home)


@pytest.fixture(scope="module")
def model(home):
    return files.load_model(home.models / "regime-1")


def evaluate_external(home, manifest="other/manifest.csv", **arguments):
    return story.evaluate_external(site_of(home, database_url(home)), Path(manifest), **arguments)


def opened_and_registered(home):
    with open_database(database_url(home)) as database:
        return [
            database.transact(lambda c, table=table: c.execute(sa.select(table)).all())
            for table in (tables.holdout_opening, tables.model, tables.study)
        ]


def search_features(home):
    return sorted(path for folder in (home.features, home.holdout) for path in folder.rglob("*"))


def arrays_of(folder):
    return {name: ScoredFilms.load(folder / f"{name}.npz") for name in MODELS}


def test_all_films_are_scored_whatever_their_split(home, scored, model):
    manifest = read_manifest(home.root / "other" / "manifest.csv")
    assert {film.split for film in manifest.films} == {"development", "holdout"}
    hashes = FilmIndex(home.root / "index.json").add([film.image for film in manifest.films])
    arrays = arrays_of(scored.folder)
    table = FeatureCache(home.external / "features", model.card.backbone).load(arrays["mean"].content).table
    for name in MODELS:
        films = arrays[name]
        assert list(films.content) == sorted(hashes.values())
        np.testing.assert_array_equal(films.scores, model.scores(table)[name])
        ours = scored.numbers["external"][name]["labels"]["macro_16"]["model"]["average_precision"]["value"]
        assert ours == pytest.approx(average_precision_16(films), abs=1e-12)
    heads = [model.heads[f"repeat-0-fold-{fold}"].scores(table[:, 0]) for fold in range(3)]
    np.testing.assert_allclose(arrays["mean"].scores, np.mean(heads, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(arrays["best_fold"].scores, model.heads[model.card.primary].scores(table[:, 0]))


def test_the_baselines_are_those_of_the_model_s_development_set(scored, model):
    development = ScoredFilms.load(model.folder / "arrays" / "out_of_fold.npz")
    films = arrays_of(scored.folder)["whole"]
    np.testing.assert_allclose(films.frequencies[0], development.labels.mean(axis=0))
    for view in (0, 1):
        frequencies = development.labels[development.views == view].mean(axis=0)
        np.testing.assert_allclose(films.view_only[films.views == view], np.tile(frequencies, (6, 1)))


def test_nothing_is_opened_or_registered_and_search_s_caches_stay(home, scored, before):
    assert (opened_and_registered(home), search_features(home)) == before


def test_the_report_holds_what_was_found_and_no_name(home, scored):
    assert scored.folder == home.reports / "regime-1-external-manifest"
    names = {"numbers.json", "SHA256SUMS", *(f"{name}.npz" for name in MODELS)}
    assert {path.name for path in scored.folder.iterdir()} == names
    text = (scored.folder / "numbers.json").read_text()
    assert json.loads(text) == scored.numbers
    assert "MRN" not in text
    assert not any(b"MRN" in path.read_bytes() for path in scored.folder.iterdir())


def test_the_hold_out_would_get_the_numbers_of_the_evaluation(evaluated, home, model, tmp_path):
    done, _ = evaluated
    rows = read_manifest(home.root / "manifest.csv").part("holdout")
    index = FilmIndex(tmp_path / "films.json")
    hashes = index.add([film.image for film in rows])
    # `find_external` refuses these films, so they come by another way.
    films = UnseenFilms.of({hashes[film.image]: film for film in rows}, index)
    found = meet_external(model, films, model.card.backbone, Home(tmp_path), tmp_path / "report")
    assert found.numbers["external"] == done.metrics["holdout"]
    assert found.numbers["words"] == done.metrics["words"]
    for name, films_of in arrays_of(found.folder).items():
        met = ScoredFilms.load(model.folder / "arrays" / f"{name}.npz")
        np.testing.assert_array_equal(films_of.scores, met.scores)


def test_the_script_recomputes_the_numbers(scored, model):
    script = [sys.executable, REPOSITORY / "docs" / "recompute_evaluation.py"]
    done = subprocess.run(
        [*script, model.folder, "--report", scored.folder], capture_output=True, text=True, check=True
    )
    assert "numbers compared" in done.stdout
    assert int(done.stdout.split()[0].replace(",", "")) > 1000


def test_an_unsplit_manifest_will_do(home, model, tmp_path):
    manifest = make_manifest(tmp_path, patients=2, holdout=0, split=False, first=FIRST)
    assert len(find_external(manifest, model, FilmIndex(tmp_path / "films.json")).content) == 4


def leak(manifest, number):
    draw_film(manifest.films[1].image, number)
    return manifest


def swap_views(manifest):
    views = {"anteroposterior": "lateral", "lateral": "anteroposterior"}
    return rewrite(manifest, view={film.row: views[film.view] for film in manifest.films})


def truncate(manifest):
    manifest.films[2].image.write_bytes(manifest.films[2].image.read_bytes()[:40])
    return manifest


REFUSED = {
    "a development film": (lambda m: leak(m, 0), ManifestError, "row 3  is in the development set of regime-1"),
    "a hold-out film": (lambda m: leak(m, 27), ManifestError, "row 3  is in the hold-out of regime-1"),
    "a film twice": (lambda m: leak(m, FIRST), ManifestError, "rows 2, 3  hold the same pixels"),
    "an unreadable film": (truncate, ManifestError, "row 4, image"),
    "other cortices": (
        swap_views,
        DataError,
        "scores anterior and posterior cortices on anteroposterior films and medial and lateral cortices on lateral "
        "films; regime-1 was trained with medial and lateral cortices on anteroposterior films and anterior and "
        "posterior cortices on lateral films",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_films_that_prove_nothing_are_refused(model, tmp_path, fault):
    change, error, words = REFUSED[fault]
    manifest = change(make_manifest(tmp_path, patients=4, holdout=1, first=FIRST))
    with pytest.raises(error, match=words):
        find_external(manifest, model, FilmIndex(tmp_path / "films.json"))


def test_a_cortex_that_nobody_scored_contradicts_nothing(model, tmp_path):
    manifest = make_manifest(tmp_path, patients=2, holdout=0, first=FIRST)
    unscored = {film.row: (film.subscores[0], None, None, film.subscores[3]) for film in manifest.films}
    manifest = rewrite(manifest, subscores=unscored)
    assert len(find_external(manifest, model, FilmIndex(tmp_path / "films.json")).content) == 4


def test_weights_that_are_not_the_model_s_are_refused_before_anything_is_written(home, tmp_path):
    other = tmp_path / "other.h5"
    other.write_bytes(b"others")
    with pytest.raises(DataError, match=r"other.h5 are not those of regime-1: they are sha256:.*--weights"):
        evaluate_external(home, weights=other, manifest=made(home, "b", 2))
    assert not (home.reports / "regime-1-external-b").exists()


def made(home, stem, patients):
    manifest = make_manifest(home.root / stem, patients=patients, holdout=0, first=FIRST + 500)
    write_manifest(home.root / stem / f"{stem}.csv", manifest.films)
    return f"{stem}/{stem}.csv"


def test_other_versions_are_refused(model):
    other = dataclasses.replace(model.card, features={**model.card.features, "preprocessing": 1})
    with pytest.raises(DataError, match=r"preprocessing \d+ for 1"):
        refuse_other_features(dataclasses.replace(model, card=other), model.card.backbone)


def test_the_weights_file_is_where_the_evaluation_had_it_or_where_the_user_says(home, model, tmp_path):
    named = dataclasses.replace(model.card.backbone, weights="w.h5")
    of_a_file = dataclasses.replace(model, card=dataclasses.replace(model.card, backbone=named))
    site = site_of(home, database_url(home))
    assert story._backbone(site, of_a_file, None).weights == "random"  # what the study in this database says
    assert story._backbone(site, of_a_file, Path("a/w.h5")).weights == str(home.root / "a" / "w.h5")
    elsewhere = Home(tmp_path)
    with pytest.raises(MissingWeightsError, match=r"w.h5, the weights file of regime-1, is: name it with --weights"):
        story._backbone(site_of(elsewhere, database_url(elsewhere)), of_a_file, None)


def test_a_report_is_made_anew_but_replaces_no_other(home, scored):
    again = evaluate_external(home)
    assert json.dumps(again.numbers) == json.dumps(scored.numbers)
    shutil.copytree(home.root / "other", home.root / "third")
    make_manifest(home.root / "third", patients=2, holdout=0, first=FIRST + 100)
    with pytest.raises(DataError, match="regime-1-external-manifest holds something else"):
        evaluate_external(home, "third/manifest.csv")
    assert json.loads((scored.folder / "numbers.json").read_text()) == scored.numbers


def test_killed_while_it_writes_the_earlier_report_stays(home, scored, monkeypatch):
    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ScoredFilms, "save", dies)
        with pytest.raises(Killed):
            evaluate_external(home)
    files.check_directory(scored.folder)
    assert {path.name for path in home.reports.iterdir()} - {".lock"} == {scored.folder.name}


def test_a_model_is_named_unless_it_is_the_only_one(home, tmp_path):
    assert find_model(home, None).name == find_model(home, "regime-1").name == "regime-1"
    with pytest.raises(DataError, match=r"no model 'x' in .*; there are: regime-1"):
        find_model(home, "x")
    with pytest.raises(DataError, match=r"There is no model in .*rust-optuna evaluate makes one"):
        find_model(Home(tmp_path), None)
    several = Home(tmp_path / "several")
    for name in ("b", "a", ".a.0123.tmp"):
        (several.models / name).mkdir(parents=True)
        (several.models / name / "model.json").write_text("{}")
    with pytest.raises(DataError, match=r"several models \(a, b\): name one with --model"):
        find_model(several, None)


def test_the_command_prints_what_it_prints_of_a_hold_out_and_needs_no_database(home, scored, tmp_path):
    shutil.copytree(home.models, tmp_path / "storage" / "models")
    shutil.copytree(home.root / "other", tmp_path / "other")
    command = ["evaluate", "--external", "other/manifest.csv", "--home", tmp_path]
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    assert "regime-1: 12 films of 6 patients" in done.stdout
    assert "Second data set, average precision over the 16 subscores" in done.stdout
    value = scored.numbers["external"]["best_fold"]["labels"]["macro_16"]["model"]["average_precision"]["value"]
    assert ["best fold's model (primary)", f"{value:.4f}"] in [cells[:2] for cells in cells_of(done.stdout)]
    assert "Readings of the second data set" in done.stdout
    assert all(f"WARNING: {words}" in done.stdout for words in scored.numbers["words"])
    assert f"Report: {tmp_path / 'storage' / 'reports' / 'regime-1-external-manifest'}" in done.stdout
    assert not (tmp_path / "storage" / "rust_optuna.db").exists()
    document = json.loads(invoke(*command, "--json").stdout)
    assert document.pop("report").endswith("regime-1-external-manifest")
    assert document == scored.numbers


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--external", "m.csv", "--study", "a", "--folds", "3"), "--external does not go with --study, --folds"),
        (("--external", "m.csv", "--by-source"), "--external does not go with --by-source"),
        (("--by-source", "--seeds", "3", "--again"), "--by-source does not go with --seeds, --again"),
        (("--by-source", "--model", "a"), "--by-source does not go with --model"),
        (("--model", "a"), "--model goes with --external only"),
        (("--weights", "a"), "--weights goes with --external only"),
    ],
)
def test_options_that_would_mean_nothing_are_refused(options, words):
    done = invoke("evaluate", *options)
    assert done.exit_code == 2
    assert words in done.output
