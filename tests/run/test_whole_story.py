"""From films to recomputed numbers, through the commands and real workers: with something to learn, and without."""

import csv
import re
import subprocess
import sys

import pytest

from rust_optuna.data.manifest import CORTICES, read_manifest
from rust_optuna.data.synthetic.cohort import draw_cohort
from rust_optuna.paths import Home
from tests.cli.test_main import invoke
from tests.data.films import rewrite
from tests.small_demo import PATIENTS
from tests.studies import REPOSITORY, random_document, write_study

SEED = 1


def run(*words):
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=300)


def true_scores(manifest):
    """Give the films of a shuffled demo the scores that they show, by row."""
    by_name = {film.name: film.readable for film in draw_cohort(PATIENTS, SEED)}
    return {film.row: tuple(map(by_name[film.image.name].get, CORTICES)) for film in manifest.films}


def shown_lift(text):
    """Return the lift and its standard error as `best` prints them."""
    lift, error = re.search(r"lift ([+-]\d\.\d{4}) ± (\d\.\d{4})", text).groups()
    return float(lift), float(error)


def exported(home, url, name):
    """Export a study with what `best` and `status` print, recompute everything, and return its trials."""
    folder, place = home.storage / "reports" / name, ("--home", home.root, "--storage", url)
    assert invoke(*place, "study", "export", name, folder).exit_code == 0
    for command in (["best", name], ["status"]):
        printed = invoke(*place, *command, "--json")
        assert printed.exit_code == 0, printed.output
        (folder / f"{command[0]}.json").write_text(printed.output)
    done = run(sys.executable, "docs/recompute.py", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.tensorflow
def test_a_search_learns_what_films_show_and_nothing_of_shuffled_scores_and_can_be_recomputed(tmp_path):
    home, url = Home(tmp_path.resolve()), f"sqlite:///{tmp_path / 'test.db'}"
    words = ["--shuffle-scores", "--weights", "random", "--seed", str(SEED), "--workers", "1"]
    place = ["--home", str(home.root), "--storage", url]
    done = run(sys.executable, "-m", "tests.small_demo", "demo", *words, *place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo-regime-1: trial 0 (point 0)" in done.stdout
    assert "demo-regime-2: trial 0 (point 0)" in done.stdout
    assert "batch_size = 32  (inherited)" in done.stdout
    assert "no number here says anything about patients" in done.stdout
    (trial,) = exported(home, url, "demo-regime-1")
    lift, error = float(trial["lift_16"]), float(trial["lift_16_standard_error"])
    assert (round(lift, 4), round(error, 4)) == shown_lift(done.stdout)
    assert abs(lift) < 3 * error < 0.15

    # The same films, with the scores that they show.
    shuffled = read_manifest(home.demo / "manifest.csv")
    scores = true_scores(shuffled)
    assert any(film.subscores != scores[film.row] for film in shuffled.films)
    rewrite(shuffled, subscores=scores)
    model = {"weights": "random", "output": "mixed0", "image_size": 75, "standardize": True}
    contents = random_document(1, name="true", manifest="storage/demo/manifest.csv", model=model)
    contents["search_space"] = {"batch_size": [32], "dropout_rate": {"type": "float", "low": 0.0, "high": 0.3}}
    contents["cross_validation"] = {"folds": 6, "epochs": 12, "seed": 1337}
    file = write_study(home, contents)
    done = run(sys.executable, "-m", "rust_optuna", "search", file, "--workers", "1", "--gpus", "none", *place)
    assert done.returncode == 0, done.stderr
    (trial,) = exported(home, url, "true")
    lift, error = float(trial["lift_16"]), float(trial["lift_16_standard_error"])
    assert lift > 3 * error
    assert lift > 0.1
