import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.manifest import LABELS
from rust_optuna.learn.cross_validation import (
    cross_validate,
    fold_seed,
    load_fold_curve,
    load_out_of_fold,
    save_fold_curve,
    save_out_of_fold,
    validate_fold,
)
from rust_optuna.learn.training import FoldTrainer
from rust_optuna.learn.trial_report import BatchSizes
from tests.learn.material import SHOWN, hashes, make_development, make_labels

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def validate(development, random_source, trial):
    def run(seed=1, point=0, on_epoch=lambda epoch, value: None, source=None, development=development, **changes):
        source = source or random_source(len(development.content))
        return cross_validate(development, source, replace(trial, **changes), seed=seed, point=point, on_epoch=on_epoch)

    return run


def test_the_value_is_the_highest_point_of_the_mean_over_folds_curve(validate):
    reported = []
    began = time.monotonic()
    result = validate(on_epoch=lambda *given: reported.append(given), epochs=6, learning_rate=1e-2)
    assert 0 < result.report.seconds <= time.monotonic() - began + 0.001
    assert reported == list(enumerate(result.report.curve, start=1))
    assert len(result.report.curve) == 6
    assert result.report.value == max(result.report.curve)
    assert result.report.curve.index(result.report.value) == result.report.epoch - 1
    assert np.mean(result.report.fold_values) == pytest.approx(result.report.value, abs=1e-15)


def test_what_is_raised_after_an_epoch_ends_the_trial_and_passes_through(validate):
    class PrunedError(Exception):
        pass

    seen = []

    def prune(epoch, value):
        seen.append(epoch)
        if epoch == 2:
            raise PrunedError

    with pytest.raises(PrunedError):
        validate(on_epoch=prune)
    assert seen == [1, 2]


def test_every_number_can_be_recomputed_from_the_artifact_with_scikit_learn(validate, tmp_path):
    # Enough films that every fold has every label, as scikit-learn's averages need.
    result = validate(development=make_development(hashes(240)), learning_rate=1e-2)
    assert result.report.labels_left_out == ((), (), ())
    save_out_of_fold(tmp_path / "out-of-fold.npz", result)
    report = json.loads(json.dumps(result.report.to_json()))

    kept = np.load(tmp_path / "out-of-fold.npz", allow_pickle=False)
    fold, labels, scores = kept["fold"], kept["labels"], kept["scores"]
    folds = [(labels[fold == k], scores[fold == k]) for k in range(3)]
    baseline = []
    for k in range(3):
        trained, views = labels[fold != k], labels[fold == k, :2].argmax(axis=1)
        frequencies = np.array([trained[trained[:, view] == 1].mean(axis=0) for view in (0, 1)])
        baseline.append((labels[fold == k], frequencies[views]))

    def cortex_value(y, s, name):
        shown = y[:, [name in SHOWN["anteroposterior"], name in SHOWN["lateral"]].index(True)] == 1
        columns = [LABELS.index(f"{name}_{score}") for score in (1, 2, 3, 4)]
        return average_precision_score(y[shown][:, columns], s[shown][:, columns])

    numbers = {
        "average_precision": average_precision_score,
        "average_precision_16": lambda y, s: average_precision_score(y[:, 2:], s[:, 2:]),
        "roc_auc_macro": roc_auc_score,
        "roc_auc_micro": lambda y, s: roc_auc_score(y, s, average="micro"),
        "precision": lambda y, s: precision_score(y, s >= 0.5, average="micro", zero_division=0),
        "recall": lambda y, s: recall_score(y, s >= 0.5, average="micro"),
    }
    for reported, films in ((report, folds), (report["baseline_view_only"], baseline)):
        for name, number in numbers.items():
            values = [number(y, s) for y, s in films]
            assert reported["folds"][name] == pytest.approx(values, abs=1e-12)
            assert reported[name] == pytest.approx(np.mean(values), abs=1e-12)
        for name, mean in reported["per_cortex"].items():
            values = [cortex_value(y, s, name) for y, s in films]
            assert reported["folds"]["per_cortex"][name] == pytest.approx(values, abs=1e-12)
            assert mean == pytest.approx(np.mean(values), abs=1e-12)
    assert report["value"] == pytest.approx(report["average_precision"], abs=1e-15)
    assert report["fold_values"] == report["folds"]["average_precision"]


def test_the_report_is_small_json_and_complete(validate):
    report = validate().report.to_json()
    assert len(json.dumps(report, allow_nan=False)) < 20_000
    assert {
        "epoch", "value", "curve", "fold_values", "average_precision_16", "per_cortex", "roc_auc_macro",
        "roc_auc_micro", "precision", "recall", "baseline_view_only", "labels_left_out", "batch_size", "diverged",
        "seconds", "seeds", "features_sha256", "device", "host", "versions",
    } <= report.keys()  # fmt: skip
    assert report["seeds"] == {"study": 1, "point": 0, "folds": [fold_seed(1, 0, fold) for fold in range(3)]}
    assert json.loads(json.dumps(report)) == report


