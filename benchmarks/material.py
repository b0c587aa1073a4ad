"""A development set and features of the published size, made up where speed alone counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from rust_optuna.config import BackboneConfiguration, TrialConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.manifest import LABELS, VIEWS
from rust_optuna.data.synthetic.cohort import SyntheticFilm
from rust_optuna.learn.features import Features
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.paths import Home
from rust_optuna.search import creation, preparation
from rust_optuna.storage.database import Database
from rust_optuna.study_file import parse_study

FILMS = 2497
"""Development films of the published set: 2,936 less a hold-out of 15% of the patients."""
WIDTH = 2048
FOLDS = 6
EPOCHS = 20
FLOP_A_FILM = 12.4e6
"""Of training the published head on one film: three products a layer, but two for the first, which needs no gradient
of its input."""
CORTICES = {0: ("medial", "lateral"), 1: ("anterior", "posterior")}


def development(films: int = FILMS, folds: int = FOLDS) -> DevelopmentSet:
    """Return made-up films, each of its own patient."""
    generator = np.random.default_rng(0)
    labels = np.zeros((films, len(LABELS)), np.uint8)
    for film in range(films):
        view = film % 2
        labels[film, view] = 1
        for cortex in CORTICES[view]:
            labels[film, LABELS.index(f"{cortex}_{generator.integers(1, 5)}")] = 1
    return DevelopmentSet(
        content=tuple(sorted(hashlib.sha256(str(film).encode()).hexdigest() for film in range(films))),
        patients=tuple(f"patient {film}" for film in range(films)),
        views=tuple(VIEWS[film % 2] for film in range(films)),
        labels=labels,
        folds=generator.permutation(films) % folds,
    )


def cohort_labels(cohort: Sequence[SyntheticFilm]) -> np.ndarray:
    """Return the labels of films of made-up patients, (films, 18) uint8."""
    labels = np.zeros((len(cohort), len(LABELS)), np.uint8)
    for row, film in enumerate(cohort):
        labels[row, VIEWS.index(film.view)] = 1
        for cortex, score in film.readable.items():
            labels[row, LABELS.index(f"{cortex}_{score}")] = 1
    return labels


def features(films: DevelopmentSet, width: int = WIDTH) -> CachedFeatures:
    """Return made-up features from which the labels can be learned, with difficulty: as large as real ones."""
    generator = np.random.default_rng(1)
    directions = generator.standard_normal((len(LABELS), width)).astype(np.float32)
    signal = films.labels.astype(np.float32) @ directions * 0.06
    noise = generator.standard_normal((len(films.content), 4, width), dtype=np.float32)
    return CachedFeatures(Features(np.maximum(signal[:, None] + noise, 0) * 0.4, "made up"))


def trial(batch_size: int, **changes: object) -> TrialConfiguration:
    """Return a trial with the published settings."""
    values = {"dropout_rate": 0.25, "learning_rate": 1e-3, "epsilon": 1e-7, **changes}
    return TrialConfiguration(batch_size=batch_size, backbone=BackboneConfiguration("random"), **values)  # type: ignore[arg-type]


def create_study(database: Database, films: DevelopmentSet, document: dict[str, Any], home: Home) -> None:
    """Enter a study of made-up films, as one of a manifest is."""
    film = SimpleNamespace(image=Path(__file__))  # one that is there
    manifest = SimpleNamespace(path=Path("none"), films=(film,))
    configuration = parse_study({**document, "manifest": "."}, "benchmark")
    with (
        patch.multiple(
            preparation,
            read_manifest=lambda *_, **__: manifest,
            development_set=lambda *_, **__: films,
            missing_files=lambda *_, **__: [],
            refuse_problems=lambda *_: None,
            too_many_folds=lambda *_: [],
            undecided=lambda _: [],
        ),
        patch.object(creation, "remember_manifest", lambda *_: None),
    ):
        creation.create_study(database, configuration, home)
