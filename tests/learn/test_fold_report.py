import json
from dataclasses import replace

import pytest

from rust_optuna.learn.fold_report import FoldReport

REPORT = FoldReport(
    epoch=3,
    value=0.5,
    curve=(0.25, 0.75, 0.5),
    seed=12,
    head_sha256="a" * 64,
    features_sha256="b" * 64,
    arithmetic="AVX2",
    device="cpu",
    host="here",
    versions={"numpy": "2.4"},
    seconds=1.5,
    weights="random",
    artifact="c" * 32,
    micro_batch=None,
)
DOCUMENT = {
    "epoch": 3,
    "value": 0.5,
    "curve": [0.25, 0.75, 0.5],
    "seed": 12,
    "head_sha256": "a" * 64,
    "features_sha256": "b" * 64,
    "arithmetic": "AVX2",
    "device": "cpu",
    "host": "here",
    "versions": {"numpy": "2.4"},
    "seconds": 1.5,
    "weights": "random",
    "artifact": "c" * 32,
    "micro_batch": None,
}


def test_a_fold_is_kept_as_this_document():
    assert json.loads(json.dumps(REPORT.to_json())) == DOCUMENT
    assert FoldReport.from_json(DOCUMENT) == REPORT


@pytest.mark.parametrize("curve_16", [(0.125, 0.5, 0.25), None])
def test_a_fold_of_a_comparison_is_kept_with_both_curves_and_no_head(curve_16):
    report = replace(REPORT, head_sha256=None, curve_16=curve_16, diverged=True)
    document = json.loads(json.dumps(report.to_json()))
    assert document == {**DOCUMENT, "head_sha256": None, "curve_16": curve_16 and [*curve_16], "diverged": True}
    assert FoldReport.from_json(document) == report
