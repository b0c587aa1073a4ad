"""The whole search on this machine: it creates or resumes each study in order and runs it with local workers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.config import BackboneConfiguration, StudyConfiguration
from rust_optuna.errors import ConfigurationError, RustOptunaError
from rust_optuna.fleet import service as fleet
from rust_optuna.fleet.commands import features_build, program
from rust_optuna.fleet.devices import Device, DeviceChoice
from rust_optuna.fleet.service import supervise
from rust_optuna.fleet.workers import Workers
from rust_optuna.learn.features import FeatureCache
from rust_optuna.paths import Home
from rust_optuna.processes import GRACE_SECONDS, PART_OF
from rust_optuna.search.creation import Creation, create_study, refuse_before_database
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.preparation import missing_files
from rust_optuna.search.results import Status, status
from rust_optuna.search.studies import (
    Study,
    cached_backbones,
    load_development,
    load_study,
    parameters_to_prepare,
)
from rust_optuna.storage.artifacts import check_writable
from rust_optuna.storage.database import Database, create_database
from rust_optuna.storage.site import Site
from rust_optuna.storage.states import StudyState


@dataclass
class Listener:
    """The callbacks by which a search reports its progress. By default they do nothing.

    Args:
        on_hashed: called while a study is created, with the number of films hashed so far and in all.
        on_created: called once a study was created or found, before its workers start.
        on_status: called a few times a second while workers run.
    """

    on_hashed: Callable[[int, int], None] | None = None
    on_created: Callable[[Creation, Sequence[Device]], None] = lambda creation, devices: None
    on_status: Callable[[Status], None] = lambda status: None


def search(
    configurations: Sequence[StudyConfiguration],
    site: Site,
    choice: DeviceChoice = DeviceChoice(),  # noqa: B008 (frozen)
    listener: Listener | None = None,
    *,
    grace: float = GRACE_SECONDS,
    objective: str | None = None,
    data_root: Path | None = None,
) -> list[Status]:
    """Run studies, one after another, until every point of each is finished.

    Whatever stops a search (an interrupt, a crash, a power cut), the same call goes on where it stopped.

    Args:
        configurations: the studies, in order.
        site: the database, home and artifact store; a missing database is made.
        choice: the devices on which the workers run.
        listener: the callbacks that report progress.
        grace: seconds in which an interrupted worker may finish its point.
        objective: ``MODULE:FUNCTION`` of a stand-in objective; None for the real one.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.

    Returns:
        The final status of each study.

    Raises:
        RustOptunaError: any of this project's errors, for example if every worker died.
        KeyboardInterrupt: the search was interrupted; its workers are stopped and their points given back.
    """
    listener = listener or Listener()
    # The later studies are checked now too, since they are prepared only hours from now, when the first is done.
    for configuration in configurations:
        if problems := missing_files(configuration, site.home):
            raise ConfigurationError(configuration.source, problems)
    devices = choice.devices()
    workers = Workers(devices, grace=grace, objective=objective, data_root=data_root)
    fleet.check_writable(site.home)
    refuse_before_database(site.url, configurations[0], site.home, site.artifacts, listener.on_hashed, data_root)
    with create_database(site.url, site.artifacts) as database:
        finished = []
        for configuration in configurations:
            creation = create_study(
                database, configuration, site.home, listener.on_hashed, site.given_artifacts, data_root
            )
            listener.on_created(creation, devices)
            if creation.study.state != StudyState.DONE:
                check_writable(site.store(database))
            environment = site.environment(database)
            if objective is None and creation.study.state != StudyState.DONE:
                build_features(database, creation.study, site.home, environment, devices[0], data_root)
            run_workers(database, creation.study, site.home, workers, environment, listener)
            finished.append(status(database, load_study(database, configuration.name)))
        return finished


def build_features(
    database: Database,
    study: Study,
    home: Home,
    environment: dict[str, str],
    device: Device,
    data_root: Path | None,
) -> None:
    """Compute missing features in a child process, on a worker's device, with all cores and a progress bar.

    TensorFlow must not be loaded in this process, which stays small and starts the workers.

    Raises:
        RustOptunaError: the child process failed.
    """
    contents = load_development(database, study).content
    points = parameters_to_prepare(database, study)
    backbones = cached_backbones(study.configuration, points, study.inherited, home)
    if all(_is_complete(home, backbone, contents, device) for backbone in backbones):
        return
    # The child's progress bar, on stderr, is part of this search's output; what it prints on stdout is not.
    with subprocess.Popen(
        program(features_build(study.name, data_root)),
        env={**os.environ, **environment, **device.alone, PART_OF: "search"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as child:
        try:
            child.wait()
        except BaseException:
            # A scheduler may signal this process alone. The `with` block waits for the child to end.
            child.terminate()
            raise
    if child.returncode:
        raise RustOptunaError(f"The features of {study.name} could not be built: the reason is printed above")


def _is_complete(home: Home, backbone: BackboneConfiguration, contents: Sequence[str], device: Device) -> bool:
    """Return whether all features are cached.

    This is known only for a processor that has built features before; for a GPU the answer is always False.
    """
    cache = FeatureCache.without_tensorflow(home.features, backbone) if device.on_processor else None
    return cache is not None and not cache.missing(contents)


def run_workers(
    database: Database,
    study: Study,
    home: Home,
    workers: Workers,
    environment: dict[str, str],
    listener: Listener,
) -> None:
    """Run workers on this machine until a study is done; one that is done already is only shown.

    Raises:
        KeyboardInterrupt: the workers were stopped.
    """
    run_together(database, [study], home, workers, environment, listener)


def run_together(
    database: Database,
    studies: Sequence[Study],
    home: Home,
    workers: Workers,
    environment: dict[str, str],
    listener: Listener,
) -> None:
    """Run workers on this machine until all studies are done; those that are done already are only shown.

    The workers take the points of the first study that has one, so none of them idles while a study ends.

    Raises:
        KeyboardInterrupt: the workers were stopped.
    """
    for study in studies:
        if study.state == StudyState.DONE:
            Mirror(database, study).settle()
            listener.on_status(status(database, study))
    unfinished = [study.name for study in studies if study.state != StudyState.DONE]
    if unfinished and supervise(database, home, unfinished, workers, environment, listener.on_status):
        raise KeyboardInterrupt
