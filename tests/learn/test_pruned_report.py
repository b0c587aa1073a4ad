import json

import pytest

from rust_optuna.learn.pruned_report import PrunedReport, curve_of


@pytest.mark.parametrize("curve", [(0.5,), (0.25, 0.5, 0.125)])
def test_a_report_is_the_same_after_json_and_its_curve_is_found_in_what_is_stored(curve):
    stored = json.dumps(PrunedReport(curve).to_json())
    assert PrunedReport.from_json(json.loads(stored)) == PrunedReport(curve)
    assert curve_of(stored) == curve


def test_a_complete_trial_s_curve_is_found_too_and_a_stand_in_has_none():
    assert curve_of(json.dumps({"value": 0.5, "curve": [0.25, 0.5]})) == (0.25, 0.5)
    assert curve_of(None) == ()
