"""How often sets of subscores hold the label, over many small data sets, each with a model trained on it.

    python -m benchmarks.coverage [--seeds 20]

For each seed, labels of made-up patients are drawn as in synthetic films, with features that hint at them: what films
of one patient have in common is noise, too. Ten folds are trained as in an evaluation, the sets are calibrated on the
out-of-fold scores, and those of the best fold's model are judged on a hold-out. The spread that is to be expected comes
from drawing the patients of the calibration and of the hold-out again. Writes ``benchmarks/results/coverage.json`` and
its table in ``docs/evaluation.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import material, sections
from benchmarks.table import put_into
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.manifest import CORTICES, LABELS
from rust_optuna.data.synthetic.cohort import draw_cohort
from rust_optuna.learn.features import Features
from rust_optuna.learn.fitting import FittedFold, fit_fold
from rust_optuna.learn.runtime import load_tensorflow
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.model.bootstrap import patient_weights
from rust_optuna.model.conformal import CLASS_NAMES, COVERAGE, CortexConformal, conformal_numbers, patient_shares
from rust_optuna.model.scored import ScoredFilms, baselines, plain

RESULTS = sections.ROOT / "benchmarks" / "results" / "coverage.json"
PATIENTS = {"development": 300, "holdout": 200}
FOLDS = 10
WIDTH = 64
SIGNAL, IN_COMMON = 1.2, 0.5
"""How plainly features show labels, and how much noise films of a patient share; other noise has the deviation 1."""
RESAMPLES = 200
"""How often the patients of each seed are drawn again."""
TRIAL = dataclasses.replace(
    material.trial(64, dropout_rate=0.2), epochs=15, hidden_units=(64, 32), standardize=True, flips="both"
)


@dataclasses.dataclass(frozen=True)
class MadeUp:
    """Films with features.

    Args:
        films: labels, patients and folds.
        visits: the visit of each film.
        features: (films, 4, width) float32.
    """

    films: DevelopmentSet
    visits: tuple[str, ...]
    features: np.ndarray


def main() -> None:
    """Train and judge a model for each seed, and write how often its sets hold the label."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    chosen = parser.parse_args()
    load_tensorflow()
    found = []
    for seed in range(1, chosen.seeds + 1):
        found.append(_one(seed))
        print(f"seed {seed}: {found[-1]['coverage']:.4f}", file=sys.stderr, flush=True)
    document = {"patients": PATIENTS, "folds": FOLDS, "aim": COVERAGE, "resamples": RESAMPLES, "seeds": found}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    page = _page(found)
    put_into(sections.ROOT / "docs" / "evaluation.md", page, "python -m benchmarks.coverage")
    print(page)


def _one(seed: int) -> dict[str, Any]:
    """Train the folds of one data set, and judge the sets of the best fold's model on the hold-out."""
    development, holdout = (_made_up(PATIENTS[part], seed, part) for part in PATIENTS)
    source = CachedFeatures(Features(development.features, "made up"))
    folds = [fit_fold(development.films, source, TRIAL, fold=fold, seed=100 * seed + fold) for fold in range(FOLDS)]
    best = max(folds, key=lambda fold: fold.value)
    calibration = _scored(development, _out_of_fold(development, folds))
    judged = _scored(holdout, best.head.scores(holdout.features[:, 0]))
    conformal = CortexConformal.fit(calibration)
    conformals = dict.fromkeys(judged.by_scorer, conformal)
    sets = plain(conformal_numbers(judged, conformals, patient_weights(judged.patients, 2)))
    model = {name: sets["classes"][name]["model"] for name in CLASS_NAMES}
    return {
        "coverage": sets["mean"]["model"]["coverage"]["value"],
        "mean_size": sets["mean"]["model"]["mean_size"]["value"],
        "expected_deviation": _expected_deviation(calibration, judged, seed),
        "classes": {
            name: {
                "patients": sets["classes"][name]["patients"],
                **{number: model[name][number]["value"] for number in ("coverage", "mean_size")},
            }
            for name in CLASS_NAMES
        },
    }


