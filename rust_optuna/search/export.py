"""Exporting a study to plain files: a table of its trials, and the out-of-fold scores of each."""

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
"""The column that names the exported study."""
NUMBERS = ("average_precision_16", "roc_auc_macro", "roc_auc_micro", "precision", "recall")
UNTIED = ("average_precision", "average_precision_16")
BASELINE, UNTIED_BASELINE = "baseline_view_only_", "baseline_view_only_untied_"
"""The prefixes of the two baselines' columns."""
SPREADS = ("deviation", "deviation_16", "lift_16", "lift_16_standard_error")
"""The columns of statistics over folds: the sample deviations of average precision over 18 labels and over the 16
subscores, and the lift over the view-only baseline, whose ties are broken at random, with its standard error."""


def export_study(database: Database, name: str, store: ArtifactStore, folder: Path) -> tuple[Path, int]:
    """Write ``trials.csv`` and, for each complete trial that has scores, ``trial-NUMBER.npz``.

    Each file of an earlier export of the study is replaced atomically; those of trials that it no longer has are
    removed.

    Returns:
        The table's path and the number of trials in it.

    Raises:
        StudyError: there is no such study, none of its trials is complete, or the folder holds another study's export.
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
    # Constant values have columns too, because the table is read without its study.
    constants = {**plain_values(study.configuration.fixed), **study.constant_hyperparameters}
    keys = [*study.configuration.search_space, *constants]
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
            # A stand-in objective reports nothing, so its cells stay empty.
            report = _report_cells(point.report) if point.report else {}
            trial = {"number": point.trial, "point": point.number, "value": point.value}
            execution = {"seconds": round(point.seconds, 3), "worker": point.worker, "objective": study.objective}
            writer.writerow({**trial, **constants, **point.parameters, **report, **execution, STUDY: name})
    for scores in stale:
        (folder / scores).unlink(missing_ok=True)
    return table, len(points)


def _stale_scores(folder: Path, name: str, new: Collection[str]) -> set[str]:
    """Return the score files of an earlier export of a study that the new export does not write.

    Args:
        folder: the folder of both exports.
        name: the name of the study.
        new: the files that are about to be written. An interrupted export may have left some of them.

    Raises:
        StudyError: the folder holds files that may belong to another study's export, which would be mixed with this.
    """
    earlier = _earlier_scores(folder / TABLE, name) if (folder / TABLE).exists() else set()
    existing = {path.name for path in folder.glob("trial-*.npz")}
    if others := sorted(existing - earlier - set(new)):
        raise StudyError(f"{folder} holds {others[0]}, which does not belong to {name}: choose another folder")
    return existing - set(new)


def _earlier_scores(table: Path, name: str) -> set[str]:
    """Return the names of the score files that belong to the table of an earlier export of a study.

    Raises:
        StudyError: the table is another study's, or does not name its study.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        studies = sorted({row[STUDY] for row in rows})
        scores = {f"trial-{row['number']}.npz" for row in rows}
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise StudyError(
            f"{table} does not name the study it was exported from: choose another folder, or remove that file"
        ) from None
    if studies != [name]:
        raise StudyError(
            f"{table.parent} holds the export of {', '.join(studies) or 'no study'}: choose another folder"
        )
    return scores


def _report_cells(report: TrialReport) -> dict[str, object]:
    """Return the cells that hold a trial's report, by column."""
    scores, untied = report.scores, report.untied_baseline
    on_16 = scores.average_precision_16.folds
    lifts = lift(on_16, untied.average_precision_16.folds) if untied else None
    return {
        "epoch": report.epoch,
        **{f"fold_{fold}": value for fold, value in enumerate(report.fold_values)},
        **_means(scores, NUMBERS),
        **_means(report.baseline, ("average_precision", *NUMBERS), BASELINE),
        **(_means(untied, UNTIED, UNTIED_BASELINE) if untied else {}),
        **dict(zip(SPREADS, (deviation(report.fold_values), deviation(on_16), *(lifts or (None, None))), strict=True)),
        "diverged": report.diverged,
        "arithmetic": report.arithmetic,
    }


def _means(scores: AveragePrecisions, names: Sequence[str], prefix: str = "") -> dict[str, float | None]:
    """Return the mean of each named score, by column."""
    return {f"{prefix}{name}": getattr(scores, name).mean for name in names}
