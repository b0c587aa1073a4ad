import shutil

import pytest
import sqlalchemy as sa

from rust_optuna.data.film_index import FilmIndex
from rust_optuna.errors import AbsentFilmsError, MissingExtraError, MissingFilmsError, RustOptunaError
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import load_development, load_parameters
from rust_optuna.storage.artifacts import artifacts_of, open_store
from rust_optuna.worker import objective as objective_module
from rust_optuna.worker.objective import CrossValidationObjective, StandInObjective, cross_validation_runtime
from tests import stand_ins
from tests.studies import make_study, random_document


def test_a_stand_in_is_imported_by_name():
    assert StandInObjective.load("tests.stand_ins:peak").function is stand_ins.peak


def test_a_stand_in_is_found_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "my_objective.py").write_text("def mine(trial):\n    return 0.25\n")
    monkeypatch.chdir(tmp_path)
    assert StandInObjective.load("my_objective:mine").function(None) == 0.25


@pytest.mark.parametrize(
    "name", ["", "peak", "tests.stand_ins", "tests.stand_ins:", "tests.stand_ins:none", "tests.nowhere:peak", ":peak"]
)
def test_a_stand_in_that_is_not_there_is_named(name):
    with pytest.raises(RustOptunaError, match="MODULE:FUNCTION"):
        StandInObjective.load(name)


def test_a_stand_in_says_so_wherever_its_values_go():
    assert StandInObjective.load("tests.stand_ins:peak").runtime() == {"objective": "STAND-IN tests.stand_ins:peak"}


@pytest.mark.parametrize("package", ["tensorflow", "keras"])
def test_without_what_it_computes_with_the_real_objective_says_what_to_install(monkeypatch, package):
    installed = {"tensorflow": "2.21", "keras": "3.14"}
    del installed[package]
    for versions in ("training_versions", "extraction_versions"):
        monkeypatch.setattr(objective_module, versions, lambda: installed)
    with pytest.raises(MissingExtraError, match=rf"{package}.*\[cpu\]"):
        cross_validation_runtime()


@pytest.mark.parametrize("name", ["not_a_number", "infinite"])
def test_a_value_that_is_not_finite_is_an_error(name):
    with pytest.raises(ValueError, match="not finite"):
        StandInObjective.load(f"tests.stand_ins:{name}")(None, None, None, None)


@pytest.fixture(params=["cached"])
def elsewhere(request, sqlite, home, tmp_path):
    """A study whose films lie in another folder than at its creation: that folder, and how its points are prepared."""
    model = {"weights": "random", "output": "mixed2", "image_size": 75, "features": request.param}
    study = make_study(sqlite, home, random_document(1, model=model))
    root = tmp_path / "elsewhere"
    shutil.move(home.root / "films", root)
    development = load_development(sqlite, study)

    def prepare(data_root, **told):
        store = open_store(sqlite.artifacts(), home)
        objective = CrossValidationObjective(study, development, home, store, data_root=data_root, **told)
        objective.prepare(load_parameters(sqlite, study.id))
        return objective

    return root, prepare


@pytest.mark.tensorflow
def test_films_are_looked_for_below_the_data_root(elsewhere, home):
    root, prepare = elsewhere
    with pytest.raises(AbsentFilmsError, match=r"20 of 20 films cannot be found on this machine.*--data-root"):
        prepare(None)
    done = {"on_hashed": [], "progress": []}
    prepared = prepare(root, **{name: lambda *films, to=to: to.append(films) for name, to in done.items()})
    # All 24 files there are hashed; the study has 20.
    assert {name: films[-1] for name, films in done.items()} == {"on_hashed": (24, 24), "progress": (20, 20)}
    assert FilmIndex(home.film_index).locate(prepared.development.content[0]).parent == root
    # With all features in the cache no film is needed, and none looked for.
    shutil.rmtree(root)
    prepare(root)


@pytest.mark.tensorflow
@pytest.mark.parametrize("elsewhere", ["live"], indirect=True)
def test_films_of_live_features_are_looked_for_below_the_data_root(elsewhere):
    root, prepare = elsewhere
    with pytest.raises(AbsentFilmsError, match=r"20 of 20 films cannot be found on this machine.*--data-root"):
        prepare(None)
    prepare(root)
    shutil.rmtree(root)
    with pytest.raises(AbsentFilmsError):  # there is no cache to train from
        prepare(None)


@pytest.mark.tensorflow
def test_a_film_that_is_not_the_manifests_is_refused_before_a_point_is_claimed(elsewhere):
    root, prepare = elsewhere
    (root / "0.png").write_bytes((root / "1.png").read_bytes())
    with pytest.raises(MissingFilmsError, match=r"1 of 20 films cannot be found below"):
        prepare(root)


def test_a_database_that_is_away_while_the_scores_are_stored_costs_no_trial(sqlite, home, monkeypatch):
    study = make_study(sqlite, home, random_document(1))
    claim = Ledger(sqlite).claim([study.id], "ann")
    trial = Mirror(sqlite, study).start(claim)
    store = open_store(sqlite.artifacts(), home)
    development = load_development(sqlite, study)
    objective = CrossValidationObjective(study, development, home, store, patiently=sqlite.patiently)
    note, tries = sqlite.storage.set_trial_system_attr, []

    def away_at_first(*arguments, **keywords):
        tries.append(1)
        if len(tries) == 1:
            raise sa.exc.OperationalError("INSERT", {}, ConnectionError("the server closed the connection"))
        note(*arguments, **keywords)

    monkeypatch.setattr(sqlite.storage, "set_trial_system_attr", away_at_first)
    artifact = objective._upload(lambda path: path.write_bytes(b"scores"), claim, trial)
    with store.open_reader(artifact) as reader:
        assert reader.read() == b"scores"
    assert artifacts_of(sqlite.storage, study.name) == [artifact]
