"""A finished search and its evaluation, made once for all tests that look at them or go on from them."""

import shutil

import pytest

from rust_optuna.paths import Home
from rust_optuna.search.creation import create_study
from rust_optuna.storage.database import create_database
from tests.data.films import make_manifest
from tests.model.story import DOCUMENT, database_url, evaluate, in_this_process, train_folds, work
from tests.studies import configuration


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """A home in which a search is done and its evaluation's folds are trained; the hold-out is sealed."""
    home = Home(tmp_path_factory.mktemp("evaluation") / "home")
    make_manifest(home.root, patients=14, holdout=4)
    with create_database(database_url(home), "storage/artifacts") as database:
        create_study(database, configuration(DOCUMENT), home)
        work(database, home, "regime-1")
        train_folds(database, home)
    return home


@pytest.fixture(scope="session")
def evaluated(searched, tmp_path_factory):
    """An evaluation that nothing disturbed, for tests that only look, with the home in which it took place."""
    home = Home(tmp_path_factory.mktemp("evaluated") / "home")
    shutil.copytree(searched.root, home.root)
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        return evaluate(home), home
