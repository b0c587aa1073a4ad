"""The models of a finished evaluation on a second data set, whose films are nobody's hold-out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.check import refuse_problems
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import VIEWS, Manifest, named_rows
from rust_optuna.data.threads import Progress
from rust_optuna.data.views import mapping_of_films
from rust_optuna.errors import DataError, ManifestError, Problem
from rust_optuna.learn.extraction import extraction_identity, extraction_versions
from rust_optuna.model import files
from rust_optuna.model.files import Model
from rust_optuna.model.films import UnseenFilms
from rust_optuna.model.numbers import Calibration, measure, words
from rust_optuna.model.reports import refuse_other_report, write_report
from rust_optuna.model.scored import ScoredFilms, baselines
from rust_optuna.model.scoring import BEST_FOLD
from rust_optuna.paths import Home

DEVELOPMENT = "out_of_fold"
"""The name of the model directory's array that holds the development films."""


def find_model(home: Home, name: str | None) -> Path:
    """Return the directory of a model.

    Args:
        home: where the models are.
        name: of the model; None for the only one.

    Raises:
        DataError: there is no such model, none at all, or no name was given and there are several.
    """
    names = sorted(folder.parent.name for folder in home.models.glob("[!.]*/model.json"))
    if not names:
        raise DataError(f"There is no model in {home.models} yet: rust-optuna evaluate makes one")
    if name is None and len(names) > 1:
        raise DataError(f"There are several models ({', '.join(names)}): name one with --model")
    if name is not None and name not in names:
        raise DataError(f"There is no model {name!r} in {home.models}; there are: {', '.join(names)}")
    return home.models / (name or names[0])


def find_external(manifest: Manifest, model: Model, index: FilmIndex, progress: Progress | None = None) -> UnseenFilms:
    """Return all films of a manifest, whatever its ``split`` column says.

    Args:
        manifest: of the second data set.
        model: must have seen none of the films, and must read the same cortices off the same views.
        index: where the films are indexed, apart from those that search reads.
        progress: called while films are read.

    Raises:
        ManifestError: a film cannot be read, two rows hold the same film, or the model has seen a film.
        DataError: the manifest's views show other cortices than the model's.
    """
    whole = replace(manifest, films=tuple(replace(film, split="") for film in manifest.films))
    refuse_problems(whole, index, progress)
    _refuse_other_mapping(whole, model)
    hashes = index.add([film.image for film in whole.films])
    rows = {hashes[film.image]: film for film in whole.films}
    problems = []
    for array, part in ((DEVELOPMENT, "development set"), (BEST_FOLD, "hold-out")):
        known = set(_arrays(model, array).content)
        if seen := [film.row for content, film in rows.items() if content in known]:
            where = f"{'is' if len(seen) == 1 else 'are'} in the {part} of {model.card.name}"
            problems.append(Problem(named_rows(seen), where))
    if problems:
        raise ManifestError(str(manifest.path), problems)
    return UnseenFilms.of(rows, index)


def _refuse_other_mapping(manifest: Manifest, model: Model) -> None:
    """Refuse films whose views show other cortices than those of the films that the model was trained on.

    Raises:
        DataError: they do. A cortex that no film is scored for contradicts nothing.
    """
    theirs, ours = mapping_of_films(manifest.films).cortices, model.card.cortices
    if any(set(theirs[view]) - set(ours[view]) for view in VIEWS):
        raise DataError(
            f"{manifest.path} scores {_in_words(theirs)}; {model.card.name} was trained with {_in_words(ours)}"
        )


def _in_words(mapping: Mapping[str, tuple[str, ...]]) -> str:
    return " and ".join(f"{' and '.join(mapping[view]) or 'no'} cortices on {view} films" for view in VIEWS)


def refuse_other_features(model: Model, backbone: BackboneConfiguration) -> None:
    """Refuse a backbone whose features are not those that the model's heads take.

    Raises:
        DataError: the weights or the versions of this machine's libraries are others.
        WeightsError: the weights are missing.
    """
    here = {**extraction_identity(backbone), **extraction_versions()}
    differing = sorted(
        name for name in {*here, *model.card.features} if here.get(name) != model.card.features.get(name)
    )
    if "weights" in differing:
        raise DataError(
            f"The weights {backbone.weights} are not those of {model.card.name}: they are {here['weights']}, and the "
            f"model needs {model.card.features['weights']}. Name the right file with --weights"
        )
    if differing:
        told = ", ".join(f"{name} {here.get(name)} for {model.card.features.get(name)}" for name in differing)
        raise DataError(f"The features of {model.card.name} cannot be computed here, where other versions are: {told}")


@dataclass(frozen=True)
class ExternalEvaluation:
    """A model's numbers on a second data set.

    Args:
        model: its name.
        folder: the report.
        numbers: what ``numbers.json`` holds.
    """

    model: str
    folder: Path
    numbers: Mapping[str, Any]


def meet_external(
    model: Model,
    films: UnseenFilms,
    backbone: BackboneConfiguration,
    home: Home,
    folder: Path,
    *,
    resamples: int = 2000,
    progress: Progress | None = None,
) -> ExternalEvaluation:
    """Score films with the models of an evaluation, and write a report.

    The baselines are those of the model's development set, and so is all calibration.

    Args:
        model: a model directory, loaded.
        films: that the model has not seen.
        backbone: what computes their features.
        home: where the features go.
        folder: the report.
        resamples: of the patients, for the intervals.
        progress: called while features are computed.

    Raises:
        DataError: the backbone's features are not the model's, or the folder holds something else.
    """
    subject = {
        "model": model.card.name,
        "model_sha256": files.directory_sha256(model.folder),
        "films_sha256": hashlib.sha256("\n".join(films.content).encode()).hexdigest(),
    }
    refuse_other_report(folder, subject)
    refuse_other_features(model, backbone)
    features = films.features(backbone, home.external / "features", progress)
    development = _arrays(model, DEVELOPMENT)
    views = [VIEWS[position] for position in development.views]
    frequencies, view_only = baselines(development.labels, views, films.views)
    scored = {
        name: films.scored(scores, frequencies, view_only, model.card.cortices)
        for name, scores in model.scores(features.table).items()
    }
    calibration = Calibration.from_json(files.read_json(model.folder / "calibration.json"))
    numbers: dict[str, Any] = {
        "primary": {"model": BEST_FOLD},
        "external": {name: measure(each, calibration, resamples=resamples) for name, each in scored.items()},
    }
    numbers["words"] = words(numbers["external"][BEST_FOLD])
    write_report(folder, subject, numbers, scored)
    return ExternalEvaluation(model.card.name, folder, {**subject, **numbers})


def _arrays(model: Model, name: str) -> ScoredFilms:
    return ScoredFilms.load(model.folder / "arrays" / f"{name}.npz")
