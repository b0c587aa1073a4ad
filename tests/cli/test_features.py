import shutil
import signal

import pytest

from rust_optuna.learn import extraction
from rust_optuna.search.studies import load_study
from rust_optuna.signals import ASKING
from tests.cli.test_main import invoke
from tests.studies import adaptive_document, make_study, random_document, write_study

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("compiled_once")]


@pytest.fixture
def build(sqlite, home):
    study = make_study(sqlite, home, random_document(1))
    storage = sqlite.url.render_as_string()
    return lambda *arguments: invoke("--home", home.root, "--storage", storage, "features", "build", *arguments), study


def test_films_that_the_data_root_lacks_are_counted_and_named(home, build):
    run, study = build
    shutil.move(home.root / "films", home.root / "elsewhere")
    (home.root / "elsewhere" / "0.png").unlink()
    done = run(study.name, "--data-root", "elsewhere")
    assert done.exit_code == 1
    assert f"1 of 20 films cannot be found below {home.root / 'elsewhere'} with the same bytes" in done.output
    assert not home.features.exists()


def test_a_study_file_s_films_may_lie_below_the_data_root(home, build, sqlite):
    run, _ = build
    model = {"weights": "random", "output": "mixed0", "image_size": 75}
    file = write_study(home, random_document(1, name="other", model=model))
    shutil.move(home.root / "films", home.root / "elsewhere")
    gone = run(file.name)
    assert (gone.exit_code, "--data-root FOLDER" in gone.output) == (2, True), gone.output
    done = run(file.name, "--data-root", "elsewhere")
    assert done.exit_code == 0, done.output
    assert "features of 20 films" in done.output


def test_features_are_built_for_every_choice_that_an_adaptive_study_may_draw(home, build, sqlite):
    run, _ = build
    model = {"weights": "random", "image_size": 75}
    space = {**random_document()["search_space"], "output": ["mixed0", "mixed1"]}
    document = adaptive_document(1, name="other", model=model, search_space=space)
    done = run(write_study(home, document).name)
    assert (done.exit_code, done.output.count("features of 20 films")) == (0, 2), done.output
    make_study(sqlite, home, document)
    again = run("other")
    assert (again.exit_code, again.output.count("features of 20 films")) == (0, 2), again.output


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_a_scheduler_stops_it_as_cleanly_as_ctrl_c(build, monkeypatch, number):
    run, study = build
    before = {each: signal.getsignal(each) for each in ASKING}
    monkeypatch.setattr(
        "rust_optuna.run.feature_building.needed_by_study", lambda *_: signal.raise_signal(signal.Signals[number])
    )
    try:
        done = run(study.name)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert (done.exit_code, "the same command goes on where it stopped" in done.output) == (130, True)


def test_what_a_worker_would_be_refused_for_is_refused(sqlite, home, monkeypatch):
    """Pinned by a worker; then the cache is lost, and films are read otherwise, or versions or weights are others."""
    document = random_document(
        1, cross_validation={"folds": 2, "epochs": 1}, model={"weights": "random", "output": "mixed0", "image_size": 75}
    )
    study = make_study(sqlite, home, document)
    run = ("--home", home.root, "--storage", sqlite.url.render_as_string())
    assert invoke(*run, "worker", "run", study.name).exit_code == 0
    shutil.rmtree(home.features)

    def refused():
        done = invoke(*run, "features", "build", study.name)
        assert done.exit_code == 1
        assert not list(home.features.rglob("shard-*"))
        return done.output

    read = extraction.read_radiograph
    with monkeypatch.context() as planted:
        planted.setattr(extraction, "read_radiograph", lambda *given, **named: -read(*given, **named))
        assert "The features of regime-1 computed here are not those of its other workers" in refused()
    with monkeypatch.context() as planted:
        planted.setattr("rust_optuna.learn.extraction.PREPROCESSING_VERSION", extraction.PREPROCESSING_VERSION + 1)
        assert "which computes other numbers than this one" in refused()
    with monkeypatch.context() as planted:
        planted.setattr("rust_optuna.worker.objective.weights_scheme", lambda backbone: "others")
        assert "are not those that regime-1 was created with" in refused()
    done = invoke(*run, "features", "build", study.name)
    assert done.exit_code == 0, done.output
    assert list(home.features.rglob("shard-*"))
    assert load_study(sqlite, study.name).runtime is not None


def test_a_study_that_trains_on_films_is_said_to_have_no_features(sqlite, home):
    model = {"architecture": "lenet_1998", "train": "all"}
    make_study(sqlite, home, random_document(1, name="whole", model=model))
    storage = sqlite.url.render_as_string()
    done = invoke("--home", home.root, "--storage", storage, "features", "build", "whole")
    assert done.exit_code == 0, done.output
    assert "whole trains on no cached features: there is nothing to compute ahead of its workers" in done.output
    assert not home.features.exists()
