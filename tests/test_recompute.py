"""`docs/recompute.py`, which shares no code with this project, against an export: it agrees, or says what is wrong."""

import csv
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from optuna.artifacts import upload_artifact

from rust_optuna.data.manifest import VIEWS
from rust_optuna.data.metrics import (
    expected_average_precision,
    summarise,
    summarise_untied,
    view_only_scores,
)
from rust_optuna.data.scores import AveragePrecisions, Scores
from rust_optuna.search.export import export_study
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import best_trial, status
from rust_optuna.search.studies import load_study
from rust_optuna.storage.artifacts import open_store
from tests.learn.material import SHOWN, make_labels
from tests.reports import report
from tests.studies import REPOSITORY, make_study, random_document

SCRIPT = REPOSITORY / "docs" / "recompute.py"
LEFT_ALONE = {
    "arithmetic",
    "number",
    "point",
    "epoch",
    "batch_size",
    "dropout_rate",
    "learning_rate",
    "epsilon",
    "diverged",
    "seconds",
    "worker",
    "objective",
    "study",
}
"""Columns that tell no number of the scores."""


def recompute(folder):
    return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)


def test_help_says_what_it_does_and_how_it_is_called():
    done = recompute("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "    python docs/recompute.py storage/reports/regime-1\n" in done.stdout
    assert "Every number in ``trials.csv`` is compared" not in done.stdout
    assert "Every number in trials.csv is compared" in done.stdout


def test_a_folder_that_is_no_export_is_a_wrong_call(tmp_path):
    done = recompute(tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"there is no trials.csv in {tmp_path}" in done.stderr


def scored(seed, films=60):
    """Return out-of-fold arrays, and what is reported of them."""
    generator = np.random.default_rng(seed)
    labels, fold = make_labels(films), np.arange(films) % 3
    # A label that no film of one fold has, and none of another lacks.
    labels[:, 5] = (fold == 1) | ((fold == 2) & (generator.random(films) < 0.3))
    scores = np.round(0.5 * labels + generator.random(labels.shape), 2).astype(np.float32) / 2
    views = np.array([VIEWS[label[1]] for label in labels])
    ours, tied, untied = [], [], []
    for number in range(3):
        here = fold == number
        trivial = view_only_scores(list(views[~here]), labels[~here], list(views[here]))
        ours.append(summarise(labels[here], scores[here], SHOWN))
        tied.append(summarise(labels[here], trivial, SHOWN))
        untied.append(summarise_untied(labels[here], trivial))
    reported = Scores.over_folds(ours)
    result = report(
        epoch=1,
        value=reported.average_precision.mean,
        fold_values=reported.average_precision.folds,
        scores=reported,
        baseline=Scores.over_folds(tied),
        untied_baseline=AveragePrecisions.over_folds(untied),
    )
    return {"film": np.array(["f"] * films), "fold": fold, "labels": labels, "scores": scores}, result


@pytest.fixture
def folder(sqlite, home, tmp_path):
    """Two trials, exported, with what `best` and `status` print."""
    study, store = make_study(sqlite, home, random_document(2)), open_store("storage/artifacts", home)
    for seed in (1, 2):
        arrays, result = scored(seed)
        claim = Ledger(sqlite).claim([study.id], "ann")
        trial = Mirror(sqlite, study).start(claim)
        np.savez(tmp_path / "scores.npz", **arrays)
        artifact = upload_artifact(artifact_store=store, file_path=str(tmp_path / "scores.npz"), study_or_trial=trial)
        Ledger(sqlite).finish(claim, "complete", result.value, result, artifact)
    out = tmp_path / "out"
    export_study(sqlite, "regime-1", store, out)
    study = load_study(sqlite, "regime-1")
    (out / "best.json").write_text(json.dumps(best_trial(sqlite, study).to_json()))
    (out / "status.json").write_text(json.dumps([status(sqlite, study).to_json()]))
    return out


def test_every_number_of_an_export_is_recomputed(folder):
    done = recompute(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("trial 0: lift +0.")
    assert "62 numbers compared, largest difference" in done.stdout


@pytest.fixture
def script():
    """The script as a module: importing scikit-learn for each cell would take a minute."""
    specification = importlib.util.spec_from_file_location("recompute", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def named(output):
    """Return what the script says is wrong."""
    return {line.partition(":")[0] for line in output.splitlines() if ": reported" in line}


def test_each_number_of_the_table_that_was_tampered_with_is_named(folder, script, capsys):
    table = folder / "trials.csv"
    header, *rows = csv.reader(table.read_text().splitlines())
    columns = {name for name in header if name not in LEFT_ALONE}
    assert {"value", "lift_16", "lift_16_standard_error", "baseline_view_only_untied_average_precision_16"} < columns
    rows[1] = [
        repr(float(cell) + 2e-9) if name in columns else cell for name, cell in zip(header, rows[1], strict=True)
    ]
    table.write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    assert not script.main(folder)
    assert named(capsys.readouterr().out) == {f"trial 1, {column}" for column in columns}


def test_one_number_that_was_tampered_with_is_enough(folder):
    table = folder / "trials.csv"
    header, *rows = csv.reader(table.read_text().splitlines())
    place = header.index("lift_16")
    rows[0][place] = f"{float(rows[0][place]) + 1e-4:.6f}"
    table.write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    done = recompute(folder)
    assert (done.returncode, named(done.stdout)) == (1, {"trial 0, lift_16"})


def test_what_best_and_status_print_is_compared(folder, script, capsys):
    best, status = (json.loads((folder / f"{name}.json").read_text()) for name in ("best", "status"))
    recomputed = [
        *("value", "average_precision_16", "baseline_view_only", "baseline_view_only_16"),
        *("baseline_view_only_untied_16", "number"),
    ]
    lists = ["fold_values", "fold_values_16", "baseline_view_only_untied_fold_values_16"]
    best |= {name: best[name] + 1 for name in recomputed}
    best |= {name: [*best[name][:2], best[name][2] - 1e-6] for name in lists}
    status[0] |= {name: status[0][name] + 1 for name in ("best_value", "complete")}
    (folder / "best.json").write_text(json.dumps(best))
    (folder / "status.json").write_text(json.dumps(status))
    assert not script.main(folder)
    expected = {f"best.json, {name}" for name in recomputed} | {f"best.json, {name}, fold 2" for name in lists}
    assert named(capsys.readouterr().out) == expected | {"status.json, best_value", "status.json, complete"}


def test_scores_of_another_trial_are_noticed(folder, script, capsys):
    (folder / "trial-1.npz").write_bytes((folder / "trial-0.npz").read_bytes())
    assert not script.main(folder)
    assert "trial 1, lift_16" in named(capsys.readouterr().out)


def test_the_expectation_written_out_is_the_one_reported(script):
    """And both are the mean over random rankings, to five standard errors."""
    generator = np.random.default_rng(0)
    labels, scores = generator.random(90) < 0.2, generator.integers(0, 2, 90) / 7
    written_out = script.untied_precision(labels.astype(int), scores)
    assert expected_average_precision(labels[:, None], scores[:, None])[0] == pytest.approx(written_out, abs=1e-12)
    ranked = labels[np.lexsort((generator.random((4000, 90)), np.broadcast_to(-scores, (4000, 90))), axis=1)]
    precisions = (ranked * ranked.cumsum(axis=1) / np.arange(1, 91)).sum(axis=1) / labels.sum()
    assert abs(precisions.mean() - written_out) < 5 * precisions.std() / np.sqrt(4000)


def test_what_best_prints_of_every_study_is_refused_in_words(folder):
    (folder / "best.json").write_text(json.dumps([{}, {}]))
    done = recompute(folder)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "best.json holds 2 studies: rust-optuna best NAME --json shows the one" in done.stderr
