"""`docs/recompute_evaluation.py`, which shares no code with this project, against a model directory's numbers."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from rust_optuna.data.manifest import LABELS
from rust_optuna.model.numbers import Calibration, measure
from tests.model.films import draw_films, draw_readers
from tests.studies import REPOSITORY

SCRIPT = REPOSITORY / "docs" / "recompute_evaluation.py"


@pytest.fixture
def script():
    """The script as a module: importing scikit-learn anew for each test would take a minute."""
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


@pytest.fixture
def folder(tmp_path):
    """Two models' scores, one of them with ties, with sources and readers; few patients, so that not all is defined."""
    films = draw_readers(draw_films(1, 12, sources=True))
    write(tmp_path, draw_films(2, 14), mean=films, best_fold=films.with_scores(films.scores.round(1)))
    return tmp_path


def test_every_number_of_an_evaluation_is_recomputed(folder):
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    count, difference = done.stdout.split(" numbers compared, largest difference ")
    assert int(count.replace(",", "")) > 4000
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


def test_help_says_what_it_does_and_a_folder_that_is_no_model_is_a_wrong_call(tmp_path):
    help_page = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert (help_page.returncode, help_page.stderr) == (0, "")
    assert "    python docs/recompute_evaluation.py storage/models/NAME\n" in help_page.stdout
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"there is no metrics.json in {tmp_path}" in done.stderr


def named(output):
    """Return what the script says is wrong."""
    return {line.partition(":")[0] for line in output.splitlines() if ": reported" in line}


def leaves(document, prefix):
    """Yield each number of a document: the object or list that holds it, its key there, and the script's name for it."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        if isinstance(value, dict) and "resamples" in value:
            if value["value"] is not None:
                yield value, "value", f"{prefix}, {key}"
        elif isinstance(value, dict | list):
            yield from leaves(value, f"{prefix}, {key}")
        elif isinstance(value, int | float):
            yield document, key, f"{prefix}, {key}"


def test_each_number_that_was_tampered_with_is_named(folder, script, capsys):
    metrics, calibration = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "calibration"))
    bootstrap = metrics["holdout"]["mean"].pop("bootstrap")
    del metrics["holdout"]["best_fold"]
    tampered = [*leaves(metrics["holdout"]["mean"], "mean"), *leaves(calibration, "calibration")]
    for holder, key, _ in tampered:
        holder[key] += 2e-9
    metrics["holdout"]["mean"]["bootstrap"] = bootstrap
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "calibration.json").write_text(json.dumps(calibration))
    assert not script.main(folder)
    assert named(capsys.readouterr().out) >= {name for *_, name in tampered} - {"calibration, totals, model, threshold"}


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("bound", ["low", "high"])
def test_an_interval_that_was_tampered_with_is_named(folder, script, capsys, bound):
    def edit(document):
        document["holdout"]["mean"]["labels"]["macro_16"]["model"]["average_precision"][bound] += 1e-6
        document["holdout"]["best_fold"]["labels"]["micro"]["model"]["recall"][bound] += 1e-6

    change(folder / "metrics.json", edit)
    assert not script.main(folder)
    place = ("low", "high").index(bound)
    expected = {f"mean, interval of macro_16, {place}", f"best_fold, interval of micro, {place}"}
    assert named(capsys.readouterr().out) == expected


def test_a_number_that_the_script_does_not_know_is_named(folder, script, capsys):
    change(folder / "metrics.json", lambda document: document["holdout"]["mean"]["labels"]["macro_16"].update(other=1))
    assert not script.main(folder)
    assert "mean, labels, macro_16" in named(capsys.readouterr().out)


def test_scores_of_another_model_are_noticed(folder, script, capsys):
    (folder / "arrays" / "mean.npz").write_bytes((folder / "arrays" / "best_fold.npz").read_bytes())
    assert not script.main(folder)
    assert "mean, labels, macro_16, model, average_precision" in named(capsys.readouterr().out)


def test_the_own_average_precision_is_that_of_scikit_learn(script):
    generator = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        labels, scores = generator.integers(0, 2, 40), generator.integers(0, levels, 40) / levels
        expected = script.average_precision_score(labels, scores)
        assert script.average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
