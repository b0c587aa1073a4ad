from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rust_optuna.cli.forecast import _print_study
from rust_optuna.errors import FingerprintError, RustOptunaError, StorageError, StudyError
from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.learn.features import FeatureCache
from rust_optuna.learn.timing import ExtractionTimes, TrainingTimes, makespan
from rust_optuna.run import forecast as module
from rust_optuna.run.forecast import forecast
from rust_optuna.run.side_by_side import side_by_side
from rust_optuna.search.creation import create_study, extend_study
from rust_optuna.search.ledger import Ledger
from rust_optuna.storage.database import create_database, open_database
from rust_optuna.storage.url import parse_url
from rust_optuna.study_file import read_study_file
from tests.cli.test_main import invoke
from tests.studies import adaptive_document, claim_point, grid_document, random_document, run_command, write_study

TIMES = TrainingTimes(((2, 1.0), (12, 6.0)), scoring=0.25, overhead=2.0, artifact_bytes=100, memory_bytes=10**9)


@pytest.fixture
def clockwork(monkeypatch):
    """A machine of known speed: a step takes half a second a film, a worker 3 s to start, a film's features 8 s."""
    ran = []

    def run(environments, task):
        ran.append((len(environments), task))
        if isinstance(task, module._ExtractionTask):
            return [ExtractionTimes(kind="A 1", width=10, reading=2.0, flip=1.5)] * len(environments), 1.0
        return [TIMES] * len(environments), 3.0

    monkeypatch.setattr(module, "side_by_side", run)
    return ran


@pytest.fixture
def plan(home, sqlite_url):
    def make(*documents, workers=None, **options):
        studies = [read_study_file(write_study(home, document)) for document in documents]
        url = parse_url(sqlite_url, home)
        return forecast(
            studies, home, lambda: open_database(url, read_only=True), choice=DeviceChoice("none", workers), **options
        )

    return make


@given(seconds=st.lists(st.floats(0, 10), max_size=30), workers=st.integers(1, 6))
def test_workers_take_the_next_trial_as_soon_as_they_are_free(seconds, workers):
    """Checked against a simulation that looks for the idlest worker."""
    free = [0.0] * workers
    for each in seconds:
        idlest = min(range(workers), key=lambda worker: free[worker])
        free[idlest] += each
    assert makespan(seconds, workers) == pytest.approx(max(free))


def test_the_plan_adds_up(plan, home, clockwork, tmp_path):
    found = plan(random_document(1, search_space={"batch_size": [4]}, fixed=fixed(dropout_rate=0.1)), workers=2)
    [study] = found.studies
    films = study.films
    assert (study.points, study.left, study.folds, study.epochs) == (1, 1, 3, 2)
    assert found.extraction.films == films
    assert found.extraction.seconds == films * 8.0
    assert found.extraction.disk_bytes == films * 4 * 10 * 4
    # A film costs half a second, whatever the batch, and is trained on in two folds of three, in each of two epochs.
    trial = 2.0 + 2 * (2 * films * 0.5 + 3 * 0.25)
    assert study.trial_seconds == pytest.approx(trial)
    assert study.seconds == pytest.approx(3.0 + trial)
    assert found.seconds == pytest.approx(1.0 + films * 8.0 + 3.0 + trial)
    assert (found.artifact_bytes, found.worker_bytes) == (100, 10**9)
    # As many processes as workers train at a time; one extracts.
    assert [count for count, _ in clockwork] == [1, 2]
    assert not (tmp_path / "storage").exists()


def test_the_times_that_are_shown_are_of_the_batch_sizes_that_are_searched_and_the_average_lies_between(
    plan, clockwork, monkeypatch
):
    """On a machine whose small steps cost as much as larger ones, so that small batches take longest."""
    monkeypatch.setitem(globals(), "TIMES", replace(TIMES, steps=((4, 1.0), (12, 1.5), (13, 1.6))))
    document = {"search_space": {"batch_size": [4, 8, 12]}, "fixed": fixed(dropout_rate=0.1)}
    [study] = plan(random_document(20, **document)).studies
    sizes, seconds = zip(*study.by_batch_size, strict=True)
    assert sizes == (4, 12)
    assert {task.batch_sizes for _, task in clockwork if isinstance(task, module._TrainingTask)} == {(4, 8, 12)}
    assert min(seconds) <= study.trial_seconds <= max(seconds)


def test_a_study_whose_source_is_not_done_yet_is_forecast_over_all_it_may_bring(plan, clockwork):
    # On this clockwork a film costs the same in a batch of any size.
    found = plan(random_document(5), grid_document(), workers=1)
    first, second = found.studies
    assert (first.open_source, second.open_source) == (None, "regime-1")
    assert second.left == 6
    assert second.trial_seconds == pytest.approx(first.trial_seconds)
    # The same kind of trial of the same films is timed once.
    assert len(clockwork) == 2


def test_model_and_folds_of_a_source_that_is_not_done_yet_are_taken_over(plan, clockwork):
    document = grid_document()
    del document["model"], document["cross_validation"]
    first, second = plan(random_document(5), document, workers=1).studies
    assert (second.folds, second.epochs, second.films) == (first.folds, first.epochs, first.films) == (3, 2, 20)
    # The features of the same backbone are computed once, and the same kind of trial is timed once.
    assert len(clockwork) == 2


