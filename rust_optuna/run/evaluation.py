"""Evaluating a search on this machine: its best point is cross-validated afresh, and its models meet the hold-out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.config import StudyConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import Film, Manifest, read_manifest
from rust_optuna.data.relocation import relocated
from rust_optuna.errors import DataError, InvalidValueError, OpenedBeforeError, OpenHolesError, StudyError
from rust_optuna.fleet import service as fleet
from rust_optuna.fleet.devices import Device, DeviceChoice
from rust_optuna.fleet.workers import Workers
from rust_optuna.model.evaluation import Evaluation, find_hold_out, meet_hold_out
from rust_optuna.model.films import visit_pseudonyms
from rust_optuna.model.fitted import fitted_models
from rust_optuna.model.openings import Openings, opened_before
from rust_optuna.permissions import user_name
from rust_optuna.processes import GRACE_SECONDS
from rust_optuna.run.local import Listener, build_features, run_workers
from rust_optuna.search.creation import Creation, create_study
from rust_optuna.search.evaluation import evaluation_of, study_to_evaluate
from rust_optuna.search.manifests import known_manifest
from rust_optuna.search.results import is_stale, status
from rust_optuna.search.studies import Study, find_study, load_development, load_studies, load_study
from rust_optuna.storage.database import Database
from rust_optuna.storage.site import Site
from rust_optuna.storage.states import PointState, StudyState
from rust_optuna.study_file import NAME

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """The evaluation that the user asks for.

    Args:
        study: the search to evaluate; None for the last one.
        folds: the number of folds of the fresh cross-validation.
        seeds: the number of heads that are trained for each fold.
        manifest: the manifest of the search's films; None for the one from which it was created on this machine.
        name: the name of the model; None for that of the search.
        again: whether to open the hold-out even if other models have met it.
        record: the folder for the record of the opening; None for that of the manifest.
        threshold: the total from which a fracture counts as united; None for the default of the scale.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.
    """

    study: str | None = None
    folds: int = 10
    seeds: int = 1
    manifest: Path | None = None
    name: str | None = None
    again: bool = False
    record: Path | None = None
    threshold: int | None = None
    data_root: Path | None = None


@dataclass
class EvaluationListener(Listener):
    """The callbacks by which an evaluation reports its progress, in addition to those of a search.

    Args:
        on_extracted: called with the number of hold-out films whose features are computed, and their number in all.
        on_fitted: called with the number of finished epochs of the fit on the whole development set, and their number
            in all.
        on_trained: called once all folds are trained.
    """

    on_extracted: Progress | None = None
    on_fitted: Progress = lambda done, total: None
    on_trained: Callable[[], None] = lambda: None


def evaluate(
    site: Site,
    request: Request,
    choice: DeviceChoice = DeviceChoice(),  # noqa: B008 (frozen)
    listener: EvaluationListener | None = None,
    *,
    grace: float = GRACE_SECONDS,
) -> Evaluation:
    """Evaluate the best hyperparameters of a search.

    Whatever stops an evaluation, the same call goes on where it stopped.

    Args:
        site: the database, home and artifact store.
        request: what to evaluate, and how.
        choice: the devices on which the workers run.
        listener: the callbacks that report progress.
        grace: seconds in which an interrupted worker may finish its fold.

    Raises:
        RustOptunaError: any of this project's errors.
        KeyboardInterrupt: the evaluation was interrupted; its workers are stopped and their folds given back.
    """
    if request.name is not None and not NAME.fullmatch(request.name):
        raise InvalidValueError(
            f"--name {request.name!r} names no model: letters, digits, dots, dashes and underscores (at most 100)"
        )
    listener = listener or EvaluationListener()
    devices = choice.devices()
    with site.open_to_write() as database:
        source = named_search(database, request.study)
        manifest_path = find_manifest(site, request.manifest, source)
        configuration = evaluation_of(database, source, str(manifest_path), folds=request.folds, seeds=request.seeds)
        refuse_stale(database, configuration.name)
        _refuse_other_folds(database, configuration)
        creation = create_study(
            database, configuration, site.home, listener.on_hashed, site.given_artifacts, request.data_root
        )
        study = creation.study
        manifest = read_split(site, manifest_path, request.data_root, listener.on_hashed)
        holdout = find_hold_out(manifest, site.home, _searched(database, source), listener.on_hashed)
        folder = site.absolute(request.record) or manifest_path.parent
        openings = Openings(database, folder / f"{manifest_path.stem}.openings.json")
        openings.refuse_unwritable()
        earlier = openings.of_films(holdout.content)
        if study.state != StudyState.DONE and earlier and not request.again:
            # This is refused now, not after hours of training.
            raise OpenedBeforeError(opened_before(earlier))
        study = train_folds(database, site, creation, devices, request.data_root, listener, grace)
        index = FilmIndex(site.home.film_index)
        models = fitted_models(
            database,
            study,
            site.home,
            site.store(database),
            read=index.read,
            progress=listener.on_extracted,
            on_epoch=listener.on_fitted,
        )
        return meet_hold_out(
            database,
            models,
            holdout,
            visits_of(development_rows(manifest, index)),
            openings,
            site.home,
            name=request.name or source.name,
            asked_by=user_name(os.geteuid()),
            again=request.again,
            threshold=request.threshold,
            progress=listener.on_extracted,
        )


def train_folds(
    database: Database,
    site: Site,
    creation: Creation,
    devices: Sequence[Device],
    data_root: Path | None,
    listener: EvaluationListener,
    grace: float,
) -> Study:
    """Run workers until every fold of an evaluation is trained, and return the study as it then is.

    Args:
        database: the study's.
        site: the home and the artifact store.
        creation: of the study.
        devices: on which the workers run.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.
        listener: the callbacks that report progress.
        grace: seconds in which an interrupted worker may finish its fold.

    Raises:
        OpenHolesError: a fold could not be trained.
        RustOptunaError: any other of this project's errors.
        KeyboardInterrupt: the workers were stopped.
    """
    study = creation.study
    listener.on_created(creation, devices)
    environment = site.environment(database)
    workers = Workers(devices, grace=grace, data_root=data_root)
    fleet.check_writable(site.home)
    if study.state != StudyState.DONE:
        build_features(database, study, site.home, environment, devices[0], data_root)
    run_workers(database, study, site.home, workers, environment, listener)
    study = load_study(database, study.name)
    _refuse_holes(database, study)
    listener.on_trained()
    return study


def named_search(database: Database, name: str | None) -> Study:
    """Return the study that a user names; for None, the search to evaluate by default.

    Raises:
        StudyError: there is no such study, or no such default.
    """
    return study_to_evaluate(load_studies(database)) if name is None else load_study(database, name)


def find_manifest(site: Site, named: Path | None, source: Study) -> Path:
    """Return the manifest that the user names, or else the one from which the search was created.

    Raises:
        DataError: neither is known.
    """
    path = site.absolute(named) or known_manifest(site.home, source.name)
    if path is None:
        raise DataError(
            f"The manifest of {source.name} is not known on this machine: name it with --manifest (the database holds "
            "no paths)"
        )
    return path


def read_split(site: Site, path: Path, data_root: Path | None, progress: Progress | None) -> Manifest:
    """Return a manifest that has been split, with its films looked up below ``data_root`` where they are missing."""
    manifest = read_manifest(path, require_split=True)
    if data_root is None:
        return manifest
    return relocated(manifest, FilmIndex(site.home.film_index), data_root, progress)


def _searched(database: Database, source: Study) -> list[DevelopmentSet]:
    """Return the development sets of a search and of each search that it inherits from, as far as they are known."""
    chain: dict[str, Study] = {}
    study: Study | None = source
    # A study that was deleted and created anew may inherit from one that once inherited from it.
    while study is not None and study.name not in chain:
        chain[study.name] = study
        study = find_study(database, study.source.study) if study.source is not None else None
    return [load_development(database, known) for known in chain.values()]


def refuse_stale(database: Database, name: str) -> None:
    """Refuse to go on with an evaluation of a point that is no longer the best.

    Raises:
        StudyError: the search has another best point by now.
    """
    known = find_study(database, name)
    if known is not None and known.source is not None and is_stale(database, known):
        raise StudyError(
            f"{name} evaluates a former best point of {known.source.study}, which has another one by now. To evaluate "
            f"the new one, run rust-optuna study delete {name}, then this command again"
        )


def _refuse_other_folds(database: Database, configuration: StudyConfiguration) -> None:
    """Refuse to go on with an evaluation that was begun with other folds or seeds.

    Raises:
        StudyError: it was; the message names them.
    """
    known = find_study(database, configuration.name)
    if known is None or known.configuration.search_space == configuration.search_space:
        return
    seeds, folds = (len(known.configuration.search_space[axis].choices) for axis in ("repeat", "fold"))
    raise StudyError(
        f"{known.name} was created with --folds {folds} --seeds {seeds}: name these to go on, or run rust-optuna study "
        f"delete {known.name} to evaluate with others, which leaves the record of the hold-out's openings as it is"
    )


def _refuse_holes(database: Database, study: Study) -> None:
    """Refuse an evaluation in which a fold is missing.

    Raises:
        OpenHolesError: a fold could not be trained.
    """
    holes = status(database, study, foreign=False).counts[PointState.HOLE]
    if holes:
        folds = "1 fold" if holes == 1 else f"{holes} folds"
        raise OpenHolesError(
            f"{folds} of {study.name} could not be trained. See why (rust-optuna study show {study.name}), allow new "
            f"attempts (rust-optuna study retry {study.name} --holes), and run this command again"
        )


def development_rows(manifest: Manifest, index: FilmIndex) -> dict[str, Film]:
    """Return the content hash of each development film, with its row."""
    films = manifest.part("development")
    hashes = index.add([film.image for film in films])
    return {hashes[film.image]: film for film in films}


def visits_of(rows: Mapping[str, Film]) -> dict[str, str]:
    """Return the pseudonym of each film's visit, by the film's content hash."""
    return dict(zip(rows, visit_pseudonyms([*rows], [*rows.values()]), strict=True))
