import csv
import json
import math

import numpy as np
import pytest
from optuna.artifacts import upload_artifact

from rust_optuna.data.scores import AveragePrecisions, Score
from rust_optuna.errors import DataError, StudyError
from rust_optuna.search.creation import create_study
from rust_optuna.search.export import export_study
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.storage.artifacts import open_store, remove
from tests.reports import flat, report, scores
from tests.s3 import BUCKET, keys
from tests.studies import configuration, grid_document, make_study, points, random_document, run_command, run_study

NUMBERS = {"average_precision_16": 0.5, "roc_auc_macro": 0.6, "roc_auc_micro": 0.7, "precision": 0.8, "recall": 0.9}
REPORT = report(
    fold_values=(0.4, 0.5, 0.6),
    scores=scores(
        **{name: flat(value) for name, value in NUMBERS.items()}
        | {"average_precision_16": Score(0.5, (0.5, None, 0.7))}
    ),
    baseline=scores(average_precision=flat(0.25), **{name: flat(value / 10) for name, value in NUMBERS.items()}),
    untied_baseline=AveragePrecisions(flat(0.2), Score(0.15, (0.3, 0.1, 0.1))),
    arithmetic="AVX2 1",
)


def with_scores(database, study, store, folder):
    """Finish a point with out-of-fold scores, and return their artifact."""
    ledger, mirror = Ledger(database), Mirror(database, study)
    claim = ledger.claim([study.id], "ann")
    trial = mirror.start(claim)
    path = folder / "scores.npz"
    np.savez(path, film=np.array(["a", "b"]), scores=np.eye(2))
    artifact = upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)
    ledger.finish(claim, "complete", 0.5, REPORT, artifact)
    return artifact


@pytest.fixture
def store(home):
    return open_store("storage/artifacts", home)


@pytest.fixture
def study(database, home, store, tmp_path):
    """Three points: one with scores, one of a stand-in, one that waits."""
    study = make_study(database, home, random_document(3))
    artifact = with_scores(database, study, store, tmp_path)
    ledger, mirror = Ledger(database), Mirror(database, study)
    claim = ledger.claim([study.id], "bob")
    mirror.start(claim)
    ledger.finish(claim, "complete", 0.7, None, None)
    return study, artifact


