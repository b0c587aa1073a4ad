"""Cross-validating the best point of a search with one source (hospital or earlier study) left out at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rust_optuna.config import StudyKind
from rust_optuna.data.development import sources_of
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.model.by_source import SourceEvaluation, measure_by_source
from rust_optuna.model.fitted import fitted_folds, out_of_fold
from rust_optuna.model.reports import refuse_other_report, write_report
from rust_optuna.processes import GRACE_SECONDS
from rust_optuna.run.evaluation import (
    EvaluationListener,
    development_rows,
    find_manifest,
    named_search,
    read_split,
    refuse_stale,
    train_folds,
    visits_of,
)
from rust_optuna.search.creation import create_study
from rust_optuna.search.evaluation import evaluation_of
from rust_optuna.search.studies import load_development
from rust_optuna.storage.site import Site


@dataclass(frozen=True)
class SourcesRequest:
    """The cross-validation by source that the user asks for.

    Args:
        study: the search; None for the last one.
        manifest: the manifest of the search's films; None for the one from which it was created on this machine.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.
    """

    study: str | None = None
    manifest: Path | None = None
    data_root: Path | None = None


def evaluate_by_source(
    site: Site,
    request: SourcesRequest,
    choice: DeviceChoice = DeviceChoice(),  # noqa: B008 (frozen)
    listener: EvaluationListener | None = None,
    *,
    grace: float = GRACE_SECONDS,
) -> SourceEvaluation:
    """Score the development films of each source by a head that was trained on those of all other sources.

    Nothing of the hold-out is scored. Whatever stops the evaluation, the same call goes on where it stopped.

    Args:
        site: the database, home and artifact store.
        request: what to evaluate.
        choice: the devices on which the workers run.
        listener: the callbacks that report progress.
        grace: seconds in which an interrupted worker may finish its fold.

    Raises:
        RustOptunaError: any of this project's errors.
        KeyboardInterrupt: the evaluation was interrupted; its workers are stopped and their folds given back.
    """
    listener = listener or EvaluationListener()
    devices = choice.devices()
    with site.open_to_write() as database:
        source = named_search(database, request.study)
        path = find_manifest(site, request.manifest, source)
        manifest = read_split(site, path, request.data_root, listener.on_hashed)
        folds = len(sources_of(manifest))
        kind = StudyKind.SOURCES
        configuration = evaluation_of(database, source, str(path), folds=folds, seeds=1, kind=kind)
        refuse_stale(database, configuration.name)
        subject = {"study": source.name, "evaluation": configuration.name}
        folder = site.home.reports / configuration.name
        refuse_other_report(folder, subject)
        creation = create_study(
            database, configuration, site.home, listener.on_hashed, site.given_artifacts, request.data_root
        )
        study = train_folds(database, site, creation, devices, request.data_root, listener, grace)
        points, fitted = fitted_folds(database, study, site.store(database))
        rows = development_rows(manifest, FilmIndex(site.home.film_index))
        sources = {content: film.source for content, film in rows.items()}
        films = out_of_fold(load_development(database, study), points, fitted, visits_of(rows), sources)
    numbers = {"epochs": study.configuration.fixed["epochs"], **measure_by_source(films)}
    write_report(folder, subject, numbers, {"out_of_fold": films})
    return SourceEvaluation(folder, {**subject, **numbers})