def test_points_that_are_drawn_later_are_estimated_by_random_ones(plan, clockwork, home, sqlite_url, capsys):
    model = {"weights": "random", "image_size": 75}
    space = {**random_document()["search_space"], "output": ["mixed0", "mixed1"]}
    document = adaptive_document(5, model=model, search_space=space, pruner={"type": "median"})
    [study] = plan(document, grid_document(model={}), workers=1).studies[:1]
    assert (study.points, study.left, study.sampler, study.prunes) == (5, 5, "tpe", True)
    random = {**document, "sampler": {**document["sampler"], "type": "random"}}
    assert study.trial_seconds == pytest.approx(plan(random, workers=1).studies[0].trial_seconds)
    _print_study(study, 1)
    assert "tpe draws points from results, so times are an estimate from random points" in capsys.readouterr().out
    # Features of every choice that a draw may make are computed, whichever the random points make.
    assert plan(adaptive_document(1, model=model, search_space=space)).extraction.films == 2 * study.films
    with create_database(parse_url(sqlite_url, home), "artifacts") as database:
        known = create_study(database, read_study_file(home.root / "regime-1.toml"), home).study
        assert Ledger(database).claim([known.id], "ann").drawn is False
    [found] = plan(adaptive_document(1, model=model, search_space=space)).studies
    assert (found.points, found.left) == (1, 1)


def test_a_source_that_is_nowhere_is_named(plan, clockwork, home, sqlite_url):
    with pytest.raises(StudyError, match="regime-1"):
        plan(grid_document())
    create_database(parse_url(sqlite_url, home), "artifacts").close()
    with pytest.raises(StudyError, match="regime-1"):
        plan(grid_document())


def test_what_is_finished_is_not_counted_again(plan, clockwork, home, sqlite_url):
    document = random_document(4)
    path = write_study(home, document)
    with create_database(parse_url(sqlite_url, home), "artifacts") as database:
        study = create_study(database, read_study_file(path), home).study
        ledger = Ledger(database)
        ledger.register("ann", host="here", process=1, device="none")
        ledger.register("bob", host="here", process=2, device="none")
        claim_point(ledger, study.id, 0)
        ledger.finish(ledger.claim([study.id], "bob"), "complete", 0.5, None, None)
        [found] = plan(document).studies
        # One is claimed and not finished, one is complete.
        assert (found.points, found.left) == (4, 3)
        extend_study(database, "regime-1", 6)
        [found] = plan(document).studies
        assert (found.points, found.left) == (6, 5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cross_validation": {"folds": 3, "epochs": 3, "seed": 5}}, FingerprintError, "epochs is 3 in the file"),
        ({"sampler": {"type": "random", "seed": 3, "n_trials": 9}}, StudyError, "study extend"),
    ],
)
def test_a_study_that_its_file_does_not_describe_is_refused_as_by_the_search(
    plan, clockwork, home, sqlite_url, change, error, message
):
    path = write_study(home, random_document(4))
    with create_database(parse_url(sqlite_url, home), "artifacts") as database:
        create_study(database, read_study_file(path), home)
    with pytest.raises(error, match=message):
        plan(random_document(4, **change))


def test_a_database_that_cannot_be_used_is_no_empty_one(plan, clockwork, home, tmp_path):
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "test.db").write_text("no database at all, but long enough to be taken for one" * 30)
    with pytest.raises(StorageError, match="cannot be read"):
        plan(random_document(4))


def test_live_features_are_timed_as_the_workers_run_them(plan, clockwork):
    document = random_document(1, search_space={"batch_size": [4]}, fixed=fixed(dropout_rate=0.1))
    [cached] = plan(document, workers=2).studies
    del clockwork[:]
    found = plan({**document, "model": {"weights": "random", "features": "live"}}, workers=2)
    [live] = found.studies
    assert found.extraction.films == 0
    # Two epochs, three folds, every film once in each, at 1.5 s.
    assert live.trial_seconds - cached.trial_seconds == pytest.approx(2 * 3 * live.films * 1.5)
    assert [count for count, _ in clockwork] == [2, 2]
    assert found.worker_bytes == 10**9 + live.films * 299 * 299 * 4


LENET = {"architecture": "lenet_1998", "train": "all"}


def test_training_end_to_end_is_timed_and_needs_no_features(plan, clockwork):
    document = random_document(1, search_space={"batch_size": [4]}, fixed=fixed(dropout_rate=0.1))
    found = plan({**document, "model": LENET}, workers=2)
    [study] = found.studies
    assert (found.extraction.films, study.end_to_end) == (0, True)
    [(processes, task)] = clockwork
    assert (processes, type(task)) == (2, module._EndToEndTask)
    assert (task.trial.architecture, task.trial.backbone.image_size) == ("lenet_1998", 299)
    assert study.trial_seconds == pytest.approx(2.0 + 2 * (2 * study.films * 0.5 + 3 * 0.25))
    # Another size of films is another kind of trial; another learning rate is not.
    del clockwork[:]
    documents = [
        {**document, "name": f"study-{size}-{rate}", "model": {**LENET, "image_size": size}}
        | {"fixed": fixed(dropout_rate=0.1) | {"learning_rate": rate}}
        for size, rate in ((75, 1e-3), (80, 1e-3), (75, 1e-2))
    ]
    plan(*documents, workers=1)
    assert sorted(task.trial.backbone.image_size for _, task in clockwork) == [75, 80]


