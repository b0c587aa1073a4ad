"""Invalid input, wherever it is given, ends a command with exit code 2 and one message, and leaves no database."""

import pytest

from rust_optuna.processes import ExitCode
from tests.cli.test_main import invoke
from tests.studies import random_document, write_study

FOLDS = {"folds": 100, "epochs": 2, "seed": 5}
CREATE, SEARCH, DRY = ("study", "create"), ("search", "--gpus", "none"), ("search", "--gpus", "none", "--dry-run")
FEATURES = ("features", "build")

CALLS = [
    ("data", "split", "manifest.csv", "--force", "--holdout", "15"),
    ("data", "split", "manifest.csv", "--force", "--holdout", "0"),
    ("data", "split", "manifest.csv", "--force", "--holdout", "nan"),
    ("data", "split", "manifest.csv", "--force", "--seed", "-1"),
    ("data", "check", "manifest.csv", "--folds", "1"),
    ("data", "check", "none.csv"),
    ("data", "check", "none.csv", "--json"),
    ("data", "check", "."),
    ("data", "check", "manifest.csv", "--seed", "-1"),
    ("data", "synthesize", "films", "--patients", "0"),
    ("data", "synthesize", "films", "--seed", "-1"),
    ("data", "synthesize", "films", "--contrast", "11"),
    ("demo", "--seed", "-1"),
    ("demo", "--workers", "0"),
    ("search", "good.toml", "--gpus", "7"),
    ("search", "good.toml", "--gpus", ","),
    ("search", "good.toml", "--gpus", "none", "--workers", "2", "--per-gpu", "2"),
    ("worker", "start", "--address", "auto"),
    ("worker", "start", "--gpus", "0", "--engine", "ray"),
    ("dashboard", "--port", "65536"),
    ("--storage", "nonsense", "status"),
    ("--storage", "sqlite://", "status"),
    ("--storage", "oracle://host/name", "status"),
    ("--storage", "postgresql://user@host:port/name", "status"),
    ("--storage", "postgresql://user@host/name", "--password-file", "none", "status"),
    ("storage", "restore", "manifest.csv"),
    *((*command, file) for command in (CREATE, SEARCH, DRY, FEATURES) for file in ("folds.toml", "weights.toml")),
    *((*command, file) for command in (CREATE, SEARCH, DRY, FEATURES) for file in ("none.toml", "manifest.toml")),
]


@pytest.fixture
def files(home):
    """Study files: a good one, and others that are wrong in what their names say."""
    write_study(home, random_document(name="good"))
    write_study(home, random_document(name="folds", cross_validation=FOLDS))
    write_study(home, random_document(name="weights", model={"weights": "none.h5"}))
    write_study(home, random_document(name="manifest", manifest="none.csv"))
    return home


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_invalid_input_is_exit_code_2_and_leaves_no_database(files, call):
    before = {path.name for path in files.root.iterdir()}
    done = invoke("--home", files.root, *call)
    assert done.exit_code == ExitCode.USAGE, done.output
    assert isinstance(done.exception, SystemExit)
    assert "Error: " in done.output
    left = {str(path.relative_to(files.root)) for path in files.root.rglob("*") if path.is_file()}
    assert {path.split("/")[0] for path in left} <= before | {"storage"}
    # Hashes of films serve the next call.
    assert {path for path in left if path.startswith("storage/")} <= {"storage/films.json", "storage/films.json.lock"}


def test_a_number_of_cores_that_is_none_is_exit_code_2(files):
    done = invoke("--home", files.root, "search", "good.toml", "--gpus", "none", RUST_OPTUNA_CORES="many")
    assert (done.exit_code, "RUST_OPTUNA_CORES is 'many'" in done.output) == (ExitCode.USAGE, True)
    assert not (files.storage / "rust_optuna.db").exists()