def _made_up(patients: int, seed: int, part: str) -> MadeUp:
    """Return the films of made-up patients."""
    cohort = draw_cohort(patients, 2 * seed + (part == "holdout"))
    generator = np.random.default_rng([seed, part == "holdout"])
    labels = material.cohort_labels(cohort)
    directions = np.random.default_rng(seed).standard_normal((len(LABELS), WIDTH)) / np.sqrt(len(LABELS) / 3)
    shared = IN_COMMON * generator.standard_normal((patients + 1, WIDTH))
    middle = SIGNAL * labels @ directions + shared[[film.patient for film in cohort]]
    features = middle[:, np.newaxis] + generator.standard_normal((len(cohort), 4, WIDTH))
    content = [hashlib.sha256(f"{seed} {part} {row}".encode()).hexdigest() for row in range(len(cohort))]
    order = np.argsort(content)
    fold_of = generator.permutation(patients + 1) % FOLDS
    chosen = [cohort[row] for row in order]
    films = DevelopmentSet(
        content=tuple(content[row] for row in order),
        patients=tuple(f"patient {film.patient}" for film in chosen),
        views=tuple(film.view for film in chosen),
        labels=labels[order],
        folds=fold_of[[film.patient for film in chosen]],
    )
    visits = tuple(f"patient {film.patient}, visit {film.visit}" for film in chosen)
    return MadeUp(films, visits, features[order].astype(np.float32))


def _out_of_fold(development: MadeUp, folds: Sequence[FittedFold]) -> np.ndarray:
    """Return the scores of each film by the head that did not see it."""
    row = {content: position for position, content in enumerate(development.films.content)}
    scores = np.empty(development.films.labels.shape, np.float32)
    for fold in folds:
        scores[[row[str(film)] for film in fold.films]] = fold.scores
    return scores


def _scored(made_up: MadeUp, scores: np.ndarray) -> ScoredFilms:
    films = made_up.films
    frequencies, view_only = baselines(films.labels, films.views, films.views)
    return ScoredFilms(
        content=films.content,
        patients=films.patients,
        visits=made_up.visits,
        labels=films.labels,
        scores=scores,
        frequencies=frequencies,
        view_only=view_only,
        cortices=films.cortices,
    )


def _expected_deviation(calibration: ScoredFilms, holdout: ScoredFilms, seed: int) -> float:
    """Return the deviation of the coverage if the patients of both sides are drawn again, with all of their films."""
    generator = np.random.default_rng(seed)
    coverages = []
    for _ in range(RESAMPLES):
        conformal = CortexConformal.fit(_redrawn(calibration, generator))
        coverages.append(_coverage(conformal, _redrawn(holdout, generator)))
    return float(np.std(coverages, ddof=1))


def _redrawn(films: ScoredFilms, generator: np.random.Generator) -> ScoredFilms:
    """Return as many patients, drawn with replacement; one who is drawn twice counts as two."""
    names = np.array(films.patients)
    drawn = generator.choice(np.unique(names), len(np.unique(names)))
    positions = [np.flatnonzero(names == name) for name in drawn]
    taken = films.take(np.concatenate(positions))
    copies = np.repeat(np.arange(len(drawn)), [len(each) for each in positions])
    return dataclasses.replace(
        taken,
        patients=tuple(f"{name} {copy}" for name, copy in zip(taken.patients, copies, strict=True)),
        visits=tuple(f"{visit} {copy}" for visit, copy in zip(taken.visits, copies, strict=True)),
    )


def _coverage(conformal: CortexConformal, films: ScoredFilms) -> float:
    """Return the coverage, a mean over the cortices; within one, each patient counts once."""
    sets = conformal.sets(films.scores)
    held = np.take_along_axis(sets, films.classes[:, :, np.newaxis], axis=2)[:, :, 0]
    names = np.array(films.patients)
    shown = [cortex for cortex in range(len(CORTICES)) if films.shown[:, cortex].any()]
    means = []
    for cortex in shown:
        of = films.shown[:, cortex]
        means.append(np.average(held[of, cortex], weights=patient_shares(names[of])))
    return float(np.mean(means))


def _page(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the docs."""
    coverages = [each["coverage"] for each in found]
    expected = np.sqrt(np.mean([each["expected_deviation"] ** 2 for each in found]))
    lines = [
        f"{len(found)} data sets, each of {PATIENTS['development']} made-up patients for development and "
        f"{PATIENTS['holdout']} in the hold-out: the coverage is {np.mean(coverages):.3f} on average "
        f"({min(coverages):.3f} to {max(coverages):.3f}), with a standard deviation of {np.std(coverages, ddof=1):.3f} "
        f"over the data sets. Drawing the patients of calibration and hold-out again gives {expected:.3f}. A set holds "
        f"{np.mean([each['mean_size'] for each in found]):.2f} of five classes on average.",
        "",
        "| class | coverage, mean over the data sets | lowest to highest | mean size of a set |",
        "| --- | --- | --- | --- |",
    ]
    for name in CLASS_NAMES:
        coverage, size = ([each["classes"][name][key] for each in found] for key in ("coverage", "mean_size"))
        lines.append(
            f"| {name} | {np.mean(coverage):.3f} | {min(coverage):.3f} to {max(coverage):.3f} | {np.mean(size):.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
