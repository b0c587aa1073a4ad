"""A point has the same bits whatever command runs it, with however many workers and cores, and from whatever features.

Each way is the commands that users type, in a home of its own with a cache of its own.
"""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from rust_optuna.paths import Home
from rust_optuna.search.results import complete_points
from rust_optuna.search.studies import load_study
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import parse_url
from tests.conftest import POSTGRESQL
from tests.data.films import make_manifest
from tests.studies import random_document, write_study

MODEL = {"weights": "random", "output": "mixed1", "image_size": 75, "hidden_units": [32, 16]}
STUDY = random_document(3, model=MODEL)
ON_CPU = ("--gpus", "none")
BY_ITSELF = "a worker by itself, its own features"
WAYS = {
    BY_ITSELF: [["study", "create", "FILE"], ["study", "create", "LIVE"], ["worker", "run"]],
    "two workers of a search": [["search", "FILE", *ON_CPU, "--workers", "2"]],
    "three workers of a fleet, features ahead": [
        ["features", "build", "FILE"],
        ["study", "create", "FILE"],
        ["worker", "start", *ON_CPU, "--workers", "3"],
    ],
    "one worker of a search": [["search", "FILE", *ON_CPU, "--workers", "1"]],
    "two workers of a search, live features": [["search", "LIVE", *ON_CPU, "--workers", "2"]],
}
"""`make test` takes the first three, which are one, two and three workers, with features that a worker, a search and
`features build` compute."""
STUDIES = {"FILE": "regime-1", "LIVE": "live"}


def run_way(home, url, commands):
    """Run commands as a user would; yield each study's features, value and out-of-fold scores by point, and points."""
    files = {
        "FILE": str(write_study(home, STUDY)),
        "LIVE": str(write_study(home, {**STUDY, "name": "live", "model": {**MODEL, "features": "live"}})),
    }
    environment = {**os.environ, "RUST_OPTUNA_HOME": str(home.root), "RUST_OPTUNA_STORAGE": url}
    for command in commands:
        words = [files.get(word, word) for word in command]
        done = subprocess.run(
            [sys.executable, "-m", "rust_optuna", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    with open_database(parse_url(url, home), read_only=True) as database:
        names = [name for word, name in STUDIES.items() if any(word in command for command in commands)]
        studies = [complete_points(database, load_study(database, name)) for name in names]
    for points in studies:
        found = {}
        for point in points:
            stored = home.root / "storage" / "artifacts" / point.artifact
            with np.load(io.BytesIO(stored.read_bytes()), allow_pickle=False) as kept:
                scores = kept["scores"].tobytes()
            found[point.number] = (point.report.features_sha256, point.value, scores)
        yield found, points


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(list(WAYS)[1:3], id="two and three workers"),
        pytest.param(list(WAYS)[3:], id="every other way", marks=pytest.mark.long),
    ],
)
def test_every_way_to_run_a_study_gives_the_same_bits(request, tmp_path, names):
    """Each on PostgreSQL once, where there is one: there others may claim a point, but its numbers are the same."""
    expected = None
    for number, name in enumerate([BY_ITSELF, *names]):
        here = Home(tmp_path / f"way-{number}")
        make_manifest(here.root, patients=7, holdout=1)
        on_server = name == names[-1] and POSTGRESQL in os.environ
        place = request.getfixturevalue("postgresql_url") if on_server else f"sqlite:///{here.root}/a.db"
        for found, points in run_way(here, place, WAYS[name]):
            assert sorted(found) == [0, 1, 2]
            expected = expected or found
            assert found == expected, name
            for point in points:
                assert point.report.threads.operation == 1
                assert point.report.arithmetic == points[0].report.arithmetic


def set_up(**variables):
    """Return a new process's threads for an operation, its kind of arithmetic, and its threads side by side."""
    code = (
        "import json\nfrom rust_optuna.learn.runtime import load_tensorflow, side_by_side_threads\n"
        "from rust_optuna.learn.arithmetic import arithmetic\ntf = load_tensorflow()\n"
        "threads = tf.config.threading.get_intra_op_parallelism_threads()\n"
        "print(json.dumps([threads, arithmetic('float32'), side_by_side_threads()]))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **variables}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


@pytest.mark.tensorflow
def test_what_decides_the_bits_is_the_same_whatever_the_environment_says():
    alone = set_up(RUST_OPTUNA_CORES="1")
    other = set_up(RUST_OPTUNA_CORES="3", TF_NUM_INTRAOP_THREADS="2", TF_ENABLE_ONEDNN_OPTS="0")
    assert (alone[0], alone[2]) == (1, 1)
    assert (other[0], other[2]) == (1, 3)
    assert alone[1] == other[1]
