"""Studies whose points are the folds of one configuration, and which of several configurations is the best.

All folds together are one cross-validation. The mean over the folds of average precision after each epoch is the
configuration's curve, and the curve's highest point its value: what a trial of a search reports.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rust_optuna.config import StudyConfiguration, StudyKind
from rust_optuna.errors import ConfigurationError, OpenHolesError, Problem, StudyError
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.paths import Home
from rust_optuna.search.studies import Study, complete_rows, find_study
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import StudyState


@dataclass(frozen=True)
class MeanCurve:
    """A configuration's cross-validation.

    Args:
        folds: the report of each fold, in order.
    """

    folds: tuple[FoldReport, ...]

    @property
    def curve(self) -> tuple[float, ...]:
        """After each epoch, the mean over the folds of average precision."""
        return tuple(float(np.mean(values)) for values in zip(*(fold.curve for fold in self.folds), strict=True))

    @property
    def epoch(self) -> int:
        """The epoch, from 1, of the curve's highest point; the first of equals."""
        return int(np.argmax(self.curve)) + 1

    @property
    def value(self) -> float:
        """The curve's highest point. It is a selection score, because it chose the epoch."""
        return max(self.curve)

    @property
    def fold_values(self) -> tuple[float, ...]:
        """Each fold's average precision at `epoch`."""
        return tuple(fold.curve[self.epoch - 1] for fold in self.folds)


def mean_curve(database: Database, study: Study) -> MeanCurve | None:
    """Return the cross-validation of a compared configuration; None while a fold is missing, or with a stand-in."""
    rows = database.transact(lambda connection: connection.execute(complete_rows(study)).all())
    if len(rows) < study.configuration.folds or any(row.result is None for row in rows):
        return None
    reports = {json.loads(row.parameters)["fold"]: FoldReport.from_json(json.loads(row.result)) for row in rows}
    return MeanCurve(tuple(reports[fold] for fold in sorted(reports)))


def compared_values(database: Database, names: Sequence[str]) -> dict[str, float] | None:
    """Return the value of each named configuration, in their order; None if one of them is not complete or missing."""
    values = {}
    for name in names:
        study = find_study(database, name)
        found = mean_curve(database, study) if study is not None and is_compared(study) else None
        if found is None:
            return None
        values[name] = found.value
    return values


def best_compared(values: dict[str, float]) -> str:
    """Return the name of the highest value; the first of equals."""
    return max(values, key=lambda name: values[name])


def is_compared(study: Study) -> bool:
    """Return whether the study is a configuration that is compared with others."""
    return study.configuration.kind == StudyKind.COMPARISON


def refuse_unfinished(database: Database, study: Study, purpose: str) -> None:
    """Refuse a compared configuration of which a fold is missing.

    Args:
        database: its database.
        study: the configuration.
        purpose: what needs its value, as the beginning of a sentence that goes on with ``, which``.

    Raises:
        StudyError: it is not done, a fold is a hole, or a stand-in computed its values.
    """
    if study.stand_in:
        raise StudyError(f"{purpose}, which was run by {study.stand_in}: it has no real score")
    if study.state != StudyState.DONE:
        raise StudyError(f"{purpose}, which is not done yet: finish it with rust-optuna compare {study.name}")
    if mean_curve(database, study) is None:
        raise OpenHolesError(
            f"{purpose}, which lacks a fold that could not be trained. See why (rust-optuna study show {study.name}), "
            f"allow new attempts (rust-optuna study retry {study.name} --holes), and run rust-optuna compare "
            f"{study.name}"
        )


def refuse_different(studies: Sequence[Study]) -> None:
    """Refuse configurations whose scores cannot be paired.

    Raises:
        StudyError: their films, labels, patients, folds or seeds differ.
    """
    first = studies[0]
    for study in studies[1:]:
        for key in ("folds", "seed"):
            ours, theirs = (getattr(each.configuration, key) for each in (study, first))
            if ours != theirs:
                raise StudyError(
                    f"{study.name} and {first.name} cannot be compared: {key} is {ours} in {study.name} and {theirs} "
                    f"in {first.name}"
                )
        if study.fingerprint.films != first.fingerprint.films:
            raise StudyError(
                f"{study.name} and {first.name} cannot be compared: their films, labels or patients differ. Delete the "
                "older one (rust-optuna study delete NAME), or give its file another name, and compare again"
            )


def refuse_different_files(files: Sequence[StudyConfiguration], home: Home) -> None:
    """Refuse study files that cannot be compared, before anything is created.

    Raises:
        ConfigurationError: a file describes a search, two files have one name, or manifest, folds or seed differ.
    """
    for file in files:
        if file.kind != StudyKind.COMPARISON:
            message = (
                "describes a search: a configuration to compare has all four hyperparameters in [fixed], and neither "
                "[sampler] nor [search_space]"
            )
            raise ConfigurationError(file.source, [Problem("file", message)])
    first, *others = files
    expected = _paired_by(first, home)
    for file in others:
        problems = [
            Problem(where, f"is {value} here and {expected[where]} in {first.source}: scores are compared on the same")
            for where, value in _paired_by(file, home).items()
            if value != expected[where]
        ]
        if problems:
            raise ConfigurationError(file.source, problems)
    for number, file in enumerate(files):
        for earlier in files[:number]:
            if file.name == earlier.name:
                raise ConfigurationError(file.source, [Problem("name", f"is {file.name!r} in {earlier.source} too")])


def _paired_by(file: StudyConfiguration, home: Home) -> dict[str, object]:
    """Return what must be equal in files that are compared, by key."""
    return {
        "manifest": home.resolve(file.manifest or ""),
        "cross_validation.folds": file.folds,
        "cross_validation.seed": file.seed,
    }


def refuse_comparison(file: StudyConfiguration) -> None:
    """Refuse a study file that has nothing to search.

    Raises:
        ConfigurationError: it describes one configuration.
    """
    if file.kind == StudyKind.COMPARISON:
        message = (
            f"has neither [sampler] nor [search_space], so there is nothing to search: rust-optuna compare "
            f"{file.source} cross-validates it as it is"
        )
        raise ConfigurationError(file.source, [Problem("file", message)])
