import csv
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from optuna.artifacts import upload_artifact
from optuna.trial import TrialState

from rust_optuna.config import HYPERPARAMETERS
from rust_optuna.data.manifest import read_manifest, write_manifest
from rust_optuna.data.radiographs import content_hash
from rust_optuna.errors import (
    ConfigurationError,
    DataError,
    FingerprintError,
    LeaseLostError,
    ManifestError,
    StudyError,
)
from rust_optuna.paths import Home
from rust_optuna.search import creation, design
from rust_optuna.search.creation import create_study, delete_study, extend_study
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import best_point, status
from rust_optuna.search.studies import find_study, load_development, load_parameters, load_studies, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import TOKEN, open_store
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import parse_url
from tests.data.films import draw_film, make_manifest, rewrite
from tests.studies import (
    Killed,
    adaptive_document,
    assert_each_once,
    configuration,
    grid_document,
    make_study,
    make_worker,
    points,
    random_document,
    run_study,
    shown,
)


def assert_created(database, document):
    """Assert that a study is open with its whole design, each point once, each shown by one waiting trial."""
    study = load_study(database, document["name"])
    drawn = design.draw(configuration(document))
    assert study.state == "open"
    assert load_parameters(database, study.id) == drawn
    assert [row.number for row in points(database, study)] == list(range(len(drawn)))
    trials = shown(database, study)
    assert [trial.state for trial in trials] == [TrialState.WAITING] * len(drawn)
    assert [trial.user_attrs for trial in trials] == [{"point": n, "attempt": 1} for n in range(len(drawn))]
    assert [trial.params for trial in trials] == [{**study.constant_hyperparameters, **point} for point in drawn]
    assert all(set(HYPERPARAMETERS) <= set(trial.params) for trial in trials)
    assert [row.trial for row in points(database, study)] == list(range(len(drawn)))


def test_every_point_waits_in_the_ledger_and_in_optuna(database, home):
    made = create_study(database, configuration(), home)
    assert not made.resumed
    assert_created(database, random_document())


def test_the_same_file_finds_the_same_study(database, home):
    make_study(database, home)
    again = create_study(database, configuration(random_document(lease_seconds=7)), home)
    assert again.resumed
    assert_created(database, random_document())
    assert len(load_studies(database)) == 1


# Killed, and twice at once


def kill_self(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)


def after(function, count):
    """Return ``function``, to be killed after its ``count``-th call."""
    calls = []

    def counted(*arguments, **keywords):
        result = function(*arguments, **keywords)
        calls.append(1)
        if len(calls) == count:
            kill_self()
        return result

    return counted


def create_and_die(url, root, where, document):
    """Create a study in this process and be killed at one place."""
    if where == "in the transaction":
        creation.add_points = after(creation.add_points, 1)
    elif where == "after the transaction":
        Mirror.enqueue = kill_self
    elif where == "before opening":
        Mirror.enqueue = after(Mirror.enqueue, 1)
    elif where.startswith("trial"):
        Mirror._add = after(Mirror._add, int(where.split()[1]))
    else:
        Ledger.show_waiting = after(Ledger.show_waiting, int(where.split()[1]))
    with open_database(parse_url(url, Home(root))) as database:
        create_study(database, configuration(document), Home(root))


DEATHS = ("in the transaction", "after the transaction", "trial 1", "noted 1", "trial 3", "trial 5", "before opening")


@pytest.mark.parametrize("where", DEATHS)
def test_a_creation_killed_anywhere_is_finished_by_the_same_call(sqlite, home, children, where):
    document = random_document(5)
    child = children.start(create_and_die, sqlite.url.render_as_string(), home.root, where, document)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    known = find_study(sqlite, "regime-1")
    assert (known is None) == (where == "in the transaction")
    if known:
        assert known.state == "drawing"
        with pytest.raises(StudyError, match="not finished"):
            make_worker(sqlite, home).run(["regime-1"])
        assert make_worker(sqlite, home).run() == 0
    finished = create_study(sqlite, configuration(document), home)
    assert not finished.resumed
    assert_created(sqlite, document)


