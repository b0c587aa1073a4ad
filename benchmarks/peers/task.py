"""What every peer has to do: the films, the folds, the design points, and how a point is scored.

The films are SYNTHETIC (``rust-optuna data synthesize``), small and few, and the backbone's weights are random, so
nothing is downloaded: times and counts mean something here, values do not.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.development import DevelopmentSet, development_set
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import LABELS, read_manifest
from rust_optuna.data.radiographs import read_radiograph
from rust_optuna.data.split import split_manifest
from rust_optuna.data.synthetic.draw import synthesize

PATIENTS, CONTRAST, HOLDOUT = 40, 2.0, 0.15
SEED = 1
FOLDS = 3
BATCH_SIZE = 16
DROPOUT_RATE = 0.2
HIDDEN_UNITS = (1024, 512, 256)
WORKERS = 2
BACKBONE = BackboneConfiguration(weights="random", output="mixed2", image_size=75)

SPACE = {"learning_rate": [1e-4, 1e-3, 1e-2, 1e-1], "epsilon": [1e-8, 1e-1]}
QUICK_SPACE = {"learning_rate": [1e-3, 1e-2], "epsilon": [1e-8, 1e-1]}
POINTS = [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]


class Films(NamedTuple):
    """The development films in memory.

    Args:
        images: (films, 75, 75, 3) float32 in [−1, 1].
        labels: (films, 18) float32 of 0 and 1.
        folds: (films,) the fold that each validates.
    """

    images: np.ndarray
    labels: np.ndarray
    folds: np.ndarray


@dataclass(frozen=True)
class Task:
    """The task, on films that `prepare` put into a folder.

    Args:
        folder: where the films are.
        quick: 4 points of 1 epoch instead of 8 of 2.
    """

    folder: Path
    quick: bool = False

    @property
    def epochs(self) -> int:
        """Epochs of a trial."""
        return 1 if self.quick else 2

    @property
    def space(self) -> dict[str, list[float]]:
        """The grid's axes."""
        return QUICK_SPACE if self.quick else SPACE

    @property
    def points(self) -> list[dict[str, float]]:
        """The design: every cell of the grid."""
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())]

    @property
    def manifest(self) -> Path:
        """The manifest of the films."""
        return self.folder / "films" / "manifest.csv"

    def development(self) -> DevelopmentSet:
        """Return the development films, their labels and folds: those that ``rust-optuna search`` makes of them."""
        return development_set(read_manifest(self.manifest), self._index, folds=FOLDS, seed=SEED)

    @cached_property
    def films(self) -> Films:
        """The films, read once a process."""
        development = self.development()
        grey = [
            read_radiograph(self._index.read(film), size=BACKBONE.image_size, resize="stretch")
            for film in development.content
        ]
        images = np.repeat(np.stack(grey)[..., np.newaxis], 3, axis=-1)
        return Films(images, development.labels.astype(np.float32), development.folds)

    @cached_property
    def _index(self) -> FilmIndex:
        return FilmIndex(self.folder / "films.json")

    def published_objective(
        self, params: dict[str, float], on_epoch: Callable[[int, int, float], None] | None = None
    ) -> float:
        """Return a point's value, computed as a researcher would write it in Keras: what all peers but ours run.

        The backbone stands in the model and sees every film in every epoch; each fold builds and compiles its own
        model. Seeds depend on the fold alone, so a point has the same value wherever it is run with as many threads.

        Args:
            params: ``learning_rate`` and ``epsilon``.
            on_epoch: called with fold, epoch (from 1) and average precision after each epoch of each fold; folds run
                one after another, so there is no mean to report before the last.

        Returns:
            The best epoch's mean over the folds of macro average precision.
        """
        curves = [self._fold_curve(params, fold, on_epoch) for fold in range(FOLDS)]
        return float(np.mean(curves, axis=0).max())

    def _fold_curve(
        self, params: dict[str, float], fold: int, on_epoch: Callable[[int, int, float], None] | None
    ) -> list[float]:
        """Train one fold's model and return its average precision after each epoch."""
        from rust_optuna.learn.runtime import load_keras

        keras = load_keras()
        keras.utils.clear_session()
        keras.utils.set_random_seed(SEED + fold)
        images, labels, folds = self.films
        training, validation = folds != fold, folds == fold
        model = _model(keras, params)
        # As in rust_optuna: a model that diverges keeps the scores it had, and one half before there were any.
        scores = np.full(labels[validation].shape, 0.5)
        curve: list[float] = []
        for epoch in range(1, self.epochs + 1):
            model.fit(images[training], labels[training], batch_size=BATCH_SIZE, epochs=1, verbose=0)
            found = model.predict(images[validation], batch_size=BATCH_SIZE, verbose=0)
            if np.isfinite(found).all():
                scores = found
            curve.append(macro_average_precision(labels[validation], scores))
            if on_epoch is not None:
                on_epoch(fold, epoch, curve[-1])
        return curve


def _model(keras: Any, params: dict[str, float]) -> Any:
    """Return the whole model, from films to 18 probabilities, its backbone frozen."""
    from rust_optuna.learn.backbone import build_backbone

    size = BACKBONE.image_size
    layers: list[Any] = [
        keras.Input((size, size, 3)),
        keras.layers.RandomFlip("horizontal_and_vertical"),
        build_backbone(BACKBONE),
        keras.layers.GlobalMaxPooling2D(),
    ]
    for units in HIDDEN_UNITS:
        layers += [keras.layers.Dense(units, activation="relu"), keras.layers.Dropout(DROPOUT_RATE)]
    model = keras.Sequential([*layers, keras.layers.Dense(len(LABELS), activation="sigmoid")])
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=params["learning_rate"], epsilon=params["epsilon"]),
        loss="binary_crossentropy",
    )
    return model


def macro_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return scikit-learn's average precision, macro over the labels that have positives."""
    from sklearn.metrics import average_precision_score

    there = labels.any(axis=0)
    return float(average_precision_score(labels[:, there], scores[:, there], average="macro"))


def prepare(folder: Path) -> None:
    """Draw and split the films, unless they are there: not part of what is timed."""
    task = Task(folder)
    if not task.manifest.is_file():
        synthesize(task.manifest.parent, patients=PATIENTS, seed=SEED, contrast=CONTRAST, processes=1)
        split_manifest(task.manifest, holdout=HOLDOUT, seed=SEED)
    task.development()


def use_threads(count: int) -> None:
    """Give this process, if TensorFlow is not loaded yet, and its children so many threads each."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)


class Arguments(argparse.ArgumentParser):
    """What every peer's command line takes."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description)
        self.add_argument("films", type=Path, help="the folder that `prepare` filled")
        self.add_argument("own", type=Path, help="an empty folder for what this run writes")
        self.add_argument("--quick", action="store_true")
