"""Scoring a second data set with the models of a finished evaluation: no workers, no opening, no row in a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import read_manifest
from rust_optuna.data.relocation import relocated
from rust_optuna.errors import MissingWeightsError, NoDatabaseError
from rust_optuna.learn.weights import NAMED
from rust_optuna.model import files
from rust_optuna.model.external import ExternalEvaluation, find_external, find_model, meet_external
from rust_optuna.model.files import Model
from rust_optuna.search.studies import find_study
from rust_optuna.storage.site import Site

Progress = Callable[[int, int], None]


def evaluate_external(
    site: Site,
    manifest: Path,
    *,
    model: str | None = None,
    weights: Path | None = None,
    data_root: Path | None = None,
    on_read: Progress | None = None,
    on_extracted: Progress | None = None,
) -> ExternalEvaluation:
    """Score all films of a manifest with the models of a finished evaluation.

    Args:
        site: the home of the model and of the report; the database, if there is one, knows the weights file.
        manifest: the manifest of the second data set.
        model: the name of the model directory; None for the only one.
        weights: the weights file of the backbone; None for the one that the evaluation used.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.
        on_read: called with the number of films read, and their number in all.
        on_extracted: called with the number of films whose features are computed, and their number in all.

    Raises:
        RustOptunaError: any of this project's errors.
    """
    loaded = files.load_model(find_model(site.home, model))
    backbone = _backbone(site, loaded, weights)
    path = site.home.resolve(manifest)
    films, index = read_manifest(path), FilmIndex(site.home.external / "films.json")
    if data_root is not None:
        films = relocated(films, index, data_root, on_read)
    unseen = find_external(films, loaded, index, on_read)
    folder = site.home.reports / f"{loaded.folder.name}-external-{path.stem}"
    return meet_external(loaded, unseen, backbone, site.home, folder, progress=on_extracted)


def _backbone(site: Site, model: Model, weights: Path | None) -> BackboneConfiguration:
    """Return the backbone of a model with its weights' whole path, which the model directory does not hold.

    Raises:
        MissingWeightsError: nothing says where the weights file is.
    """
    backbone = model.card.backbone
    if weights is not None:
        return replace(backbone, weights=str(site.home.resolve(weights)))
    if backbone.weights in NAMED:
        return backbone
    evaluation = files.read_json(model.folder / "provenance.json")["evaluation"]
    try:
        with site.open_to_read() as database:
            study = find_study(database, evaluation)
    except NoDatabaseError:
        study = None
    if study is None:
        raise MissingWeightsError(
            f"No database here knows where {backbone.weights}, the weights file of {model.card.name}, is: name it with "
            "--weights"
        )
    return study.trial_configuration({}, site.home).backbone
