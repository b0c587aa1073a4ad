"""How long all numbers of an evaluation take, with their intervals, for a hold-out of the published size."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from benchmarks import material
from benchmarks.memory import resident
from benchmarks.sections import wait_for_the_others
from rust_optuna.data.metrics import view_only_scores
from rust_optuna.data.synthetic.cohort import CORTICES_OF_VIEW, draw_cohort
from rust_optuna.model.numbers import Calibration, measure
from rust_optuna.model.scored import ScoredFilms

HOLDOUT, DEVELOPMENT = 181, 1026
"""How many patients there are on either side."""
MODELS = 4


def main() -> None:
    """Print one JSON object: the films, the seconds of each round, and the megabytes of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    films, out_of_fold = made_up(HOLDOUT, seed=1), made_up(DEVELOPMENT, seed=2)
    wait_for_the_others()
    one, all_models = [], []
    for _ in range(chosen.rounds):
        began = time.perf_counter()
        calibration = Calibration.fit(out_of_fold)
        for model in range(MODELS):
            measure(films, calibration)
            if model == 0:
                one.append(time.perf_counter() - began)
        all_models.append(time.perf_counter() - began)
    print(json.dumps({"films": len(films), "one": one, "all": all_models, "megabytes": resident("VmHWM")}))


def made_up(patients: int, seed: int) -> ScoredFilms:
    """Return films of made-up patients with the scores of a model that knows something of them."""
    cohort = draw_cohort(patients, seed)
    labels = material.cohort_labels(cohort)
    noise = np.random.default_rng(seed).normal(size=labels.shape)
    views = [film.view for film in cohort]
    return ScoredFilms(
        content=tuple(f"film-{row}" for row in range(len(cohort))),
        patients=tuple(f"patient-{film.patient}" for film in cohort),
        visits=tuple(f"patient-{film.patient}-visit-{film.visit}" for film in cohort),
        labels=labels,
        scores=(1 / (1 + np.exp(1.5 - 2 * labels - noise))).astype(np.float32),
        frequencies=np.tile(labels.mean(axis=0), (len(labels), 1)),
        view_only=view_only_scores(views, labels, views),
        cortices=CORTICES_OF_VIEW,
    )


if __name__ == "__main__":
    main()
