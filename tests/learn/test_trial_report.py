import json

import pytest

from rust_optuna.data.manifest import CORTICES
from rust_optuna.data.scores import Score
from rust_optuna.learn.trial_report import Threads, TrialReport
from tests.reports import report, scores

NUMBERS = ["average_precision", "average_precision_16", "roc_auc_macro", "roc_auc_micro", "precision", "recall"]
SCORES = [*NUMBERS, "per_cortex", "folds"]
FULL = report(
    epoch=1,
    diverged_folds=(0, 2),
    scores=scores(average_precision_16=Score(0.5, (0.4, None, 0.6)), recall=Score(None, (None, None, None))),
    micro_batch=8,
    arithmetic="AVX2 1",
    threads=Threads(1, 3),
    weights="random-he-normal-1:0",
    artifact="an-artifact",
)
ADDED = ("baseline_view_only_untied", "micro_batch", "arithmetic", "threads", "weights", "artifact")
"""Keys that the first results lack."""


@pytest.mark.parametrize("reported", [FULL, report()])
def test_a_report_is_the_same_after_json(reported):
    document = reported.to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert TrialReport.from_json(json.loads(json.dumps(document))) == reported


def test_the_document_has_the_keys_that_databases_hold():
    document = FULL.to_json()
    assert list(document) == [
        *("epoch", "value", "curve", "fold_values", "diverged", "diverged_folds"),
        *SCORES,
        *("baseline_view_only", "baseline_view_only_untied", "labels_left_out", "batch_size", "micro_batch", "seeds"),
        *("features_sha256", "arithmetic", "threads", "device", "host", "versions", "seconds", "weights", "artifact"),
    ]
    untied = NUMBERS[:2]
    assert list(document["baseline_view_only"]) == SCORES
    assert list(document["baseline_view_only_untied"]) == [*untied, "folds"]
    assert list(document["baseline_view_only_untied"]["folds"]) == untied
    for table in (document, document["baseline_view_only"]):
        assert list(table["folds"]) == [*NUMBERS, "per_cortex"]
        assert list(table["per_cortex"]) == list(table["folds"]["per_cortex"]) == list(CORTICES)
    assert document["diverged"] is True
    assert (document["average_precision_16"], document["folds"]["average_precision_16"]) == (0.5, [0.4, None, 0.6])
    assert (document["recall"], document["folds"]["recall"]) == (None, [None] * 3)
    assert document["batch_size"] == {"asked": 32, "trained": [32, 32, 30]}
    assert document["seeds"] == {"study": 5, "point": 1, "folds": [11, 12, 13]}
    assert document["threads"] == {"operation": 1, "folds": 3}


def test_what_an_earlier_version_did_not_write_is_none():
    document = FULL.to_json()
    earlier = TrialReport.from_json({name: value for name, value in document.items() if name not in ADDED})
    assert earlier.to_json() == {**document, **dict.fromkeys(ADDED)}
    assert (earlier.arithmetic, earlier.threads, earlier.untied_baseline, earlier.micro_batch) == (None,) * 4
