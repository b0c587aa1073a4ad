"""A search and its evaluation in a home of its own, run in this process, for the tests of what follows a search."""

from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.run import evaluation as story
from rust_optuna.run.evaluation import Request
from rust_optuna.search.creation import create_study
from rust_optuna.search.studies import load_study
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.url import parse_url
from rust_optuna.worker.worker import Worker
from tests.compiled import compile_once
from tests.studies import random_document, site_of

DOCUMENT = random_document(
    2,
    model={"weights": "random", "output": "mixed0", "image_size": 75, "hidden_units": [8, 4], "standardize": True},
    cross_validation={"folds": 2, "epochs": 3, "seed": 5},
)
REQUEST = Request(study="regime-1", folds=3)


def in_this_process(patch):
    compile_once(patch)
    patch.setattr(story, "build_features", lambda *_: None)
    patch.setattr(story, "run_workers", lambda database, study, home, *_: work(database, home, study.name))


def database_url(home):
    return parse_url(f"sqlite:///{home.database}", home)


def work(database, home, name):
    Worker(database, home, open_store(database.artifacts(), home)).run([name])


def train_folds(database, home):
    study = load_study(database, "regime-1")
    folds = story.evaluation_of(database, study, str(home.root / "manifest.csv"), folds=3, seeds=1)
    create_study(database, folds, home)
    work(database, home, folds.name)


def evaluate(home, request=REQUEST):
    return story.evaluate(site_of(home, database_url(home)), request, DeviceChoice("none", 1))
