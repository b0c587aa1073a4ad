"""The lift is over the view-only baseline with its ties broken at random, recomputed here from a trial's own scores."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rust_optuna.data.metrics import lift
from rust_optuna.learn.cross_validation import cross_validate, load_out_of_fold, save_out_of_fold
from tests.learn.material import hashes, make_development

pytestmark = pytest.mark.tensorflow

DRAWS = 80


def precision(labels, scores):
    """Return average precision, macro over the subscores that some film has."""
    some = [column for column in range(2, 18) if labels[:, column].any()]
    return np.mean([average_precision_score(labels[:, column], scores[:, column]) for column in some])


def test_the_lift_is_over_the_baseline_whose_ties_are_broken_at_random(random_source, trial, tmp_path):
    development = make_development(hashes(120))
    settings = replace(trial, epochs=1, batch_size=16)
    found = cross_validate(development, random_source(120), settings, seed=1, point=0, on_epoch=lambda *_: None)
    report = found.report
    save_out_of_fold(tmp_path / "scores.npz", found)
    kept = load_out_of_fold(tmp_path / "scores.npz")
    ours, tied, broken, generator = [], [], [], np.random.default_rng(0)
    for fold in range(3):
        here, view = kept.fold == fold, kept.labels[:, 0]
        labels, trained = kept.labels[here], kept.labels[~here]
        frequencies = np.array([trained[view[~here] == one].mean(axis=0) for one in view[here]])
        ours.append(precision(labels, kept.scores[here]))
        tied.append(precision(labels, frequencies))
        noise = 1e-9 * generator.random((DRAWS, *frequencies.shape))
        broken.append([precision(labels, frequencies + one) for one in noise])
    broken = np.array(broken)
    expected, spread = broken.mean(axis=1), broken.std(axis=1) / np.sqrt(DRAWS)
    untied = report.untied_baseline.average_precision_16.folds
    assert report.scores.average_precision_16.folds == pytest.approx(ours, abs=1e-12)
    assert report.baseline.average_precision_16.folds == pytest.approx(tied, abs=1e-12)
    assert (np.abs(untied - expected) < 5 * spread).all()
    # By far more than chance leaves open, the tied baseline is another one.
    assert (expected - tied > 6 * spread).all()

    by_hand = np.subtract(ours, untied)
    reported = lift(report.scores.average_precision_16.folds, untied)
    assert reported == pytest.approx((by_hand.mean(), by_hand.std(ddof=1) / np.sqrt(3)), abs=1e-12)
