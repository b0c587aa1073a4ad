"""Computing the features of a study ahead of its workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.config import BackboneConfiguration, StudyKind
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.learn.features import FeatureCache
from rust_optuna.paths import Home
from rust_optuna.search.design import choices_of_features
from rust_optuna.search.pins import FeaturePins
from rust_optuna.search.preparation import prepare
from rust_optuna.search.studies import cached_backbones, load_development, load_study, parameters_to_prepare
from rust_optuna.storage.database import Database
from rust_optuna.study_file import read_study_file
from rust_optuna.worker.building import fill_cache
from rust_optuna.worker.objective import check_weights, cross_validation_runtime
from rust_optuna.worker.serving import check_runtime

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class NeededFeatures:
    """The films and backbones whose features a study needs.

    Args:
        contents: the content hashes of the films.
        backbones: the backbones.
        pins: the features that the study's workers have pinned; None for a study that does not exist yet.
        compared: whether a study file describes a configuration to compare with others.
    """

    contents: Sequence[str]
    backbones: Sequence[BackboneConfiguration]
    pins: FeaturePins | None = None
    compared: bool = False


def needed_by_file(
    path: Path,
    home: Home,
    open_database: Callable[[], Database],
    progress: Progress | None = None,
    data_root: Path | None = None,
) -> NeededFeatures:
    """Return the features that the study in a study file will need.

    Args:
        path: the study file.
        home: the root of relative paths.
        open_database: opens the database; called only if the study inherits from another one.
        progress: called while films are hashed.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.

    Raises:
        ConfigurationError: the study file breaks its rules.
        ManifestError: the manifest breaks its rules, or ``data check`` finds problems in it.
        StudyError: the study that it inherits from does not exist, is not done, or has holes that nobody accepted.
    """
    configuration = read_study_file(path)
    with open_database() if configuration.from_best_of else nullcontext() as database:
        study = prepare(configuration, home, database, progress=progress, data_root=data_root)
    points = choices_of_features(configuration) if configuration.adaptive else study.points
    return NeededFeatures(
        study.development.content,
        cached_backbones(configuration, points, study.inherited, home),
        compared=configuration.kind == StudyKind.COMPARISON,
    )


def needed_by_study(database: Database, name: str, home: Home) -> NeededFeatures:
    """Return the features that a study in the database needs.

    Raises:
        StudyError: there is no such study.
        FingerprintError: a worker with this installation or these weights could not serve the study.
        WeightsError: weights are missing.
    """
    study = load_study(database, name)
    check_runtime(study, cross_validation_runtime(end_to_end=study.end_to_end))
    points = parameters_to_prepare(database, study)
    backbones = cached_backbones(study.configuration, points, study.inherited, home)
    for backbone in backbones:
        check_weights(study, backbone)
    return NeededFeatures(load_development(database, study).content, backbones, FeaturePins(database, study))


def build_features(
    needed: NeededFeatures,
    home: Home,
    progress: Progress | None = None,
    *,
    data_root: Path | None = None,
    on_hashed: Progress | None = None,
) -> list[Path]:
    """Compute the missing features; return the folder of each backbone's features.

    Args:
        needed: the films and backbones.
        home: the folder of the feature cache and the film index.
        progress: called as the features of films are computed.
        data_root: the folder in which to look for films that are not where the film index says; None to look nowhere.
        on_hashed: called as files in that folder are hashed.

    Raises:
        FingerprintError: features computed here are not those of the study's workers; none were added to the cache.
        DataError: a film is not on this machine, or cannot be read.
        WeightsError: weights are missing or do not fit.
    """
    index = FilmIndex(home.film_index)
    folders = []
    for backbone in needed.backbones:
        cache = FeatureCache(home.features, backbone)
        with index.naming():
            fill_cache(
                cache,
                needed.contents,
                index,
                pins=needed.pins,
                data_root=data_root,
                progress=progress,
                on_hashed=on_hashed,
            )
        folders.append(cache.folder)
    return folders
