import json

import pytest

from rust_optuna.data.metrics import summarise, summarise_untied
from rust_optuna.data.scores import AveragePrecisions, Score, Scores
from tests.data.test_metrics import PUBLISHED, random_fold


def test_folds_are_averaged_over_those_where_a_number_is_defined():
    labels, scores = random_fold(2)
    lateral_only = labels[:, 1] == 1
    folds = [summarise(labels, scores, PUBLISHED)]
    folds.append(summarise(labels[lateral_only], scores[lateral_only], PUBLISHED))
    found = Scores.over_folds(folds)
    value = folds[0]["per_cortex"]["anterior"]
    assert found.per_cortex["anterior"] == Score(value, (value, None))
    assert found.recall.mean == pytest.approx((folds[0]["recall"] + folds[1]["recall"]) / 2)


def test_a_number_that_no_fold_defines_has_no_mean():
    labels, scores = random_fold(2)
    lateral_only = labels[:, 1] == 1
    found = Scores.over_folds([summarise(labels[lateral_only], scores[lateral_only], PUBLISHED)])
    assert found.per_cortex["anterior"] == Score(None, (None,))


def test_the_mean_over_one_fold_is_that_fold():
    fold = summarise(*random_fold(5), PUBLISHED)
    document = Scores.over_folds([fold]).to_json()
    lists = document.pop("folds")
    assert document == fold
    assert lists == {
        **{name: [value] for name, value in fold.items() if name != "per_cortex"},
        "per_cortex": {cortex: [value] for cortex, value in fold["per_cortex"].items()},
    }


def test_a_baselines_folds_with_ties_broken_at_random_are_averaged_too():
    fold = summarise_untied(*random_fold(4))
    document = AveragePrecisions.over_folds([fold, fold]).to_json()
    assert document == {**fold, "folds": {name: [value] * 2 for name, value in fold.items()}}


def test_scores_are_the_same_after_json():
    found = Scores.over_folds([summarise(*random_fold(seed), PUBLISHED) for seed in (1, 2)])
    assert Scores.from_json(json.loads(json.dumps(found.to_json()))) == found
