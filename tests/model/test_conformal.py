import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rust_optuna.data.manifest import CORTICES
from rust_optuna.data.metrics import macro
from rust_optuna.model.bootstrap import patient_weights
from rust_optuna.model.conformal import (
    CLASS_NAMES,
    CortexConformal,
    conformal_numbers,
    conformal_quantile,
    patient_shares,
)
from rust_optuna.model.cortex_numbers import subscore_distribution
from rust_optuna.model.scale import Scale
from rust_optuna.model.scored import Estimate, plain
from tests.model.films import draw_films
from tests.model.slow import assert_bootstrapped


def fit(films):
    return {name: CortexConformal.fit(films.with_scores(scores)) for name, scores in films.by_scorer.items()}


def without_subscore_4(films):
    labels = films.labels.copy()
    labels[:, [5, 9, 13, 17]] = 0
    return type(films)(**{**vars(films), "labels": labels})


def test_the_scale_is_read_off_the_labels():
    films = draw_films(0, 20)
    assert Scale.of(films) is Scale.MODIFIED_RUST
    assert (Scale.MODIFIED_RUST.totals, Scale.MODIFIED_RUST.united) == ((4, 16), 13)
    assert Scale.of(without_subscore_4(films)) is Scale.RUST
    assert (Scale.RUST.totals, Scale.RUST.united) == ((4, 12), 10)


def test_a_patient_counts_once_however_many_values_it_has():
    assert patient_shares(("ann", "bob", "ann", "ann")).tolist() == [1 / 3, 1, 1 / 3, 1 / 3]
    assert patient_shares(()).tolist() == []
    # Ten patients: the first nine at 1, the tenth with a hundred values between 2 and 3.
    values = np.concatenate([np.ones(9), np.linspace(2, 3, 100)])
    shares = patient_shares([*"abcdefghi", *"j" * 100])
    # The tenth has 1/11, as the new patient has, so 90% is reached at the 90 hundredths of its values.
    assert conformal_quantile(values, shares) == values[9 + 89]


