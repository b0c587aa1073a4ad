"""Comparing configurations on this machine: each is cross-validated on the same folds, all by the same workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rust_optuna.config import StudyConfiguration
from rust_optuna.errors import ConfigurationError, StudyError
from rust_optuna.fleet import service as fleet
from rust_optuna.fleet.devices import Device, DeviceChoice
from rust_optuna.fleet.workers import Workers
from rust_optuna.model.comparison import Comparison, load_compared, measure_comparison
from rust_optuna.model.reports import refuse_other_report, write_report
from rust_optuna.processes import GRACE_SECONDS
from rust_optuna.report.curves import Panel, curves_svg
from rust_optuna.run.evaluation import EvaluationListener
from rust_optuna.run.local import build_features, run_together
from rust_optuna.search.comparison import (
    is_compared,
    refuse_different,
    refuse_different_files,
    refuse_unfinished,
)
from rust_optuna.search.creation import Creation, create_study, refuse_before_database
from rust_optuna.search.preparation import missing_files
from rust_optuna.search.studies import Study, load_study
from rust_optuna.storage.artifacts import check_writable
from rust_optuna.storage.database import Database, create_database
from rust_optuna.storage.site import Site
from rust_optuna.storage.states import StudyState

PICTURE = "curves.svg"
LONGEST_NAME = 100
"""The most characters in the name of a report's folder."""


def compare(
    site: Site,
    subjects: Sequence[StudyConfiguration | str],
    choice: DeviceChoice = DeviceChoice(),  # noqa: B008 (frozen)
    listener: EvaluationListener | None = None,
    *,
    grace: float = GRACE_SECONDS,
    data_root: Path | None = None,
) -> Comparison:
    """Cross-validate configurations on the same folds, and report their numbers side by side.

    All studies are created before the first fold is trained, and workers take the folds of all of them: those of this
    call, and those of other machines that serve the storage. Whatever stops a comparison, the same call goes on where
    it stopped.

    Args:
        site: the database, home and artifact store; a missing database is made.
        subjects: study files of one configuration each, or names of studies that were made of such files. Differences
            are taken to the first.
        choice: the devices on which the workers run.
        listener: the callbacks that report progress.
        grace: seconds in which an interrupted worker may finish its fold.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.

    Raises:
        ConfigurationError: a study file describes a search, or two differ in their manifest, folds or seed.
        StudyError: a named study is no such configuration, or studies differ in films, folds or seed.
        OpenHolesError: a fold could not be trained.
        RustOptunaError: any other of this project's errors.
        KeyboardInterrupt: the comparison was interrupted; its workers are stopped and their folds given back.
    """
    listener = listener or EvaluationListener()
    files = [subject for subject in subjects if isinstance(subject, StudyConfiguration)]
    _refuse_files(files, site)
    devices = choice.devices()
    workers = Workers(devices, grace=grace, data_root=data_root)
    fleet.check_writable(site.home)
    for file in files[:1]:
        refuse_before_database(site.url, file, site.home, site.artifacts, listener.on_hashed, data_root)
    with create_database(site.url, site.artifacts) if files else site.open_to_write() as database:
        names = [subject if isinstance(subject, str) else subject.name for subject in subjects]
        _refuse_studies(database, subjects)
        subject = {"studies": names}
        folder = site.home.reports / report_name(names)
        refuse_other_report(folder, subject)
        creations = [
            Creation(load_study(database, subject), resumed=True)
            if isinstance(subject, str)
            else create_study(database, subject, site.home, listener.on_hashed, site.given_artifacts, data_root)
            for subject in subjects
        ]
        refuse_different([creation.study for creation in creations])
        for creation in creations:
            listener.on_created(creation, devices)
        _train(database, [creation.study for creation in creations], site, devices[0], workers, listener)
        studies = [load_study(database, name) for name in names]
        for study in studies:
            refuse_unfinished(database, study, f"The comparison needs all folds of {study.name}")
        listener.on_trained()
        store = site.store(database)
        compared = [load_compared(database, study, store) for study in studies]
    numbers = measure_comparison(compared)
    arrays = {each.study.name: each for each in compared}
    write_report(folder, subject, numbers, arrays, {PICTURE: picture(numbers)})
    return Comparison(folder, {**subject, **numbers})


def report_name(names: Sequence[str]) -> str:
    """Return the name of the folder that reports on a comparison."""
    name = "-".join(["comparison", *names])
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256("/".join(names).encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def picture(numbers: dict[str, Any]) -> str:
    """Return the curves of a comparison side by side, as SVG."""
    panels = [
        Panel(
            title=each["study"],
            folds=each["fold_curves"],
            mean=each["curve"],
            epoch=each["epoch"],
            deviation=each["deviation"],
            baseline=each["baseline_view_only"]["average_precision"],
        )
        for each in numbers["compared"]
    ]
    return curves_svg(panels, f"Average precision over the 18 labels, {numbers['folds']}-fold cross-validation")


def _refuse_files(files: Sequence[StudyConfiguration], site: Site) -> None:
    """Refuse study files before anything is created."""
    if files:
        refuse_different_files(files, site.home)
    for file in files:
        if problems := missing_files(file, site.home):
            raise ConfigurationError(file.source, problems)


def _refuse_studies(database: Database, subjects: Sequence[StudyConfiguration | str]) -> None:
    """Refuse named studies that are not configurations to compare, or that are named twice."""
    names = [subject if isinstance(subject, str) else subject.name for subject in subjects]
    for name in (subject for subject in subjects if isinstance(subject, str)):
        if not is_compared(load_study(database, name)):
            raise StudyError(
                f"{name} is not a configuration to compare: rust-optuna compare takes study files with neither "
                "[sampler] nor [search_space], and the names of studies that were made of them"
            )
        if names.count(name) > 1:
            raise StudyError(f"{name} is named twice: a configuration cannot be compared with itself")


def _train(
    database: Database,
    studies: Sequence[Study],
    site: Site,
    device: Device,
    workers: Workers,
    listener: EvaluationListener,
) -> None:
    """Run workers until every fold of all studies is trained; ``device`` computes the features that are missing."""
    environment = site.environment(database)
    unfinished = [study for study in studies if study.state != StudyState.DONE]
    if unfinished:
        check_writable(site.store(database))
    for study in unfinished:
        build_features(database, study, site.home, environment, device, workers.data_root)
    run_together(database, studies, site.home, workers, environment, listener)
