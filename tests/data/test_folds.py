import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rust_optuna.data.folds import assign_folds, check_disjoint, labels_missing, stratify
from rust_optuna.data.manifest import LABELS
from rust_optuna.errors import DataError
from tests import published_layout


def content(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@st.composite
def cohorts(draw):
    """Films, patients and labels, at least two patients."""
    patients = draw(st.lists(st.integers(0, 12), min_size=2, max_size=40))
    assume(len(set(patients)) >= 2)
    bits = draw(st.lists(st.integers(0, 2**18 - 1), min_size=len(patients), max_size=len(patients)))
    labels = np.array([[bit >> i & 1 for i in range(18)] for bit in bits], dtype=np.uint8)
    return [content(i) for i in range(len(patients))], [f"p{p}" for p in patients], labels


@given(cohorts(), st.integers(0, 5), st.data())
def test_folds_are_disjoint_complete_and_deterministic(cohort, seed, data):
    films, patients, labels = cohort
    folds = data.draw(st.integers(2, len(set(patients))))
    found = assign_folds(films, patients, labels, folds=folds, seed=seed)
    check_disjoint(patients, found)
    assert found.shape == (len(films),)
    assert found.dtype == np.int64
    assert set(found.tolist()) == set(range(folds))
    again = assign_folds(films, patients, labels, folds=folds, seed=seed)
    assert found.tolist() == again.tolist()


@given(cohorts(), st.randoms(use_true_random=False))
def test_folds_depend_on_neither_the_rows_order_nor_the_patients_names(cohort, rng):
    films, patients, labels = cohort
    order = list(range(len(films)))
    rng.shuffle(order)
    names = {patient: f"renamed {-place}" for place, patient in enumerate(sorted(set(patients)))}
    expected = assign_folds(films, patients, labels, folds=2, seed=3)
    shuffled = assign_folds(
        [films[i] for i in order], [names[patients[i]] for i in order], labels[order], folds=2, seed=3
    )
    assert shuffled.tolist() == expected[order].tolist()


def test_another_seed_gives_other_folds():
    films, patients = [content(i) for i in range(60)], [f"p{i // 2}" for i in range(60)]
    labels = np.zeros((60, 18), dtype=np.uint8)
    found = {tuple(assign_folds(films, patients, labels, folds=3, seed=seed)) for seed in range(4)}
    assert len(found) == 4


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(DataError, match="6 folds need at least 6 patients, but there are 2"):
        assign_folds([content(0), content(1)], ["p", "q"], np.zeros((2, 18)), folds=6, seed=0)


def test_one_fold_is_refused():
    with pytest.raises(DataError, match="at least 2 folds"):
        assign_folds([content(0)], ["p"], np.zeros((1, 18)), folds=1, seed=0)


@pytest.fixture(scope="module")
def published():
    rows = published_layout.cohort()
    labels = [row.cells(0)[4:] for row in rows]
    films = [content(i) for i in range(len(rows))]
    return films, [str(row.patient) for row in rows], np.array(labels, dtype=np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_folds_of_the_published_counts_have_even_prevalences(published, seed):
    films, patients, labels = published
    folds = assign_folds(films, patients, labels, folds=6, seed=seed)
    prevalence = np.array([labels[folds == fold].mean(axis=0) for fold in range(6)])
    error = np.abs(prevalence / labels.mean(axis=0) - 1)
    assert error.mean() < 0.01
    assert error.max() < 0.06
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 5
    assert labels_missing(folds, labels) == ()


def test_a_small_part_is_as_even_as_a_large_one(published):
    _, patients, labels = published
    part = stratify(patients, labels, [0.85, 0.15], seed=1)
    error = np.abs(labels[part == 1].mean(axis=0) / labels.mean(axis=0) - 1)
    assert error.max() < 0.06
    assert abs((part == 1).mean() - 0.15) < 0.005
    held = {patient for patient, side in zip(patients, part, strict=True) if side == 1}
    assert abs(len(held) / len(set(patients)) - 0.15) < 0.01


def obviously_stratified(patients, labels, shares, seed):
    """Return the part of each patient, by exact arithmetic and the definition alone."""
    names = sorted(set(patients))
    kinds = range(labels.shape[1] + 2)
    counts = {name: [0] * labels.shape[1] + [0, 1] for name in names}
    for patient, row in zip(patients, labels.tolist(), strict=True):
        counts[patient] = [a + b for a, b in zip(counts[patient], [*row, 1, 0], strict=True)]
    totals = [sum(counts[name][kind] for name in names) for kind in kinds]

    def dealt(name):
        rarest = min(totals[kind] for kind in kinds if counts[name][kind])
        return rarest, -counts[name][-2], hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()

    def unevenness(part_of):
        """The squared relative deviation of each count in each part, for as much more as the part is smaller."""
        return sum(
            (sum(counts[name][kind] for name in names if part_of.get(name) == part) - share * totals[kind]) ** 2
            / (share * max(totals[kind], 1) ** 2)
            for part, share in enumerate(shares)
            for kind in kinds
        )

    part_of = {}
    for left, name in zip(range(len(names), 0, -1), sorted(names, key=dealt), strict=True):
        empty = set(range(len(shares))) - set(part_of.values())
        allowed = empty if left == len(empty) else range(len(shares))
        part_of[name] = min(allowed, key=lambda part: (unevenness(part_of | {name: part}), part))
    return [part_of[patient] for patient in patients]


@pytest.mark.parametrize(
    "shares", [(Fraction(1, 2), Fraction(1, 2)), (Fraction(2, 3), Fraction(1, 3)), (Fraction(1, 3),) * 3]
)
def test_patients_are_dealt_where_they_lower_the_unevenness_most(shares):
    for cohort in range(20):
        rng = np.random.default_rng(cohort)
        patients = [f"p{number}" for number in rng.integers(0, 9, 20)]
        labels = (rng.random((20, 8)) < [0.5, 0.3, 0.1] + [0.05] * 5).astype(np.uint8)  # rare ones, of one film
        found = stratify(patients, labels, [float(share) for share in shares], seed=cohort)
        assert found.tolist() == obviously_stratified(patients, labels, shares, cohort), cohort


def test_a_patient_in_two_folds_is_found_but_not_named():
    check_disjoint(["p", "q", "p"], [0, 1, 0])
    with pytest.raises(DataError, match="1 patient has films in more than one fold") as caught:
        check_disjoint(["secret", "q", "secret"], np.array([0, 1, 1]))
    assert "secret" not in str(caught.value)


def test_labels_missing_names_what_some_fold_lacks():
    labels = np.ones((4, 18), dtype=np.uint8)
    labels[:2, 4] = 0
    labels[:, 17] = 0
    labels[0, 9] = 0
    assert labels_missing([0, 0, 1, 1], labels) == (LABELS[4], LABELS[17])


def test_even_the_smallest_share_gets_a_patient():
    patients = [f"p{i // 10}" for i in range(30)]
    part = stratify(patients, np.zeros((30, 18), dtype=np.uint8), [0.999, 0.001], seed=1)
    assert np.bincount(part).tolist() == [20, 10]