def test_a_study_is_written_as_a_table_and_its_scores(database, home, store, study, tmp_path):
    table, count = export_study(database, "regime-1", store, tmp_path / "out")
    assert (table, count) == (tmp_path / "out" / "trials.csv", 2)
    assert sorted(path.name for path in table.parent.iterdir()) == ["trial-0.npz", "trials.csv"]
    with np.load(table.parent / "trial-0.npz", allow_pickle=False) as scores:
        assert scores["scores"].tolist() == [[1, 0], [0, 1]]
    with table.open() as file:
        first, second = csv.DictReader(file)
    assert list(first) == [
        *("number", "point", "value", "epoch", "batch_size", "dropout_rate", "learning_rate", "epsilon"),
        *("fold_0", "fold_1", "fold_2"),
        *NUMBERS,
        *(f"baseline_view_only_{name}" for name in ("average_precision", *NUMBERS)),
        *("baseline_view_only_untied_average_precision", "baseline_view_only_untied_average_precision_16"),
        *("deviation", "deviation_16", "lift_16", "lift_16_standard_error"),
        *("diverged", "seconds", "worker", "arithmetic", "objective", "study"),
    ]
    assert (first["number"], first["point"], float(first["value"]), first["epoch"]) == ("0", "0", 0.5, "2")
    assert {(row["learning_rate"], row["epsilon"]) for row in (first, second)} == {("0.001", "1e-07")}
    assert [float(first[f"fold_{fold}"]) for fold in range(3)] == [0.4, 0.5, 0.6]
    assert {name: float(first[name]) for name in NUMBERS} == NUMBERS
    assert float(first["baseline_view_only_average_precision"]) == 0.25
    untied = [
        float(first[f"baseline_view_only_untied_{name}"]) for name in ("average_precision", "average_precision_16")
    ]
    assert untied == [0.2, 0.15]
    # The fold without a value is left out: 0.5 − 0.3 and 0.7 − 0.1.
    expected = {"deviation": 0.1, "deviation_16": math.sqrt(0.02), "lift_16": 0.4, "lift_16_standard_error": 0.2}
    assert {name: float(first[name]) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert {second[name] for name in expected} == {""}
    assert (first["arithmetic"], second["arithmetic"]) == ("AVX2 1", "")
    assert (first["worker"], second["worker"], second["fold_0"], second["epoch"]) == ("ann", "bob", "", "")


def test_inherited_hyperparameters_and_all_fixed_values_are_columns_too(sqlite, home, store, tmp_path):
    first = run_study(sqlite, home, random_document(2))
    fixed = {"from_best_of": "regime-1", "dropout_rate": 0.25, "hidden_units": [8, 4]}
    run_study(sqlite, home, grid_document(fixed=fixed))
    table, count = export_study(sqlite, "regime-2", store, tmp_path / "out")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[4:9] == ["learning_rate", "epsilon", "dropout_rate", "hidden_units", "batch_size"]
    best = max(points(sqlite, first), key=lambda row: row.value)
    (batch_size,) = {int(row["batch_size"]) for row in rows}
    assert batch_size == json.loads(best.parameters)["batch_size"]
    assert {(row["dropout_rate"], row["hidden_units"]) for row in rows} == {("0.25", "[8, 4]")}
    assert len({(row["learning_rate"], row["epsilon"]) for row in rows}) == count == 6


def test_an_export_replaces_an_earlier_one(database, home, store, study, tmp_path):
    for _ in range(2):
        table, _ = export_study(database, "regime-1", store, tmp_path / "out")
    assert len(list(table.parent.iterdir())) == 2


def test_an_export_of_another_study_is_left_alone(sqlite, home, store, tmp_path):
    run_study(sqlite, home, random_document(2))
    run_study(sqlite, home, random_document(1, name="another"))
    table, _ = export_study(sqlite, "regime-1", store, tmp_path / "out")
    before = table.read_bytes()
    with pytest.raises(StudyError, match="out holds the export of regime-1: choose another folder"):
        export_study(sqlite, "another", store, tmp_path / "out")
    table.write_text("number,value\n0,0.5\n")
    with pytest.raises(StudyError, match=r"trials.csv does not name the study it was exported from"):
        export_study(sqlite, "another", store, tmp_path / "out")
    table.unlink()
    (table.parent / "trial-7.npz").touch()
    with pytest.raises(StudyError, match=r"holds trial-7.npz, which does not belong to another: choose another folder"):
        export_study(sqlite, "another", store, tmp_path / "out")
    assert [path.name for path in table.parent.iterdir()] == ["trial-7.npz"]
    (table.parent / "trial-7.npz").unlink()
    assert export_study(sqlite, "regime-1", store, tmp_path / "out") == (table, 2)
    assert table.read_bytes() == before


def test_an_export_leaves_no_scores_of_trials_that_the_study_no_longer_has(database, home, store, study, tmp_path):
    table, _ = export_study(database, "regime-1", store, tmp_path / "out")
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, "9" + lines[1][1:]]) + "\n")
    (table.parent / "trial-9.npz").touch()
    export_study(database, "regime-1", store, tmp_path / "out")
    assert sorted(path.name for path in table.parent.iterdir()) == ["trial-0.npz", "trials.csv"]


def test_an_interrupted_export_is_called_again(database, home, store, study, tmp_path):
    table, _ = export_study(database, "regime-1", store, tmp_path / "out")
    table.unlink()
    assert export_study(database, "regime-1", store, tmp_path / "out")[1] == 2


def test_a_study_is_exported_from_s3(sqlite, home, s3, tmp_path):
    place = {"RUST_OPTUNA_ARTIFACTS": f"s3://{BUCKET}/scores"}
    study = create_study(
        sqlite, configuration(random_document(2)), home, artifacts=place["RUST_OPTUNA_ARTIFACTS"]
    ).study
    with_scores(sqlite, study, open_store(place["RUST_OPTUNA_ARTIFACTS"], home), tmp_path)
    url = sqlite.url.render_as_string(hide_password=False)
    ended = run_command(home, url, "study", "export", study.name, tmp_path / "out", **place)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["trial-0.npz", "trials.csv"]
    with np.load(tmp_path / "out" / "trial-0.npz", allow_pickle=False) as scores:
        assert scores["scores"].tolist() == [[1, 0], [0, 1]]
    assert not (home.root / "storage" / "artifacts").exists()
    # Deletion removes them, and leaves the token for the next study.
    assert run_command(home, url, "study", "delete", study.name, "--yes", "--force", **place).returncode == 0
    assert keys() == ["scores/rust_optuna_token"]


def test_an_artifact_that_is_not_there_is_named(database, home, store, study, tmp_path):
    remove(store, [study[1]])
    remove(store, [study[1]])
    with pytest.raises(DataError, match=study[1]):
        export_study(database, "regime-1", store, tmp_path / "out")


def test_a_study_without_a_complete_trial_is_not_exported(sqlite, home, store, tmp_path):
    make_study(sqlite, home)
    with pytest.raises(StudyError, match="no complete trial"):
        export_study(sqlite, "regime-1", store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