@pytest.mark.parametrize("call", [create_study, extend_study])
def test_a_commit_whose_answer_was_lost_is_not_made_twice(database, home, monkeypatch, call):
    transact, lost = database.transact, []
    if call is extend_study:
        make_study(database, home, random_document(2))

    def lose_the_answer(function):
        found = transact(function)
        if function.__name__ in ("insert", "extend") and not lost:
            lost.append(function)
            return transact(function)
        return found

    monkeypatch.setattr(database, "transact", lose_the_answer)
    if call is create_study:
        create_study(database, configuration(random_document(5)), home)
    else:
        extend_study(database, "regime-1", 5)
    assert len(lost) == 1
    assert_created(database, random_document(5))


def test_a_name_that_differs_in_capitals_only_is_refused(database, home):
    """MariaDB would take it for the same."""
    make_study(database, home, random_document(1))
    with pytest.raises(StudyError, match="Regime-1 differs from the study regime-1 only in capital letters"):
        make_study(database, home, random_document(1, name="Regime-1"))
    assert find_study(database, "Regime-1") is None
    assert [study.name for study in load_studies(database)] == ["regime-1"]


def test_a_creation_may_be_killed_again_and_again(database, home, children):
    document = random_document(5)
    url = database.url.render_as_string(hide_password=False)
    for where in ("in the transaction", "trial 1", "noted 2", "before opening"):
        child = children.start(create_and_die, url, home.root, where, document)
        child.join()
    create_study(database, configuration(document), home)
    assert_created(database, document)


def create(url, root, document, barrier):
    with open_database(parse_url(url, Home(root))) as database:
        barrier.wait()
        create_study(database, configuration(document), Home(root))


def test_creations_at_once_make_one_study(database, home, children):
    barrier = children.context.Barrier(3)
    url = database.url.render_as_string(hide_password=False)
    for _ in range(3):
        children.start(create, url, home.root, random_document(8), barrier)
    assert children.join() == [0] * 3
    assert_created(database, random_document(8))


def test_a_creation_that_was_killed_is_finished_with_its_slots(sqlite, home, children):
    document = adaptive_document(5)
    child = children.start(create_and_die, sqlite.url.render_as_string(), home.root, "after the transaction", document)
    child.join()
    study = create_study(sqlite, configuration(document), home).study
    assert (study.state, [row.parameters for row in points(sqlite, study)]) == ("open", ["null"] * 5)
    assert shown(sqlite, study) == []


# Created otherwise


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("cross_validation", "folds", 4),
        ("cross_validation", "seed", 6),
        ("cross_validation", "epochs", 3),
        ("fixed", "learning_rate", 1e-2),
        ("sampler", "seed", 4),
        ("sampler", "type", "tpe"),
        ("model", "pooling", "average"),
        ("model", "weights_seed", 1),
        ("search_space", "dropout_rate", {"type": "float", "low": 0.0, "high": 0.4}),
    ],
)
def test_another_setting_under_the_same_name_is_refused_and_named(sqlite, home, section, key, value):
    make_study(sqlite, home)
    changed = random_document()
    changed[section] = {**changed[section], key: value}
    named = f"{section}.{key}" if section in ("sampler", "search_space") else key
    with pytest.raises(FingerprintError, match=f"created with other settings: {named} is .* in the file and"):
        make_study(sqlite, home, changed)
    assert_created(sqlite, random_document())


def test_another_pruner_under_the_same_name_is_refused_and_named(sqlite, home):
    make_study(sqlite, home)
    with pytest.raises(
        FingerprintError, match=r'pruner is \{type = "hyperband", .*\} in the file and not set in the study'
    ):
        make_study(sqlite, home, random_document(pruner={"type": "hyperband"}))
    assert make_study(sqlite, home, random_document(pruner={"type": "none"})).configuration.pruner is None


