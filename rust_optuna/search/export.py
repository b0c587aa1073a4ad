"""A study as plain files: a table of its trials and each one's out-of-fold scores."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from rust_optuna.config import plain_values
from rust_optuna.data.metrics import deviation, lift
from rust_optuna.data.scores import AveragePrecisions
from rust_optuna.errors import StudyError
from rust_optuna.learn.trial_report import TrialReport
from rust_optuna.paths import atomic_write
from rust_optuna.search.results import complete_points
from rust_optuna.search.studies import load_study
from rust_optuna.storage.artifacts import ArtifactStore, download
from rust_optuna.storage.database import Database

TABLE = "trials.csv"
STUDY = "study"
"""The column that says whose export a table is."""
NUMBERS = ("average_precision_16", "roc_auc_macro", "roc_auc_micro", "precision", "recall")
UNTIED = ("average_precision", "average_precision_16")
BASELINE, UNTIED_BASELINE = "baseline_view_only_", "baseline_view_only_untied_"
"""What the columns of the two baselines begin with."""
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
    header += [f"{BASELINE}{key}" for key in ("average_precision", *NUMBERS)]
    header += [*(f"{UNTIED_BASELINE}{key}" for key in UNTIED), *SPREADS]
    header += ["diverged", "seconds", "worker", "arithmetic", "objective", STUDY]
    table = folder / TABLE
    with atomic_write(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        for point in points:
            # What a stand-in does not report stays empty.
            reported = _reported(point.report) if point.report else {}
            ran = {"number": point.trial, "point": point.number, "value": point.value, **same, **point.parameters}
            by = {"seconds": round(point.seconds, 3), "worker": point.worker, "objective": study.objective}
            writer.writerow({**ran, **reported, **by, STUDY: name})
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


def _reported(report: TrialReport) -> dict[str, object]:
    """Return the cells of a trial's report by column."""
    scores, untied = report.scores, report.untied_baseline
    of_16 = scores.average_precision_16.folds
    over = lift(of_16, untied.average_precision_16.folds) if untied else None
    return {
        "epoch": report.epoch,
        **{f"fold_{fold}": value for fold, value in enumerate(report.fold_values)},
        **_means(scores, NUMBERS),
        **_means(report.baseline, ("average_precision", *NUMBERS), BASELINE),
        **(_means(untied, UNTIED, UNTIED_BASELINE) if untied else {}),
        **dict(zip(SPREADS, (deviation(report.fold_values), deviation(of_16), *(over or (None, None))), strict=True)),
        "diverged": report.diverged,
        "arithmetic": report.arithmetic,
    }


def _means(scores: AveragePrecisions, names: Sequence[str], prefix: str = "") -> dict[str, float | None]:
    """Return the means of some numbers by column."""
    return {f"{prefix}{name}": getattr(scores, name).mean for name in names}
