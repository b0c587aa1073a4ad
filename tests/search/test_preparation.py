"""What a study takes from another, whoever prepares it: creation, the forecast, features built ahead."""

import json
from dataclasses import replace

import pytest
import sqlalchemy as sa

from rust_optuna.data.manifest import read_manifest
from rust_optuna.errors import ConfigurationError, FingerprintError, OpenHolesError, StudyError
from rust_optuna.processes import ExitCode
from rust_optuna.search.creation import create_study, delete_study
from rust_optuna.search.inheritance import Difference, Inheritance
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.preparation import prepare
from rust_optuna.search.results import best_trial, status
from rust_optuna.search.studies import load_development, load_parameters, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from tests.data.films import rewrite
from tests.studies import configuration, grid_document, make_study, make_worker, points, random_document, run_study

MODEL = {
    "weights": "random",
    "weights_seed": 7,
    "output": "mixed0",
    "pooling": "average",
    "image_size": 75,
    "resize": "pad",
    "features": "live",
    "extraction_precision": "bfloat16",
    "training_precision": "bfloat16",
    "flips": "none",
    "standardize": True,
    "hidden_units": [8, 4],
}
"""No value is its default."""
FOLDS = {"folds": 3, "epochs": 2, "seed": 5}


def bare(**changes):
    """Return a Regime II whose file names nothing that Regime I names."""
    document = grid_document(**changes)
    for section in ("model", "cross_validation"):
        if section not in changes:
            del document[section]
    return document


def trial_of(study, home):
    (parameters, *_) = [{"learning_rate": 0.01, "epsilon": 1e-5}]
    return study.trial_configuration(parameters, home)


def test_all_that_the_file_does_not_name_is_inherited(database, home):
    first = run_study(database, home, random_document(2, model=MODEL, cross_validation=FOLDS))
    second = make_study(database, home, bare())
    best = max(points(database, first), key=lambda row: row.value)
    theirs = first.trial_configuration(json.loads(best.parameters), home)
    assert trial_of(second, home) == replace(theirs, learning_rate=0.01, epsilon=1e-5)
    assert trial_of(load_study(database, second.name), home) == trial_of(second, home)
    assert (second.configuration.folds, second.configuration.seed) == (3, 5)
    ours, films = (load_development(database, study) for study in (second, first))
    assert ours.fingerprint() == films.fingerprint()
    assert second.source.differences == ()
    assert create_study(database, configuration(bare()), home).resumed
    # The values come back as they were: a trial's configuration is a key of dictionaries.
    assert hash(trial_of(load_study(database, second.name), home))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        *(("model", key, value) for key, value in [("output", "mixed1"), ("image_size", 299), ("hidden_units", [8])]),
        *(("cross_validation", key, value) for key, value in [("folds", 6), ("seed", 1337), ("epochs", 20)]),
        ("fixed", "pooling", "max"),
        ("fixed", "batch_size", 1),
    ],
)
def test_what_the_file_names_is_its_own_even_where_it_is_the_default_and_is_listed(sqlite, home, section, key, value):
    first = run_study(sqlite, home, random_document(2, model=MODEL, cross_validation=FOLDS))
    given = {"from_best_of": "regime-1"} if section == "fixed" else {}
    second = make_study(sqlite, home, bare(**{section: {**given, key: value}}))
    if key in ("folds", "seed"):
        assert getattr(second.configuration, key) == value
    else:
        found = second.configuration.values({}, second.inherited)[key]
        assert (list(found) if isinstance(found, tuple) else found) == value
    best = max(points(sqlite, first), key=lambda row: row.value)
    theirs = {**MODEL, **FOLDS, **json.loads(best.parameters)}[key]
    (difference,) = status(sqlite, second).to_json()["differences"]
    assert difference == {"key": key, "here": value, "there": theirs}
    words = f"{key} is {value} here and {theirs} in regime-1"
    assert f"the study takes the best point of regime-1, but differs from it: {words}" in second.notes
    make_worker(sqlite, home).run([second.name])
    assert best_trial(sqlite, load_study(sqlite, second.name)).to_json()["differences"] == [difference]


def test_what_a_study_searches_is_no_difference(sqlite, home):
    run_study(sqlite, home, random_document(2, model=MODEL))
    second = make_study(sqlite, home, bare(search_space={"output": ["mixed1", "mixed2"]}))
    assert second.source.differences == ()
    assert "output" not in second.inherited


def test_other_films_or_labels_than_the_sources_are_listed(sqlite, home):
    run_study(sqlite, home, random_document(2))
    manifest = read_manifest(home.root / "manifest.csv")
    rewrite(manifest, subscores={2: (4, 4, None, None)})
    second = make_study(sqlite, home, bare())
    assert second.source.differences == (Difference("films", 20, 20),)
    said = "the development films, their labels or their patients are not those of regime-1 (20 films here, 20 there)"
    assert any(note.endswith(said) for note in second.notes)
    rewrite(manifest, split={20: "holdout", 21: "holdout"})
    assert make_study(sqlite, home, bare(name="third")).source.differences == (Difference("films", 18, 20),)


