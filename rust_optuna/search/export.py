"""A study as plain files: a table of its trials and each one's out-of-fold scores."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rust_optuna.config import plain_values
from rust_optuna.data.metrics import deviation, lift
from rust_optuna.errors import StudyError
from rust_optuna.paths import atomic_write
from rust_optuna.search.results import Point, complete_points
from rust_optuna.search.studies import load_study
from rust_optuna.storage.artifacts import ArtifactStore, download
from rust_optuna.storage.database import Database

NUMBERS = ("average_precision_16", "roc_auc_macro", "roc_auc_micro", "precision", "recall")
UNTIED = ("average_precision", "average_precision_16")
SPREADS = ("deviation", "deviation_16", "lift_16", "lift_16_standard_error")
"""Over folds: sample deviations of average precision, over 18 labels and over the 16 subscores; and the lift over the
view-only baseline with its ties broken at random."""


def export_study(database: Database, name: str, store: ArtifactStore, folder: Path) -> tuple[Path, int]:
    """Write ``trials.csv`` and, for each complete trial that has them, ``trial-NUMBER.npz``.

    Files of an earlier export are replaced, each whole.

    Returns:
        The table's path and the number of trials in it.

    Raises:
        StudyError: no such study, or none of its trials is complete.
        DataError: an artifact is not in the store.
    """
    study = load_study(database, name)
    points = complete_points(database, study)
    if not points:
        raise StudyError(f"{name} has no complete trial yet")
    for point in points:
        if point.artifact is not None:
            download(store, point.artifact, folder / f"trial-{point.trial}.npz")
    # What is the same in every row is there too: a table is read without its study.
    same = {**plain_values(study.configuration.fixed), **study.constant_hyperparameters}
    keys = [*study.configuration.search_space, *same]
    folds = study.configuration.folds
    header = ["number", "point", "value", "epoch", *keys, *(f"fold_{fold}" for fold in range(folds)), *NUMBERS]
    header += [f"baseline_view_only_{key}" for key in ("average_precision", *NUMBERS)]
    header += [*(f"baseline_view_only_untied_{key}" for key in UNTIED), *SPREADS]
    header += ["diverged", "seconds", "worker", "arithmetic", "objective"]
    table = folder / "trials.csv"
    with atomic_write(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        objective = (study.runtime or {}).get("objective")
        for point in points:
            values = {**same, **point.parameters}
            writer.writerow([*_row(point, [values[key] for key in keys], folds), objective])
    return table, len(points)


def _row(point: Point, values: Sequence[object], folds: int) -> list[object]:
    result = point.result
    baseline, untied = result.get("baseline_view_only", {}), result.get("baseline_view_only_untied", {})
    return [
        point.trial,
        point.number,
        point.value,
        result.get("epoch"),
        *values,
        *result.get("fold_values", [None] * folds),
        *(result.get(key) for key in NUMBERS),
        *(baseline.get(key) for key in ("average_precision", *NUMBERS)),
        *(untied.get(key) for key in UNTIED),
        *_spreads(result, untied),
        result.get("diverged"),
        round(point.seconds, 3),
        point.worker,
        result.get("arithmetic"),
    ]


def _spreads(result: Mapping[str, Any], untied: Mapping[str, Any]) -> list[float | None]:
    """Return the `SPREADS`."""
    of_18 = result.get("fold_values", [])
    of_16 = result.get("folds", {}).get("average_precision_16", [])
    of_baseline = untied.get("folds", {}).get("average_precision_16", [None] * len(of_16))
    return [deviation(of_18), deviation(of_16), *(lift(of_16, of_baseline) or (None, None))]
