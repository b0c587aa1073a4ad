import pytest

from rust_optuna.errors import RustOptunaError
from rust_optuna.search.objective import StandInObjective
from tests import stand_ins


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


@pytest.mark.parametrize("name", ["not_a_number", "infinite"])
def test_a_value_that_is_not_finite_is_an_error(name):
    with pytest.raises(ValueError, match="not finite"):
        StandInObjective.load(f"tests.stand_ins:{name}")(None, None, None)
