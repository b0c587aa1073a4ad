"""A study as plain files: a table of its trials and each one's out-of-fold scores."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
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

TABLE = "trials.csv"
STUDY = "study"
"""The column that says whose export a table is."""
NUMBERS = ("average_precision_16", "roc_auc_macro", "roc_auc_micro", "precision", "recall")
UNTIED = ("average_precision", "average_precision_16")
SPREADS = ("deviation", "deviation_16", "lift_16", "lift_16_standard_error")
"""Over folds: sample deviations of average precision, over 18 labels and over the 16 subscores; and the lift over the
view-only baseline with its ties broken at random."""


def export_study(database: Database, name: str, store: ArtifactStore, folder: Path) -> tuple[Path, int]:
    """Write ``trials.csv`` and, for each complete trial that has them, ``trial-NUMBER.npz``.

    Files of an earlier export of the study are replaced, each whole; those of trials that it no longer has are removed.

    Returns:
        The table's path and the number of trials in it.

    Raises:
        StudyError: no such study, none of its trials is complete, or the folder holds another study's export.
        DataError: an artifact is not in the store.
    """
    study = load_study(database, name)
    points = complete_points(database, study)
    if not points:
        raise StudyError(f"{name} has no complete trial yet")
    with_scores = {f"trial-{point.trial}.npz": point.artifact for point in points if point.artifact is not None}
    stale = _stale_scores(folder, name, with_scores)
    for scores, artifact in with_scores.items():
        download(store, artifact, folder / scores)
    # What is the same in every row is there too: a table is read without its study.
    same = {**plain_values(study.configuration.fixed), **study.constant_hyperparameters}
    keys = [*study.configuration.search_space, *same]
    folds = study.configuration.folds
    header = ["number", "point", "value", "epoch", *keys, *(f"fold_{fold}" for fold in range(folds)), *NUMBERS]
    header += [f"baseline_view_only_{key}" for key in ("average_precision", *NUMBERS)]
    header += [*(f"baseline_view_only_untied_{key}" for key in UNTIED), *SPREADS]
    header += ["diverged", "seconds", "worker", "arithmetic", "objective", STUDY]
    table = folder / TABLE
    with atomic_write(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        objective = (study.runtime or {}).get("objective")
        for point in points:
            values = {**same, **point.parameters}
            writer.writerow([*_row(point, [values[key] for key in keys], folds), objective, name])
    for left in stale:
        (folder / left).unlink(missing_ok=True)
    return table, len(points)


def _stale_scores(folder: Path, name: str, ours: Collection[str]) -> set[str]:
    """Return the files of scores that an earlier export of a study left in a folder, and that this one does not write.

    Args:
        folder: where to export to.
        name: the study's.
        ours: the files that are about to be written. An export that was interrupted has left some of them.

    Raises:
        StudyError: the folder holds what is, or may be, another study's export: the two would be mixed.
    """
    earlier = _earlier_scores(folder / TABLE, name) if (folder / TABLE).exists() else set()
    there = {path.name for path in folder.glob("trial-*.npz")}
    if others := sorted(there - earlier - set(ours)):
        raise StudyError(f"{folder} holds {others[0]}, which is not of {name}: name another folder")
    return there - set(ours)


def _earlier_scores(table: Path, name: str) -> set[str]:
    """Return the names of the files of scores that belong to a table of an earlier export of a study."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        studies = sorted({row[STUDY] for row in rows})
        scores = {f"trial-{row['number']}.npz" for row in rows}
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise StudyError(
            f"{table} does not say which study it is of: name another folder, or remove that file"
        ) from None
    if studies != [name]:
        raise StudyError(f"{table.parent} holds the export of {', '.join(studies) or 'no study'}: name another folder")
    return scores


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