def test_days_of_training_end_to_end_are_said_in_words(home, sqlite_url, clockwork, monkeypatch):
    monkeypatch.setitem(globals(), "TIMES", replace(TIMES, steps=((2, 3600.0), (12, 6 * 3600.0))))
    document = random_document(2, search_space={"batch_size": [4, 8]}, fixed=fixed(dropout_rate=0.1), model=LENET)
    path = write_study(home, {**document, "sampler": {"type": "grid"}})
    arguments = ("--home", home.root, "--storage", sqlite_url, "search", path, "--workers", "1", "--gpus", "none")
    done = invoke(*arguments, "--dry-run")
    assert done.exit_code == 0, done.output
    # Two points of 2 epochs × 2 × 20 films × 1800 s.
    assert "This is 3.3 days here. A GPU" in done.output
    assert "Every layer is trained on every film" in done.output


def test_a_process_that_dies_or_fails_is_an_error_not_a_hang():
    with pytest.raises(RustOptunaError, match="timed this machine died"):
        side_by_side([{}, {}], Dies())
    with pytest.raises(RustOptunaError, match="timed this machine died"):
        side_by_side([{}, {}], DiesLater())
    with pytest.raises(RustOptunaError, match="no such film"):
        side_by_side([{}], Fails())


def test_a_childs_environment_is_the_slots_and_ours_is_as_before(monkeypatch):
    import os

    monkeypatch.delenv("RUST_OPTUNA_TEST_SLOT", raising=False)
    environments = [{"RUST_OPTUNA_TEST_SLOT": "a"}, {"RUST_OPTUNA_TEST_SLOT": "b"}]
    found, startup = side_by_side(environments, Tells())
    assert found == ["a", "b"]
    assert startup > 0
    assert "RUST_OPTUNA_TEST_SLOT" not in os.environ


@pytest.mark.tensorflow
def test_dry_run_prints_the_plan_and_runs_nothing(home, sqlite_url, tmp_path):
    document = random_document(3, model={"weights": "random", "output": "mixed0", "image_size": 75})
    path = write_study(home, document)
    arguments = ("search", path, "--workers", "1", "--gpus", "none", "--dry-run")
    done = run_command(home, sqlite_url, *arguments)
    assert done.returncode == 0, done.stderr
    assert "regime-1: 3 trials × 3 folds × 2 epochs" in done.stdout
    assert "batch size" in done.stdout
    assert "Total: " in done.stdout
    assert f"search {path} --workers 1 --gpus none\n" in done.stdout
    assert not (tmp_path / "storage").exists()
    assert not (home.storage / "features").exists()


def test_dry_run_refuses_what_the_search_would(home, sqlite_url):
    path = write_study(home, random_document(name="bad", colour="red"))
    done = invoke("--home", home.root, "--storage", sqlite_url, "search", path, "--dry-run")
    assert (done.exit_code, "colour" in done.output) == (2, True)


def fixed(**values):
    return {"learning_rate": 1e-3, "epsilon": 1e-7, **values}


class Dies:
    def prepare(self):
        import os

        os._exit(1)


class DiesLater:
    def prepare(self):
        import os

        return lambda: os._exit(1)


class Fails:
    def prepare(self):
        raise RustOptunaError("no such film")


class Tells:
    def prepare(self):
        import os

        return lambda: os.environ["RUST_OPTUNA_TEST_SLOT"]


def test_what_the_workers_measured_is_put_together_with_nothing_forgotten():
    found = [replace(TIMES, threads=2, overhead=seconds, memory_bytes=int(seconds)) for seconds in (1.0, 2.0, 6.0)]
    assert module._median(found) == replace(TIMES, threads=2, overhead=2.0, memory_bytes=6)


def test_a_cache_is_looked_at_once_however_many_trials_use_it(plan, clockwork, monkeypatch):
    looked, honest = [], FeatureCache.without_tensorflow
    monkeypatch.setattr(FeatureCache, "without_tensorflow", lambda *given: looked.append(1) or honest(*given))
    plan(random_document(20))
    assert len(looked) == 1


@pytest.mark.tensorflow
@pytest.mark.long
def test_dry_run_times_end_to_end_training_on_this_machine(home, sqlite_url):
    model = {**LENET, "image_size": 75, "micro_batch": 4}
    path = write_study(home, random_document(3, model=model))
    done = run_command(home, sqlite_url, "search", path, "--workers", "1", "--gpus", "none", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Features: none to compute" in done.stdout
    assert "Every layer is trained" in done.stdout
    assert "days here" not in done.stdout
    assert not (home.storage / "pixels").exists()