def test_other_films_or_labels_under_the_same_name_are_refused(sqlite, home):
    make_study(sqlite, home)
    manifest = read_manifest(home.root / "manifest.csv")
    films = home.root / "films"
    cases = (
        (
            {"subscores": {2: (4, None, None, None)}},
            "medial of films/0.png is 4 in the manifest and was 1 when the study was created; "
            "lateral of films/0.png is empty in the manifest and was 2 when",
        ),
        (
            {"split": {20: "holdout", 21: "holdout"}},
            r"films/1[89].png, films/1[89].png are in the study but not among the development films of the manifest",
        ),
        ({"patient": {2: "another"}}, r"the patient of films/[01].png, films/[01].png is not the same as when"),
        ({"subscores": dict.fromkeys(range(2, 16, 2), (4, 4, None, None))}, "; 4 other films have other labels, too"),
    )
    for changes, words in cases:
        rewrite(manifest, **changes)
        with pytest.raises(FingerprintError, match=rf"created with other films or labels: .*{words}") as refused:
            make_study(sqlite, home)
        assert "Restore the manifest or the film to go on, or give the study another name" in str(refused.value)
        assert "films/" not in refused.value.public
    draw_film(films / "0.png", 99)
    rewrite(manifest)
    # The index has forgotten what the file was; the second call says the same.
    for _ in range(2):
        with pytest.raises(
            FingerprintError, match=r"labels: films/0.png has changed since the study was created. Restore"
        ):
            make_study(sqlite, home)
    draw_film(films / "new.png", 100)
    added = replace(manifest.films[0], row=99, image=films / "new.png", patient="new")
    write_manifest(manifest.path, [*manifest.films, added])
    with pytest.raises(FingerprintError, match=r"films/new.png is in the manifest but not in the study") as refused:
        make_study(sqlite, home)
    assert "films/0.png has changed since" in str(refused.value)


def test_bits_are_part_of_the_fingerprint_and_absent_where_they_are_not_given(sqlite, home):
    study = make_study(sqlite, home)
    assert "bits" not in study.fingerprint.settings
    document = random_document()
    document.setdefault("model", {})["bits"] = 16
    assert make_study(sqlite, home, document).id == study.id
    document["model"]["bits"] = 12
    with pytest.raises(FingerprintError, match="bits is 12 in the file and 16 in the study"):
        make_study(sqlite, home, document)


def test_an_architecture_is_part_of_the_fingerprint_and_absent_where_the_backbone_is_frozen(sqlite, home):
    frozen = make_study(sqlite, home)
    assert not {"architecture", "train", "micro_batch"} & {*frozen.fingerprint.settings}
    assert make_study(sqlite, home, random_document(model={"weights": "random", "train": "head"})).id == frozen.id
    with pytest.raises(FingerprintError, match='train is "all" in the file and "head" in the study'):
        make_study(sqlite, home, random_document(model={"weights": "random", "train": "all"}))
    lenet = {"architecture": "lenet_1998", "train": "all", "micro_batch": 4}
    study = make_study(sqlite, home, random_document(name="lenet", model=lenet))
    assert {key: study.fingerprint.settings[key] for key in lenet} == lenet
    # It needs no weights of ImageNet, which the default asks for.
    assert study.fingerprint.weights == ("lenet-1998-glorot-uniform-1",)
    assert (study.end_to_end, frozen.end_to_end) == (True, False)


def test_other_names_of_films_and_patients_are_the_same_study(sqlite, home):
    make_study(sqlite, home)
    shutil.move(home.root / "films", home.root / "moved")
    text = (home.root / "manifest.csv").read_text().replace("films/", "moved/").replace("MRN-", "patient ")
    (home.root / "elsewhere.csv").write_text(text)
    assert create_study(sqlite, configuration(random_document(manifest="elsewhere.csv")), home).resumed