def test_weights_whose_bytes_changed_since_are_listed(sqlite, home):
    file = home.root / "weights.h5"
    file.write_bytes(b"some weights")
    run_study(sqlite, home, random_document(2, model={"weights": "weights.h5"}))
    assert make_study(sqlite, home, bare()).source.differences == ()
    file.write_bytes(b"others")
    (difference,) = make_study(sqlite, home, bare(name="third")).source.differences
    assert difference.key == "weights_bytes"
    assert difference.words("regime-1") == "the bytes of the weights are not those of regime-1"
    assert difference.here != difference.there
    assert difference.here.startswith("sha256:")


def test_a_source_with_holes_is_refused_until_they_are_accepted(sqlite, home):
    first = run_study(sqlite, home, random_document(3), "raising_at_point_1")
    assert load_study(sqlite, first.name).state == "done"
    with pytest.raises(OpenHolesError, match="has 1 hole that nobody accepted") as refused:
        make_study(sqlite, home, grid_document())
    assert refused.value.exit_code == ExitCode.HOLES
    assert "rust-optuna study retry regime-1 --holes" in str(refused.value)
    assert "rust-optuna study accept-holes regime-1" in str(refused.value)
    Ledger(sqlite).accept_holes(first.id)
    assert make_study(sqlite, home, grid_document()).source.study == "regime-1"


def test_a_study_of_an_earlier_version_stays_what_it_was(sqlite, home):
    """That version took what the other study searched and fixed, and no model or folds."""
    first = run_study(sqlite, home, random_document(2, model=MODEL, cross_validation=FOLDS))
    best = max(points(sqlite, first), key=lambda row: row.value)
    second = make_study(sqlite, home, grid_document())
    source = {
        **{"study": "regime-1", "number": best.trial, "point": best.number, "value": best.value},
        **{"params": json.loads(best.parameters), "objective": "STAND-IN tests.stand_ins:peak"},
    }
    stored = prepare(configuration(grid_document()), home, sqlite)
    old = replace(stored, alternatives=[source["params"]]).fingerprint()
    values = {"source": json.dumps(source), "fingerprint": json.dumps(old.to_json())}
    sqlite.transact(lambda c: c.execute(tables.study.update().where(tables.study.c.id == second.id).values(**values)))
    again = create_study(sqlite, configuration(grid_document()), home)
    assert again.resumed
    assert again.study.source == Inheritance.from_json(source)
    trial = trial_of(again.study, home)
    assert (trial.backbone.output, trial.hidden_units) == ("mixed10", (1024, 512, 256))
    assert trial.batch_size == json.loads(best.parameters)["batch_size"]
    make_worker(sqlite, home).run()
    assert load_study(sqlite, "regime-2").state == "done"


def test_a_hyperparameter_that_neither_study_has_is_named(sqlite, home):
    run_study(sqlite, home, random_document(2))
    prepared = prepare(configuration(random_document(1)), home, sqlite)
    assert [each.values["epsilon"] for each in prepared.settings()] == [1e-7] * 2
    # Every study has all four today: one is taken away from a stored one.
    row = sqlite.transact(lambda c: c.execute(sa.select(tables.study.c.configuration)).scalar_one())
    document = json.loads(row)
    document["fixed"] = {"from_best_of": "regime-0", "learning_rate": 1e-3}
    values = {"configuration": json.dumps(document)}
    sqlite.transact(lambda c: c.execute(tables.study.update().values(**values)))
    with pytest.raises(ConfigurationError, match="epsilon  has no value: neither this study nor regime-1 sets it"):
        make_study(sqlite, home, grid_document(search_space={"learning_rate": [1e-3, 1e-2]}))


def test_a_study_deleted_while_it_was_prepared_is_not_made_of_its_remains(sqlite, home, monkeypatch):
    make_study(sqlite, home)
    prepared = prepare(configuration(), home, sqlite)
    delete_study(sqlite, "regime-1", open_store("storage/artifacts", home))
    monkeypatch.setattr("rust_optuna.search.creation.prepare", lambda *_, **__: prepared)
    with pytest.raises(StudyError, match="deleted in the meantime"):
        make_study(sqlite, home)
    monkeypatch.undo()
    assert len(load_parameters(sqlite, make_study(sqlite, home).id)) == 4


def test_a_source_that_is_nothing_but_holes_is_said_to_be_that(sqlite, home):
    study = run_study(sqlite, home, random_document(1), "raising")
    ledger = Ledger(sqlite)
    assert load_study(sqlite, study.name).state == "done"
    for _ in range(2):
        with pytest.raises(OpenHolesError, match=r"all its points are holes.*study retry regime-1 --holes"):
            make_study(sqlite, home, grid_document())
        ledger.accept_holes(study.id)


def test_settings_are_compared_before_weights_are_looked_for(sqlite, home):
    """Weights may have to be downloaded, for a study that has others."""
    make_study(sqlite, home, random_document(1))
    document = random_document(1, model={"weights": "nowhere.h5"}, cross_validation={"folds": 2})
    with pytest.raises(FingerprintError, match="folds is 2 in the file and 3 in the study;"):
        make_study(sqlite, home, document)
