"""The whole search on this machine: each study in order, created or resumed, run by local worker processes."""

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
    load_parameters,
    load_study,
)
from rust_optuna.storage.artifacts import check_writable
from rust_optuna.storage.database import Database, create_database
from rust_optuna.storage.site import Site
from rust_optuna.storage.states import StudyState


@dataclass
class Listener:
    """What a search tells whoever watches it; the defaults tell nobody.

    Args:
        on_hashed: films hashed while a study is created, and how many there are.
        on_created: a study was created or found, its workers are about to start.
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

    Whatever stops it (an interrupt, a crash, power), the same call goes on where it stopped.

    Args:
        configurations: the studies, in order.
        site: where everything lies; the database is made where it is missing.
        choice: on which devices the workers run.
        listener: told how it goes.
        grace: seconds in which an interrupted worker may finish its point.
        objective: ``MODULE:FUNCTION`` of a stand-in.
        data_root: the folder of the films on this machine; None for where the manifest says.

    Returns:
        The final status of each study.

    Raises:
        RustOptunaError: any of this project's errors; among them that every worker died.
        KeyboardInterrupt: passed on, once the workers are stopped and their points given back.
    """
    listener = listener or Listener()
    # Of the later ones too: they are prepared only once the first has been run, hours from now.
    for configuration in configurations:
        if problems := missing_files(configuration, site.home):
            raise ConfigurationError(configuration.source, problems)
    devices = choice.devices()
    how = Workers(devices, grace=grace, objective=objective, data_root=data_root)
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
                _build_features(database, creation.study, site.home, environment, devices[0], data_root)
            _run_workers(database, creation.study, site.home, how, environment, listener)
            finished.append(status(database, load_study(database, configuration.name)))
        return finished


def _build_features(
    database: Database,
    study: Study,
    home: Home,
    environment: dict[str, str],
    device: Device,
    data_root: Path | None,
) -> None:
    """Compute missing features in a process of its own, on a worker's device, with all cores and a progress bar.

    TensorFlow must not be loaded here: this process stays small and starts the workers.
    """
    contents = load_development(database, study).content
    backbones = cached_backbones(study.configuration, load_parameters(database, study.id), study.inherited, home)
    if all(_is_complete(home, backbone, contents, device) for backbone in backbones):
        return
    # Its progress bar, on stderr, is this search's own; what it would print to a user is not.
    with subprocess.Popen(
        program(features_build(study.name, data_root)),
        env={**os.environ, **environment, **device.alone, PART_OF: "search"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as child:
        try:
            child.wait()
        except BaseException:
            # A scheduler's signal comes to this process alone; waiting for the end is what the `with` block does.
            child.terminate()
            raise
    if child.returncode:
        raise RustOptunaError(f"The features of {study.name} were not built: see above")


def _is_complete(home: Home, backbone: BackboneConfiguration, contents: Sequence[str], device: Device) -> bool:
    """Tell whether the workers will find all features; a GPU's are not known here, nor those of a new processor."""
    cache = FeatureCache.without_tensorflow(home.features, backbone) if device.on_processor else None
    return cache is not None and not cache.missing(contents)


def _run_workers(
    database: Database,
    study: Study,
    home: Home,
    workers: Workers,
    environment: dict[str, str],
    listener: Listener,
) -> None:
    if study.state == StudyState.DONE:
        Mirror(database, study).settle()
        listener.on_status(status(database, study))
    elif supervise(database, home, [study.name], workers, environment, listener.on_status):
        raise KeyboardInterrupt