def test_more_trials_than_there_are_name_the_command_that_adds_them(sqlite, home):
    make_study(sqlite, home, random_document(4))
    with pytest.raises(StudyError, match="rust-optuna study extend regime-1 --trials 6"):
        make_study(sqlite, home, random_document(6))
    assert make_study(sqlite, home, random_document(2)).name == "regime-1"
    assert_created(sqlite, random_document(4))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (random_document(manifest="none.csv"), [("manifest", 'is "none.csv", which is not in {home} (--home)')]),
        (
            random_document(cross_validation={"folds": 11}, model={"weights": "imagenett"}),
            [
                ("model.weights", 'is "imagenett", which is not in {home} (--home) (is imagenet meant?)'),
                (
                    "cross_validation.folds",
                    "11 folds need at least 11 patients, but {home}/manifest.csv has 10 development patients: use "
                    "fewer folds, or add patients",
                ),
            ],
        ),
        (
            random_document(
                model={}, search_space={**random_document()["search_space"], "weights": ["random", "a.h5", "/b.h5"]}
            ),
            [
                ("search_space.weights", 'is "a.h5", which is not in {home} (--home)'),
                ("search_space.weights", 'is "/b.h5", which does not exist'),
            ],
        ),
    ],
)
def test_what_is_missing_is_named_before_a_film_is_hashed_and_nothing_is_stored(sqlite, home, document, said):
    with pytest.raises(ConfigurationError) as refused:
        make_study(sqlite, home, document)
    found = [(problem.where, problem.what) for problem in refused.value.problems]
    assert found == [(where, what.format(home=home.root)) for where, what in said]
    assert load_studies(sqlite) == []
    assert not home.film_index.exists()


def test_a_manifest_that_is_not_split_is_refused(sqlite, tmp_path):
    make_manifest(tmp_path / "other", split=False)
    with pytest.raises(ManifestError, match="split"):
        make_study(sqlite, Home(tmp_path / "other"))


# What is stored


def dump(database):
    """Return everything in all tables of a database, Optuna's too, as text."""
    reflected = sa.MetaData()
    reflected.reflect(database.engine)
    assert any(not name.startswith("rust_optuna") for name in reflected.tables)
    with database.engine.connect() as connection:
        return "\n".join(
            str(value)
            for table in reflected.tables.values()
            for row in connection.execute(sa.select(table))
            for value in row
        )