@given(st.integers(1, 40), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_quantile_of_patients_with_a_value_each_is_that_of_split_conformal_prediction(patients, coverage):
    values = np.random.default_rng(patients).permutation(patients).astype(float)
    rank = math.ceil(round(coverage * (patients + 1), 9))
    expected = rank - 1.0 if rank <= patients else math.inf
    assert conformal_quantile(values, np.ones(patients), coverage) == expected


def test_nine_patients_are_enough_and_eight_are_not():
    assert conformal_quantile(np.arange(9.0), np.ones(9)) == 8
    assert conformal_quantile(np.arange(8.0), np.ones(8)) == math.inf
    assert conformal_quantile(np.zeros(0), np.zeros(0)) == math.inf


def test_quantiles_are_those_of_the_patients_films_of_a_class():
    films = draw_films(1, 60)
    fitted = CortexConformal.fit(films)
    distributions = subscore_distribution(films.scores)
    for cortex, kind in np.ndindex(4, 5):
        chosen = [i for i in range(len(films)) if films.shown[i, cortex] and films.classes[i, cortex] == kind]
        names = [films.patients[i] for i in chosen]
        values = sorted((1 - distributions[i, cortex, kind], 1 / names.count(films.patients[i])) for i in chosen)
        total, expected = 0.0, math.inf
        for value, share in values:
            total += share
            if total / (len(set(names)) + 1) >= 0.9 - 1e-9:
                expected = value
                break
        assert fitted.quantiles[cortex][kind] == expected
        assert fitted.patients[cortex][kind] == len(set(names))


def score(*sigmoids):
    """Return a film's scores of which those of the medial cortex are given."""
    scores = np.full((1, 18), 0.5)
    scores[0, 2:6] = sigmoids
    return scores


def medial(quantiles, scale=Scale.MODIFIED_RUST):
    return CortexConformal(scale, (quantiles, *[(math.inf,) * 5] * 3), ((20,) * 5,) * 4)


def set_of(conformal, scores):
    return [name for name, inside in zip(CLASS_NAMES, conformal.sets(scores)[0, 0], strict=True) if inside]


def test_a_set_holds_the_classes_within_their_quantiles_and_the_subscores_between():
    scores = score(0.4, 0.1, 0.4, 0.2)  # 0.29, 0.05, 0.29, 0.11 and 0.43 ... by odds
    p = subscore_distribution(scores)[0, 0]
    at = tuple((1 - p).tolist())
    assert set_of(medial(at), scores) == [*CLASS_NAMES]
    none = (0.0,) * 5
    assert set_of(medial((at[0], *none[1:])), scores) == ["1"]
    assert set_of(medial((at[0], 0, at[2], 0, 0)), scores) == ["1", "2", "3"]
    assert set_of(medial((at[0], 0, 0, 0, at[4])), scores) == ["1", "unreadable"]
    assert set_of(medial((0, at[1], 0, math.inf, 0)), scores) == ["2", "3", "4"]
    below = tuple(np.subtract(at, 1e-6).tolist())
    assert set_of(medial((*below[:4], at[4])), scores) == ["unreadable"]


def test_an_empty_set_becomes_the_most_probable_class():
    none = medial((0.0,) * 5)
    assert set_of(none, score(0.2, 0.6, 0.3, 0.1)) == ["2"]
    assert set_of(none, score(0.2, 0.3, 0.3, 0.1)) == ["unreadable"]


def test_subscore_4_is_in_no_set_on_rust():
    every = (math.inf,) * 5
    assert set_of(medial(every), score(0.2, 0.2, 0.2, 0.9)) == [*CLASS_NAMES]
    assert set_of(medial(every, Scale.RUST), score(0.2, 0.2, 0.2, 0.9)) == ["1", "2", "3", "unreadable"]
    assert set_of(medial((0.0,) * 5, Scale.RUST), score(0.2, 0.6, 0.2, 0.9)) == ["2"]
    films = without_subscore_4(draw_films(2, 30))
    assert not CortexConformal.fit(films).sets(films.scores)[:, :, 3].any()


def test_a_class_with_few_patients_is_in_every_set():
    films = draw_films(3, 8)
    fitted = CortexConformal.fit(films)
    assert np.isinf(fitted.quantiles).all()
    assert fitted.sets(films.scores).all()


@given(st.integers(0, 2**32), st.integers(2, 40))
@settings(max_examples=10, deadline=None)
def test_sets_survive_json_to_the_bit(seed, patients):
    fitted = CortexConformal.fit(draw_films(seed, patients))
    document = json.loads(json.dumps(fitted.to_json(), allow_nan=False))
    assert CortexConformal.from_json(document) == fitted


def test_sets_cover_each_class_of_new_patients_in_ninety_percent():
    coverage = []
    for seed in range(20):
        calibration, new = draw_films(seed, 100), draw_films(1000 + seed, 100)
        sets = CortexConformal.fit(calibration).sets(new.scores)
        held = np.take_along_axis(sets, new.classes[:, :, np.newaxis], axis=2)[:, :, 0]
        coverage.append([held[new.shown & (new.classes == kind)].mean() for kind in range(5)])
    means = np.mean(coverage, axis=0)
    assert ((means >= 0.88) & (means <= 0.96)).all(), means
    assert 0.88 <= means.mean() <= 0.94


def slow_numbers(conformals):
    def judge(films, sets, places):
        """Return coverage and size, each patient the mean of its own; drawn twice, it counts twice."""
        of_patient = {}
        for film, cortex in places:
            found = sets[film, cortex, films.classes[film, cortex]], sets[film, cortex].sum()
            of_patient.setdefault(films.patients[film], []).append(found)
        if not of_patient:
            return {"coverage": np.nan, "mean_size": np.nan}
        firsts = {name: films.content[films.patients.index(name)] for name in of_patient}
        times = [films.content.count(firsts[name]) for name in of_patient]
        means = np.average([np.mean(found, axis=0) for found in of_patient.values()], axis=0, weights=times)
        return dict(zip(("coverage", "mean_size"), means, strict=True))

    def numbers(films):
        found = {}
        every = [place for place in np.ndindex(len(films), 4) if films.shown[place]]
        groups = {("classes", name): (range(4), [kind]) for kind, name in enumerate(CLASS_NAMES)}
        for position, cortex in enumerate(CORTICES):
            groups["cortices", cortex] = ([position], range(5))
            for kind, name in enumerate(CLASS_NAMES):
                groups["cortices", cortex, "classes", name] = ([position], [kind])
        for scorer, scores in films.by_scorer.items():
            sets = conformals[scorer].sets(scores)
            for group, (cortices, kinds) in groups.items():
                places = [place for place in every if place[1] in cortices and films.classes[place] in kinds]
                found |= {(*group, scorer, what): value for what, value in judge(films, sets, places).items()}
            for what in ("coverage", "mean_size"):
                of_cortices = [found["cortices", cortex, scorer, what] for cortex in CORTICES]
                found["mean", scorer, what] = macro(np.array(of_cortices))
        return found

    return numbers


def test_numbers_and_intervals_are_those_of_films_that_are_really_repeated():
    conformals = fit(draw_films(10, 30))
    assert_bootstrapped(
        lambda films, weights: conformal_numbers(films, conformals, weights),
        slow_numbers(conformals),
        draw_films(4, 12),
        5,
    )


def test_films_and_patients_are_counted_and_the_document_is_json_without_nan():
    films, calibration = draw_films(5, 12), draw_films(11, 20)
    document = plain(conformal_numbers(films, fit(calibration), patient_weights(films.patients, 20)))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["aim"] == 0.9
    names = np.array(films.patients)
    for kind, name in enumerate(CLASS_NAMES):
        where = films.shown & (films.classes == kind)
        of_class = document["classes"][name]
        assert of_class["films"] == where.any(axis=1).sum()
        assert of_class["patients"] == len(set(names[where.any(axis=1)]))
        for position, cortex in enumerate(CORTICES):
            inside = document["cortices"][cortex]["classes"][name]
            assert inside["films"] == where[:, position].sum()
            assert inside["patients"] == len(set(names[where[:, position]]))
            assert inside["calibration_patients"] == CortexConformal.fit(calibration).patients[position][kind]


def test_a_class_that_no_film_has_has_no_coverage():
    films = without_subscore_4(draw_films(6, 12))
    document = conformal_numbers(films, fit(draw_films(12, 20)), patient_weights(films.patients, 5))
    assert document["classes"]["4"]["model"]["coverage"] == Estimate(None, None, None, 0)
    assert document["classes"]["4"]["films"] == 0
