from pathlib import Path

import pytest

from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.run import evaluation
from rust_optuna.run.evaluation import Request
from tests.cli.test_main import invoke

OPTIONS = {
    "study": ("--study", "regime-7"),
    "folds": ("--folds", 4),
    "seeds": ("--seeds", 3),
    "manifest": ("--manifest", Path("films.csv")),
    "name": ("--name", "mine"),
    "record": ("--record", Path("records")),
    "threshold": ("--united-from", 14),
}


class AskedError(Exception):
    """Ends the command once it is known what it would do."""


@pytest.fixture
def ask(home, monkeypatch):
    """Return what an evaluation is asked for by options of the command."""

    def stop(site, request, choice, listener):
        raise AskedError(request, choice)

    monkeypatch.setattr(evaluation, "evaluate", stop)

    def call(*words):
        return invoke("--home", home.root, "evaluate", *words).exception.args

    return call


def test_each_option_reaches_the_evaluation_that_it_is_of(ask, home):
    assert ask() == (Request(), DeviceChoice())
    for field, (option, value) in OPTIONS.items():
        assert ask(option, value) == (Request(**{field: value}), DeviceChoice())
    assert ask("--again")[0] == Request(again=True)
    assert ask("--data-root", home.root)[0] == Request(data_root=home.root)
    assert ask("--gpus", "none", "--workers", "2")[1] == DeviceChoice("none", 2)
