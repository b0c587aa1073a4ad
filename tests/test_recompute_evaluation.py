"""`docs/recompute_evaluation.py`, which shares no code with this project, against a model directory's numbers."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from rust_optuna.data.manifest import LABELS
from rust_optuna.model.numbers import Calibration, measure
from tests.model.films import draw_films, draw_readers
from tests.studies import REPOSITORY

SCRIPT = REPOSITORY / "docs" / "recompute_evaluation.py"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    specification = importlib.util.spec_from_file_location("recompute_evaluation", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def write(folder, out_of_fold, **films):
    """Write what the script reads of a model directory."""
    (folder / "arrays").mkdir()
    calibration = Calibration.fit(out_of_fold)
    for name, each in {"out_of_fold": out_of_fold, **films}.items():
        each.save(folder / "arrays" / f"{name}.npz")
    numbers = {name: measure(each, calibration, resamples=60, seed=3) for name, each in films.items()}
    (folder / "metrics.json").write_text(json.dumps({"holdout": numbers}))
    (folder / "calibration.json").write_text(json.dumps(calibration.to_json()))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two models' scores, one of them with ties, with sources and readers; few patients, so that not all is defined."""
    folder = tmp_path_factory.mktemp("model")
    films = draw_readers(draw_films(1, 12, sources=True))
    write(folder, draw_films(2, 14), mean=films, best_fold=films.with_scores(films.scores.round(1)))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy with the numbers of one model."""
    shutil.copytree(written, tmp_path / "model")
    change(tmp_path / "model" / "metrics.json", lambda document: document["holdout"].pop("best_fold"))
    return tmp_path / "model"


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_every_number_of_an_evaluation_is_recomputed(written):
    done = subprocess.run([sys.executable, SCRIPT, written], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    count, difference = done.stdout.split(" numbers compared, largest difference ")
    assert int(count.replace(",", "")) > 3000
    assert float(difference) < 1e-9


def test_films_on_the_scale_without_remodelling_are_recomputed(tmp_path, script, capsys):
    """RUST, not modified RUST: no subscore of 4; and no subscore of one cortex at all in the films that are judged."""

    def without(films, *labels):
        kept = films.labels.copy()
        kept[:, [LABELS.index(label) for label in labels]] = 0
        return type(films)(**{**vars(films), "labels": kept})

    fours = [label for label in LABELS if label.endswith("_4")]
    films = without(draw_films(3, 8), *fours[1:], "medial_1", "medial_2", "medial_3")
    write(tmp_path, without(draw_films(4, 12), *fours), mean=films)
    assert script.main(tmp_path), capsys.readouterr().out


def test_a_folder_that_is_no_model_is_a_wrong_call(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"there is no metrics.json in {tmp_path}" in done.stderr


def named(output):
    """Return what the script says is wrong."""
    return {line.partition(":")[0] for line in output.splitlines() if ": reported" in line}


def leaves(document, prefix):
    """Yield each number of a document: what holds it, its key there, and what the script calls it."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        where = f"{prefix}, {key}"
        if isinstance(value, dict) and "value" in value:
            if value["value"] is not None:
                yield value, "value", where
        elif isinstance(value, dict | list):
            yield from leaves(value, where)
        elif isinstance(value, int | float) and not where.endswith((", threshold", "bootstrap, resamples", ", seed")):
            yield document, key, where


def test_each_number_that_was_tampered_with_is_named(folder, script, capsys):
    tampered = set()

    def edit(found):
        for holder, key, where in list(found):
            holder[key] += 2e-9
            tampered.add(where)

    change(folder / "metrics.json", lambda document: edit(leaves(document["holdout"]["mean"], "mean")))
    change(folder / "calibration.json", lambda document: edit(leaves(document, "calibration")))
    assert not script.main(folder)
    assert len(tampered) > 1500
    assert named(capsys.readouterr().out) == tampered


def test_what_else_was_tampered_with_is_named(folder, script, capsys):
    def edit(document):
        labels = document["holdout"]["mean"]["labels"]
        labels["macro_16"]["model"]["average_precision"]["low"] += 1e-6
        labels["micro"]["model"]["recall"]["high"] += 1e-6
        labels["macro_18"]["other"] = 1
        labels["by_label"]["medial_1"]["model"]["roc_auc"]["value"] = None

    change(folder / "metrics.json", edit)
    assert not script.main(folder)
    assert named(capsys.readouterr().out) == {
        "mean, interval of macro_16, 0",
        "mean, interval of micro, 1",
        "mean, labels, macro_18",
        "mean, labels, by_label, medial_1, model, roc_auc",
    }


def test_scores_of_another_model_are_noticed(folder, script, capsys):
    (folder / "arrays" / "mean.npz").write_bytes((folder / "arrays" / "best_fold.npz").read_bytes())
    assert not script.main(folder)
    assert "mean, labels, macro_16, model, average_precision" in named(capsys.readouterr().out)


def test_the_average_precision_of_the_intervals_is_that_of_scikit_learn(script):
    generator = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        labels, scores = generator.integers(0, 2, 40), generator.integers(0, levels, 40) / levels
        expected = script.average_precision_score(labels, scores)
        assert script.average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
