import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rust_optuna.data import metrics
from rust_optuna.data.manifest import CORTICES, LABELS
from rust_optuna.model.bootstrap import Inflated, estimates, patient_weights
from rust_optuna.model.label_numbers import LabelThresholds, label_numbers, subgroups, words
from rust_optuna.model.scored import Estimate, plain
from tests.model.films import draw_films, repeat_films


def fit_thresholds(films):
    return {name: LabelThresholds.fit(films.with_scores(scores)) for name, scores in films.by_scorer.items()}


def share(part, whole):
    return part / whole if whole else np.nan


def slow_scorer(films, scores, thresholds):
    """Return the numbers of one set of scores, counted label by label."""
    labels, scores = films.labels.astype(int), scores.astype(np.float64)
    found = {
        "average_precision": metrics.average_precision(labels, scores),
        "roc_auc": metrics.roc_auc(labels, scores),
        "brier": ((scores - labels) ** 2).mean(axis=0),
    }
    micro = {"roc_auc": metrics.roc_auc(labels.reshape(-1, 1), scores.reshape(-1, 1))[0]}
    for name, predicted in {"": scores >= 0.5, "_at_threshold": scores >= np.array(thresholds.values)}.items():
        hits, claimed, positives = ((labels & predicted).sum(axis=0), predicted.sum(axis=0), labels.sum(axis=0))
        found[f"precision{name}"] = np.array([share(*each) for each in zip(hits, claimed, strict=True)])
        found[f"recall{name}"] = np.array([share(*each) for each in zip(hits, positives, strict=True)])
        micro[f"precision{name}"] = share(hits.sum(), claimed.sum())
        micro[f"recall{name}"] = share(hits.sum(), positives.sum())
    return found, micro


def slow_group(films, which, columns):
    labels, model, baseline = (array[which][:, columns] for array in (films.labels, films.scores, films.view_only))
    ours = metrics.macro_average_precision(labels, model)
    untied = metrics.macro(metrics.expected_average_precision(labels, baseline))
    tied = metrics.macro_average_precision(labels, baseline)
    return {
        "model": {"average_precision": ours},
        "view_only": {"average_precision": tied},
        "view_only_untied": {"average_precision": untied},
        "lift": ours - untied,
    }


def slow_numbers(films, thresholds):
    """Return the numbers of `label_numbers` for films as they are, without intervals."""
    of = {name: slow_scorer(films, scores, thresholds[name]) for name, scores in films.by_scorer.items()}
    whole = slow_group(films, np.ones(len(films), dtype=bool), slice(2, 18))
    return {
        "by_label": {
            label: {
                "prevalence": films.labels[:, c].mean(),
                **{name: {key: values[c] for key, values in each.items()} for name, (each, _) in of.items()},
            }
            for c, label in enumerate(LABELS)
        },
        "macro_18": {name: {key: metrics.macro(v) for key, v in each.items()} for name, (each, _) in of.items()},
        "macro_16": {
            **{name: {key: metrics.macro(v[2:]) for key, v in each.items()} for name, (each, _) in of.items()},
            "view_only_untied": whole["view_only_untied"],
            "lift": whole["lift"],
        },
        "micro": {name: micro for name, (_, micro) in of.items()},
        "cortices": {
            cortex: slow_group(films, films.shown[:, position], slice(2 + 4 * position, 6 + 4 * position))
            for position, cortex in enumerate(CORTICES)
        },
    }


