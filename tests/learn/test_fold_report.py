import json

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