def test_no_name_number_path_or_held_out_film_is_in_the_database(database, home):
    run_study(database, home, random_document())
    run_study(database, home, grid_document())
    everything = dump(database)
    with (home.root / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["image"] not in everything
        assert row["patient"] not in everything
    for word in ("MRN", ".png", "manifest.csv", "visit", str(home.root), home.root.parent.name):
        assert word not in everything
    for film in read_manifest(home.root / "manifest.csv").films:
        stored = content_hash(film.image) in everything
        assert stored == (film.split == "development")
    if database.backend.file is not None:
        # What was deleted or rolled back stays in a file's pages.
        folder = Path(str(database.url.database)).parent
        assert not [path.name for path in folder.glob("*.db*") if b"MRN" in path.read_bytes()]


def test_the_development_films_come_back_as_they_went_in(database, home):
    study = make_study(database, home)
    development = load_development(database, study)
    films = read_manifest(home.root / "manifest.csv").part("development")
    assert len(development.content) == len(films) == 20
    labels = {content_hash(film.image): film.label.tolist() for film in films}
    assert dict(zip(development.content, development.labels.tolist(), strict=True)) == labels
    assert sorted(set(development.folds.tolist())) == [0, 1, 2]


def test_films_that_were_tampered_with_are_noticed(sqlite, home):
    study = make_study(sqlite, home)
    sqlite.transact(lambda c: c.execute(tables.film.update().values(fold=tables.film.c.fold * 0)))
    with pytest.raises((StudyError, DataError)):
        load_development(sqlite, study)


def test_batches_larger_than_a_training_fold_are_noted(sqlite, home):
    space = {"batch_size": [4, 64], "dropout_rate": [0.1, 0.2]}
    document = grid_document(search_space=space, fixed={"learning_rate": 1e-3, "epsilon": 1e-7})
    notes = make_study(sqlite, home, document).notes
    assert any("2 of 4 points ask for a batch larger than a training fold" in note for note in notes)


def test_labels_that_a_fold_lacks_are_noted(sqlite, home):
    document = random_document(cross_validation={"folds": 10})
    notes = make_study(sqlite, home, document).notes
    missing = [note for note in notes if note.startswith("at least one fold has no positive film of")]
    assert "medial_1" in missing[0]
    assert "view_lateral" not in missing[0]


def test_nothing_is_noted_where_all_is_well(sqlite, tmp_path):
    make_manifest(tmp_path / "many", patients=42)
    assert make_study(sqlite, Home(tmp_path / "many")).notes == []


# Extending


def test_an_extended_study_goes_on_with_the_same_stream(database, home):
    study = run_study(database, home, random_document(3))
    before = points(database, study)
    extended = extend_study(database, study.name, 5)
    assert extended.state == "open"
    assert load_parameters(database, study.id) == design.draw(configuration(random_document(5)))
    assert points(database, study)[:3] == before
    assert [row.state for row in points(database, study)] == ["complete"] * 3 + ["waiting"] * 2
    make_worker(database, home).run([study.name])
    assert_each_once(database, study, 5)
    assert create_study(database, configuration(random_document(5)), home).resumed


def test_extending_to_what_is_there_changes_nothing(sqlite, home):
    study = run_study(sqlite, home, random_document(3))
    assert extend_study(sqlite, study.name, 3).state == "done"
    with pytest.raises(StudyError, match="never shortened"):
        extend_study(sqlite, study.name, 2)
    assert_each_once(sqlite, study, 3)


def test_a_grid_cannot_be_extended(sqlite, home):
    run_study(sqlite, home, random_document(2))
    make_study(sqlite, home, grid_document())
    with pytest.raises(StudyError, match="grid"):
        extend_study(sqlite, "regime-2", 9)


@pytest.mark.parametrize("finish", ["extend", "create"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_an_extension_killed_halfway_is_finished_by_the_same_call(sqlite, home, monkeypatch, when, finish):
    calls = []

    def die(*arguments):
        calls.append(1)
        if when == "before" or len(calls) == 2:
            raise Killed

    make_study(sqlite, home, random_document(3))
    monkeypatch.setattr(Ledger, "show_waiting", die)
    with pytest.raises(Killed):
        extend_study(sqlite, "regime-1", 6)
    monkeypatch.undo()
    assert load_study(sqlite, "regime-1").state == "drawing"
    if finish == "extend":
        extend_study(sqlite, "regime-1", 6)
    else:
        make_study(sqlite, home, random_document(6))
    assert_created(sqlite, random_document(6))


# Regime II on the best of Regime I


def test_the_best_of_a_study_that_is_not_there_or_not_done_is_refused(sqlite, home):
    with pytest.raises(StudyError, match="takes the best point of regime-1, which is not in"):
        make_study(sqlite, home, grid_document())
    study = make_study(sqlite, home, random_document(2))
    ledger = Ledger(sqlite)
    ledger.finish(ledger.claim([study.id], "ann"), "complete", 0.5, None, None)
    with pytest.raises(StudyError, match="takes the best point of regime-1, which is not done"):
        make_study(sqlite, home, grid_document())
    assert find_study(sqlite, "regime-2") is None


def test_the_best_point_is_taken_and_recorded(database, home):
    first = run_study(database, home, random_document(4))
    best = max(points(database, first), key=lambda row: row.value)
    parameters = json.loads(best.parameters)
    second = make_study(database, home, grid_document())
    taken = second.source
    assert (taken.study, taken.trial, taken.point, taken.value) == ("regime-1", best.trial, best.number, best.value)
    assert taken.objective == "STAND-IN tests.stand_ins:peak"
    assert parameters.items() <= taken.values.items()
    trial = second.trial_configuration({"learning_rate": 0.01, "epsilon": 1e-5}, home)
    assert (trial.batch_size, trial.dropout_rate) == (parameters["batch_size"], parameters["dropout_rate"])
    assert (trial.learning_rate, trial.epsilon) == (0.01, 1e-5)


def test_ties_go_to_the_lowest_point(database, home):
    study = make_study(database, home, random_document(3))
    ledger, mirror = Ledger(database), Mirror(database, study)
    claims = [ledger.claim([study.id], name) for name in ("ann", "bob", "eve")]
    for claim, value in [(claims[2], 0.8), (claims[1], 0.8), (claims[0], 0.3)]:
        mirror.start(claim)
        ledger.finish(claim, "complete", value, None, None)
    assert best_point(database, study).number == 1
    assert make_study(database, home, grid_document()).source.point == 1


def test_what_the_file_names_itself_is_not_inherited(sqlite, home):
    run_study(sqlite, home, random_document(2))
    second = make_study(sqlite, home, grid_document(fixed={"from_best_of": "regime-1", "dropout_rate": 0.25}))
    assert {"batch_size", "dropout_rate"} & {*second.source.values} == {"batch_size"}
    assert second.trial_configuration({"learning_rate": 0.01, "epsilon": 1e-5}, home).dropout_rate == 0.25


def test_what_the_other_study_fixed_fills_what_is_open(sqlite, home):
    run_study(sqlite, home, random_document(2))
    third = make_study(sqlite, home, grid_document(search_space={"epsilon": [1e-7, 1e-5]}))
    assert third.source.values["learning_rate"] == 1e-3


def test_a_better_best_makes_the_study_built_on_it_stale_but_resumable(database, home):
    first = run_study(database, home, random_document(2))
    second = make_study(database, home, grid_document())
    assert not status(database, second).caveats.stale
    extend_study(database, first.name, 12)
    make_worker(database, home).run([first.name])
    assert best_point(database, first).number >= 2, "the seed of this test must bring a better point"
    assert status(database, second).caveats.stale
    assert not status(database, first).caveats.stale
    # Its own source stays what it was created with.
    again = create_study(database, configuration(grid_document()), home)
    assert again.resumed
    assert again.study.source == second.source


def test_a_worse_extension_leaves_it_fresh(sqlite, home):
    first = run_study(sqlite, home, random_document(2))
    second = make_study(sqlite, home, grid_document())
    extend_study(sqlite, first.name, 3)
    claim = Ledger(sqlite).claim([first.id], "ann")
    Mirror(sqlite, first).start(claim)
    Ledger(sqlite).finish(claim, "complete", 0.01, None, None)
    assert not status(sqlite, second).caveats.stale


# Deleting


def test_a_deleted_study_is_gone_on_both_sides_and_its_name_is_free(database, home):
    study = run_study(database, home, random_document(2))
    make_study(database, home, random_document(3, name="another"))
    assert delete_study(database, study.name, open_store("storage/artifacts", home)) == 0
    assert [each.name for each in load_studies(database)] == ["another"]
    assert database.storage.get_all_studies()[0].study_name == "another"
    assert len(database.storage.get_all_studies()) == 1
    for table in (tables.film, tables.point):
        remaining = sa.select(table.c.study_id).distinct()
        assert len(database.transact(lambda c, q=remaining: c.execute(q).all())) == 1
    with pytest.raises(StudyError, match="No study 'regime-1'"):
        delete_study(database, study.name, open_store("storage/artifacts", home))
    make_study(database, home, random_document(2))
    assert_created(database, random_document(2))


def test_the_artifacts_of_a_deleted_study_are_removed_those_of_failed_attempts_too(sqlite, home, tmp_path):
    study = make_study(sqlite, home, random_document(2))
    store = open_store("storage/artifacts", home)
    scores = tmp_path / "scores.npz"
    scores.write_bytes(b"scores")
    trial = Mirror(sqlite, study).start(Ledger(sqlite).claim([study.id], "ann"))
    kept = upload_artifact(artifact_store=store, file_path=str(scores), study_or_trial=trial)
    Ledger(sqlite).abandon("ann", "presumed dead")
    assert (home.resolve("storage/artifacts") / kept).read_bytes() == b"scores"
    assert delete_study(sqlite, study.name, store) == 1
    assert [path.name for path in home.resolve("storage/artifacts").iterdir()] == [TOKEN]


def test_a_study_that_runs_is_deleted_by_force_only(sqlite, home):
    study = make_study(sqlite, home, random_document(2))
    claim = Ledger(sqlite).claim([study.id], "ann")
    with pytest.raises(StudyError, match="1 running"):
        delete_study(sqlite, study.name, open_store("storage/artifacts", home))
    delete_study(sqlite, study.name, open_store("storage/artifacts", home), force=True)
    assert load_studies(sqlite) == []
    with pytest.raises(LeaseLostError):
        Ledger(sqlite).finish(claim, "complete", 0.5, None, None)


def test_a_deletion_killed_halfway_is_finished_by_the_same_call(sqlite, home, monkeypatch):
    def die(*arguments):
        raise Killed

    study = make_study(sqlite, home, random_document(2))
    monkeypatch.setattr(creation, "_delete_rows", die)
    with pytest.raises(Killed):
        delete_study(sqlite, study.name, open_store("storage/artifacts", home))
    monkeypatch.undo()
    delete_study(sqlite, study.name, open_store("storage/artifacts", home))
    assert load_studies(sqlite) == []
    assert sqlite.storage.get_all_studies() == []


def test_what_the_other_study_inherited_is_passed_on(sqlite, home):
    run_study(sqlite, home, random_document(2))
    second = run_study(sqlite, home, grid_document())
    fixed = {"from_best_of": "regime-2"}
    third = make_study(sqlite, home, grid_document(name="third", search_space={"pooling": ["max"]}, fixed=fixed))
    best = json.loads(max(points(sqlite, second), key=lambda row: row.value).parameters)
    everything = second.configuration.values(best, second.inherited)
    assert third.inherited == {key: value for key, value in everything.items() if key in third.inherited}
    assert {"batch_size", "dropout_rate", "learning_rate", "epsilon"} <= set(third.inherited)


def test_what_a_study_says_itself_is_not_overridden_by_what_it_inherits(sqlite, home):
    space = {"batch_size": [8, 16], "output": ["mixed0"]}
    fixed = {"learning_rate": 1e-3, "epsilon": 1e-7, "dropout_rate": 0.1}
    run_study(sqlite, home, random_document(2, search_space=space, fixed=fixed), "level")
    second = make_study(sqlite, home, grid_document(model={"weights": "random", "output": "mixed1"}))
    assert second.trial_configuration({"learning_rate": 0.01, "epsilon": 1e-5}, home).backbone.output == "mixed1"
    assert second.inherited["dropout_rate"] == 0.1


def test_a_longer_study_may_use_every_weight_that_its_search_space_names(sqlite, home):
    space = {"batch_size": [8], "dropout_rate": [0.1], "weights_seed": {"type": "int", "low": 0, "high": 9}}
    study = make_study(sqlite, home, random_document(1, search_space=space))
    longer = extend_study(sqlite, study.name, 6)
    assert longer.fingerprint.weights == ("random-he-normal-1",)


def test_a_study_whose_sampler_draws_another_stream_by_now_is_not_extended(sqlite, home, monkeypatch):
    study = make_study(sqlite, home, random_document(2))
    draw = creation.design.draw
    monkeypatch.setattr(creation.design, "draw", lambda configuration: draw(configuration)[::-1])
    with pytest.raises(StudyError, match="no longer draws the points"):
        extend_study(sqlite, study.name, 4)
    assert len(points(sqlite, study)) == 2


def test_a_cortex_scored_on_films_of_both_views_is_refused_with_its_rows(sqlite, home):
    manifest = home.resolve(random_document(2)["manifest"])
    film, *others = read_manifest(manifest).films
    scores = tuple(1 for _ in film.subscores)
    write_manifest(manifest, [replace(film, subscores=scores), *others])
    with pytest.raises(ManifestError, match=r"row 2 .*scored on"):
        make_study(sqlite, home, random_document(2))