def test_the_artifact_holds_each_film_once_with_its_own_folds_scores(validate, development, tmp_path):
    result = validate()
    save_out_of_fold(tmp_path / "out-of-fold.npz", result)
    kept = load_out_of_fold(tmp_path / "out-of-fold.npz")
    assert kept.film.tolist() == list(development.content)
    assert kept.film.dtype == "U64"
    np.testing.assert_array_equal(kept.fold, development.folds)
    np.testing.assert_array_equal(kept.labels, development.labels)
    assert (kept.labels.dtype, kept.scores.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(kept.scores, result.out_of_fold.scores)
    assert [path.name for path in tmp_path.iterdir()] == ["out-of-fold.npz"]


def test_scores_are_those_of_the_best_epoch(validate, development, random_source, trial):
    result = validate(epochs=6, learning_rate=1e-2)
    for fold in range(3):
        trainer = FoldTrainer(
            random_source(),
            development.labels,
            np.flatnonzero(development.folds != fold),
            replace(trial, learning_rate=1e-2),
            fold_seed(1, 0, fold),
        )
        for epoch in range(1, result.report.epoch + 1):
            trainer.train_epoch(epoch)
        here = np.flatnonzero(development.folds == fold)
        np.testing.assert_array_equal(trainer.predict(here), result.out_of_fold.scores[here])


def test_the_same_point_gives_the_same_bits_after_another_trial(validate):
    first = validate()
    other = validate(point=1, batch_size=16, dropout_rate=0.1, learning_rate=1e-2)
    again = validate()
    assert again.report.curve == first.report.curve
    np.testing.assert_array_equal(again.out_of_fold.scores, first.out_of_fold.scores)
    assert other.report.curve != first.report.curve
    assert validate(point=1).report.curve != first.report.curve
    assert validate(seed=2).report.curve != first.report.curve


def test_both_batch_sizes_are_stored(validate, development):
    training = tuple(int((development.folds != fold).sum()) for fold in range(3))
    assert validate(batch_size=7).report.batch_size == BatchSizes(7, (7, 7, 7))
    assert validate(batch_size=2048).report.batch_size == BatchSizes(2048, training)


@pytest.mark.parametrize("standardize", [False, True])
def test_a_learning_rate_that_explodes_completes_with_finite_scores(validate, random_source, standardize):
    result = validate(learning_rate=1e30, epsilon=1e-8, epochs=4, source=random_source(), standardize=standardize)
    assert result.report.diverged
    assert len(result.report.curve) == 4
    assert np.isfinite(result.out_of_fold.scores).all()
    assert np.isfinite(result.report.curve).all()
    json.dumps(result.report.to_json(), allow_nan=False)


def test_a_learning_rate_of_a_thousand_completes_with_finite_scores(validate):
    result = validate(learning_rate=1e3, epochs=4)
    assert np.isfinite(result.out_of_fold.scores).all()
    assert np.isfinite(result.report.curve).all()


def test_a_fold_that_diverges_keeps_its_last_finite_scores_and_trains_no_more(validate, monkeypatch, development):
    honest, trained = FoldTrainer.train_epoch, []

    def diverging(self, epoch):
        trained.append((self.seed, epoch))
        loss = honest(self, epoch)
        return math.nan if (self.seed, epoch) == (fold_seed(1, 0, 1), 2) else loss

    undisturbed = validate(epochs=1)
    monkeypatch.setattr(FoldTrainer, "train_epoch", diverging)
    result = validate(epochs=3)
    assert result.report.diverged_folds == (1,)
    assert [epoch for seed, epoch in trained if seed == fold_seed(1, 0, 1)] == [1, 2]
    here = development.folds == 1
    np.testing.assert_array_equal(result.out_of_fold.scores[here], undisturbed.out_of_fold.scores[here])


def test_a_fold_whose_weights_alone_are_not_finite_has_diverged(validate, monkeypatch):
    """Units that stand still hide them from the loss and the scores."""
    honest = FoldTrainer.predict

    def breaking(self, films):
        scores = honest(self, films)
        if self.seed == fold_seed(1, 0, 1):
            self._state.weights[0].assign(self._state.weights[0] * math.nan)
        return scores

    undisturbed = validate(epochs=1)
    monkeypatch.setattr(FoldTrainer, "predict", breaking)
    result = validate(epochs=1)
    assert (undisturbed.report.diverged_folds, result.report.diverged_folds) == ((), (1,))
    np.testing.assert_array_equal(result.out_of_fold.scores, undisturbed.out_of_fold.scores)


def test_without_any_finite_scores_a_fold_scores_the_prevalence(validate, monkeypatch, development):
    monkeypatch.setattr(FoldTrainer, "train_epoch", lambda self, epoch: math.inf)
    result = validate()
    assert (result.out_of_fold.scores == 0.5).all()
    assert result.report.diverged_folds == (0, 1, 2)
    assert result.report.epoch == 1
    for fold, value in enumerate(result.report.fold_values):
        labels = development.labels[development.folds == fold]
        prevalence = labels.mean(axis=0)
        assert value == pytest.approx(prevalence[prevalence > 0].mean())


@pytest.mark.parametrize("diverging", [False, True])
def test_a_fold_by_itself_has_the_bits_that_it_has_among_all_folds(
    validate, development, random_source, trial, monkeypatch, tmp_path, diverging
):
    if diverging:
        honest = FoldTrainer.train_epoch

        def diverges(self, epoch):
            loss = honest(self, epoch)
            return math.nan if (self.seed, epoch) == (fold_seed(1, 0, 1), 3) else loss

        monkeypatch.setattr(FoldTrainer, "train_epoch", diverges)
    whole = validate(epochs=4)
    source = random_source(len(development.content))
    reported, folds = [], []
    for fold in range(3):
        seed = fold_seed(1, 0, fold)
        done = validate_fold(
            development,
            source,
            replace(trial, epochs=4),
            fold=fold,
            seed=seed,
            on_epoch=lambda *given: reported.append(given),
        )
        save_fold_curve(tmp_path / "fold.npz", done)
        folds.append(load_fold_curve(tmp_path / "fold.npz"))
    assert reported == [each for fold in folds for each in enumerate(fold.curve, start=1)]
    assert [float(np.mean(values)) for values in zip(*(fold.curve for fold in folds), strict=True)] == list(
        whole.report.curve
    )
    assert [number for number, fold in enumerate(folds) if fold.diverged] == list(whole.report.diverged_folds)
    assert bool(whole.report.diverged_folds) == diverging
    for number, fold in enumerate(folds):
        here = development.folds == number
        assert fold.films.tolist() == [film for film, inside in zip(development.content, here, strict=True) if inside]
        np.testing.assert_array_equal(fold.labels, development.labels[here])
        np.testing.assert_array_equal(fold.scores[whole.report.epoch - 1], whole.out_of_fold.scores[here])
        for epoch, scores in enumerate(fold.scores):
            some = [column for column in range(2, 18) if fold.labels[:, column].any()]
            slow = [average_precision_score(fold.labels[:, column], scores[:, column]) for column in some]
            assert fold.curve_16[epoch] == pytest.approx(np.mean(slow), abs=1e-12)
        assert fold.value == fold.curve[-1]


def test_a_fold_without_a_subscore_has_no_curve_over_subscores(development, random_source, trial, tmp_path):
    labels = development.labels.copy()
    labels[development.folds == 0, 2:] = 0
    unreadable = replace(development, labels=labels)
    done = validate_fold(unreadable, random_source(len(labels)), trial, fold=0, seed=1)
    save_fold_curve(tmp_path / "fold.npz", done)
    assert load_fold_curve(tmp_path / "fold.npz").curve_16 is None
    assert all(0 < value <= 1 for value in done.curve)


def test_a_label_that_a_fold_lacks_is_left_out_there_and_named(validate, development):
    labels = development.labels.copy()
    labels[development.folds == 2, LABELS.index("posterior_4")] = 0
    thinned = DevelopmentSet(development.content, development.patients, development.views, labels, development.folds)
    left_out = validate(development=thinned).report.labels_left_out
    assert "posterior_4" in left_out[2]
    assert "posterior_4" not in left_out[0]


def test_features_of_other_films_are_refused(validate, random_source):
    with pytest.raises(ValueError, match="features of 40 films, the development set has 41 films"):
        validate(source=random_source(40))


def test_seeds_differ_between_studies_points_and_folds_and_fit_into_json():
    seeds = {fold_seed(study, point, fold) for study in range(5) for point in range(20) for fold in range(6)}
    assert len(seeds) == 600
    assert max(seeds) < 2**53
    assert fold_seed(1337, 0, 0) == fold_seed(1337, 0, 0)


def test_it_learns_what_features_tell_and_beats_the_baseline(validate):
    from rust_optuna.learn.features import Features
    from rust_optuna.learn.sources import CachedFeatures

    development = make_development(hashes(150))
    labels = make_labels(150)
    table = np.repeat(labels[:, None].astype(np.float32), 4, axis=1)
    table += 0.1 * np.random.default_rng(0).standard_normal(table.shape).astype(np.float32)
    source = CachedFeatures(Features(table, "of no file"))
    result = validate(development=development, source=source, epochs=20, learning_rate=1e-2, hidden_units=(32,))
    assert result.report.scores.average_precision_16.mean > 0.9
    assert result.report.baseline.average_precision_16.mean < 0.4