def flat(document, prefix=()):
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flat(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def estimates_of(document):
    return {name: value for name, value in flat(document) if isinstance(value, Estimate)}


def is_shifted(name):
    return name[0] != "by_label" and ("average_precision" in name or "lift" in name)


@pytest.mark.parametrize(("seed", "levels"), [(1, None), (2, 8)])
def test_numbers_and_intervals_are_those_of_films_that_are_really_repeated(seed, levels):
    films = draw_films(seed, 14, levels=levels)
    thresholds = fit_thresholds(draw_films(seed + 50, 30, levels=levels))
    weights = patient_weights(films.patients, 25, seed=seed)
    found = estimates_of(label_numbers(films, thresholds, weights))
    values = dict(flat(slow_numbers(films, thresholds)))
    resamples = [dict(flat(slow_numbers(repeat_films(films, row.astype(int)), thresholds))) for row in weights]
    assert set(found) == set(values)
    for name, estimate in found.items():
        expected = np.array([each[name] for each in resamples])
        defined = expected[~np.isnan(expected)]
        assert estimate.resamples == len(defined), name
        if np.isnan(values[name]):
            assert estimate.value is None
            continue
        assert estimate.value == pytest.approx(values[name], abs=1e-9), name
        if is_shifted(name):
            defined = np.clip(defined - defined.mean() + values[name], -1 if name[-1] == "lift" else 0, 1)
        bounds = tuple(np.percentile(defined, (2.5, 97.5)))
        assert (estimate.low, estimate.high) == pytest.approx(bounds, abs=1e-9), name


def test_without_thresholds_only_the_numbers_at_thresholds_are_missing():
    films = draw_films(5, 12)
    weights = patient_weights(films.patients, 20)
    whole = dict(flat_names(plain(label_numbers(films, fit_thresholds(films), weights))))
    without = dict(flat_names(plain(label_numbers(films, None, weights))))
    assert without == {name: value for name, value in whole.items() if not any("at_threshold" in n for n in name)}
    assert len(without) < len(whole)


def flat_names(document, prefix=()):
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flat_names(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def test_the_document_counts_films_and_is_json_without_nan():
    films = draw_films(3, 12)
    document = plain(label_numbers(films, fit_thresholds(films), patient_weights(films.patients, 20)))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert [document["by_label"][label]["positives"] for label in LABELS] == films.labels.sum(axis=0).tolist()
    for position, cortex in enumerate(CORTICES):
        shown = films.shown[:, position]
        assert document["cortices"][cortex]["films"] == shown.sum()
        assert document["cortices"][cortex]["patients"] == len(set(np.array(films.patients)[shown]))


def test_a_label_that_no_film_has_defines_no_number_and_leaves_the_macro_average_alone():
    films = draw_films(4, 12)
    labels = films.labels.copy()
    labels[:, LABELS.index("medial_2")] = 0
    films = dataclasses.replace(films, labels=labels)
    document = plain(label_numbers(films, fit_thresholds(films), patient_weights(films.patients, 20)))
    of_label = document["by_label"]["medial_2"]["model"]
    assert of_label["average_precision"] == of_label["roc_auc"] == Estimate(None, None, None, 0).to_json()
    each = metrics.average_precision(films.labels, films.scores)[2:]
    assert document["macro_16"]["model"]["average_precision"]["value"] == pytest.approx(np.nanmean(each))
    assert "No film has medial_2: macro averages leave such labels out." in words(document)


@given(st.integers(0, 2**32), st.sampled_from([2, 5, 1000]))
@settings(max_examples=25, deadline=None)
def test_a_threshold_is_the_highest_of_those_of_highest_f1(seed, levels):
    films = draw_films(seed, 5, skill=1.0, levels=levels)
    fitted = LabelThresholds.fit(films)
    for column, threshold in enumerate(fitted.values):
        labels, scores = films.labels[:, column].astype(int), films.scores[:, column]
        if not labels.any():
            assert threshold == 0.5
            continue
        candidates = np.unique(scores)
        claims = [scores >= candidate for candidate in candidates]
        each = [Fraction(2 * int((claim & labels).sum()), int(claim.sum() + labels.sum())) for claim in claims]
        assert threshold == max(candidates[number] for number, f1 in enumerate(each) if f1 == max(each))


def test_thresholds_survive_json_to_the_bit():
    fitted = LabelThresholds.fit(draw_films(5, 12))
    assert LabelThresholds.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    assert list(fitted.to_json()) == list(LABELS)


def test_subgroups_are_judged_as_if_they_were_all_films():
    films = draw_films(6, 16, sources=True)
    weights = patient_weights(films.patients, 30)
    found = subgroups(films, weights)
    visits = [films.visits.count(visit) for visit in films.visits]
    expected = {
        "view": {name: films.views == number for number, name in enumerate(("anteroposterior", "lateral"))},
        "films_of_visit": {str(count): np.array(visits) == count for count in set(visits)},
        "source": {name: np.array(films.sources) == name for name in "AB"},
    }
    assert {kind: set(each) for kind, each in found.items()} == {kind: set(each) for kind, each in expected.items()}
    for kind, masks in expected.items():
        for name, mask in masks.items():
            alone = films.take(np.flatnonzero(mask))
            whole = label_numbers(alone, fit_thresholds(alone), weights[:, mask])["macro_16"]
            precisions = ("model", "view_only", "view_only_untied")
            assert found[kind][name] == {
                "films": mask.sum(),
                "patients": len(set(alone.patients)),
                **{scorer: {"average_precision": whole[scorer]["average_precision"]} for scorer in precisions},
                "lift": whole["lift"],
            }


def test_without_sources_there_is_no_such_subgroup():
    films = draw_films(6, 8)
    assert set(subgroups(films, patient_weights(films.patients, 5))) == {"view", "films_of_visit"}


def judged(films, resamples=60):
    return plain(label_numbers(films, fit_thresholds(films), patient_weights(films.patients, resamples)))


def test_a_model_with_skill_needs_no_words():
    assert words(judged(draw_films(7, 60))) == []


def test_scores_that_were_shuffled_are_said_to_be_no_better_than_the_baseline():
    films = draw_films(8, 40)
    shuffled = np.random.default_rng(0).permutation(films.scores, axis=0)
    (sentence,) = words(judged(films.with_scores(shuffled)))
    assert sentence.startswith("The model is worse than a baseline that sees only the view: over the 16 subscores")
    assert sentence.endswith("lies below 0.")


def knows_the_view(films, seed):
    """Return the films as a model scores them that sees the view and ranks at random otherwise."""
    noise = np.random.default_rng(seed).random(films.view_only.shape)
    return films.with_scores((films.view_only + 1e-3 * noise) / 1.001)


def test_a_model_that_knows_only_the_view_is_hardly_ever_called_better():
    """Percentiles as they are, not shifted, would call a quarter of such models better."""
    every = [words(judged(knows_the_view(draw_films(seed, 30), seed))) for seed in range(20)]
    said = [any("baseline that sees only the view: over the 16" in sentence for sentence in each) for each in every]
    assert sum(said) >= 18
    assert "The model is not better than a baseline" in every[0][0]
    assert every[0][0].endswith("reaches 0.")


def test_a_cortex_in_which_the_model_is_not_better_is_named():
    films = draw_films(9, 60)
    scores = films.scores.copy()
    columns = slice(2 + 4 * CORTICES.index("lateral"), 6 + 4 * CORTICES.index("lateral"))
    scores[:, columns] = knows_the_view(films, 0).scores[:, columns]
    (sentence,) = words(judged(films.with_scores(scores)))
    assert sentence.endswith("but not in every cortex: not shown for lateral.")


def test_films_without_subscores_are_said_to_show_nothing():
    films = draw_films(10, 6)
    labels = films.labels.copy()
    labels[:, 2:] = 0
    said = words(judged(dataclasses.replace(films, labels=labels), 10))
    assert said[0] == "No film has a readable subscore, so nothing can be said of the model's average precision."


def test_an_interval_that_is_shifted_ends_at_the_limits():
    weights = np.array([[1.0], [2.0], [3.0]])
    found = estimates(lambda rows: {"": Inflated(1 - (rows[:, 0] - 1) / 2)}, weights)[""]
    assert (found.value, found.high, found.resamples) == (1.0, 1.0, 3)
    assert found.low == pytest.approx(0.525)
