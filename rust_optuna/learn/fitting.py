"""A final model's heads: each trained for a number of epochs that was fixed beforehand, and kept.

A trial of a search keeps the epoch that scored best. A final model may not: its epochs are those that the search chose,
so that the score of a fold is no selection score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rust_optuna.config import TrialConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.manifest import LABELS
from rust_optuna.data.metrics import macro_average_precision
from rust_optuna.learn import program
from rust_optuna.learn.head import Standardisation
from rust_optuna.learn.runtime import load_tensorflow
from rust_optuna.learn.sources import FeatureSource
from rust_optuna.learn.training import FoldTrainer
from rust_optuna.paths import atomic_write

ROWS_AT_ONCE = 64
"""How many rows of features a head scores at a time, the last ones padded.

The shape of a matrix product may decide how it is rounded. With one shape only, the score of a film does not depend on
which films are scored beside it.
"""


@dataclass(frozen=True, eq=False)
class Head:
    """A trained head: what a model directory keeps of it.

    Args:
        weights: kernel, bias, kernel, bias, …, float32.
        standardisation: of the features; None for features as they are.
        precision: of the matrix products, ``float32`` or ``bfloat16``.
    """

    weights: tuple[np.ndarray, ...]
    standardisation: Standardisation | None
    precision: str

    @property
    def sha256(self) -> str:
        """A checksum of everything that its scores depend on."""
        digest = hashlib.sha256(self.precision.encode())
        arrays = list(self.weights)
        if self.standardisation is not None:
            arrays += [self.standardisation.mean, self.standardisation.scale]
        for array in arrays:
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()

    @property
    def width(self) -> int:
        """How many features of a film it takes."""
        return int(self.weights[0].shape[0])

    @property
    def hidden_units(self) -> tuple[int, ...]:
        """The units of its hidden layers."""
        return tuple(int(bias.shape[0]) for bias in self.weights[1:-1:2])

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the scores of films, by the program that trained the head.

        Args:
            features: (films, width) float32.

        Returns:
            (films, 18) float32 probabilities. Those of a film are the same to the bit whichever films are beside it.
        """
        tf = load_tensorflow()
        state = program.new_state(self.weights)
        settings = program.new_settings(0.0, 1.0, 0.0, 0, self.standardisation, self.precision)
        scores = np.empty((len(features), len(LABELS)), dtype=np.float32)
        for start in range(0, len(features), ROWS_AT_ONCE):
            rows = features[start : start + ROWS_AT_ONCE]
            padded = np.zeros((ROWS_AT_ONCE, features.shape[1]), dtype=np.float32)
            padded[: len(rows)] = rows
            scores[start : start + len(rows)] = program.predict(state, settings, tf.constant(padded))[: len(rows)]
        return scores


@dataclass(frozen=True, eq=False)
class FittedFold:
    """One fold of a final model.

    Args:
        curve: after each epoch, the average precision on the films that were left out.
        films: (films,) content hashes of those films, ``U64``.
        labels: (films, 18) uint8, theirs.
        scores: (films, 18) float32, by the head as it is kept.
        head: as it stood after the last epoch.
    """

    curve: tuple[float, ...]
    films: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    head: Head

    @property
    def value(self) -> float:
        """Average precision, macro over the labels that have positives, after the last epoch."""
        return macro_average_precision(self.labels, self.scores)


def fit_fold(
    development: DevelopmentSet,
    source: FeatureSource,
    trial: TrialConfiguration,
    *,
    fold: int,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, value: None,
    on_advance: Callable[[], None] = lambda: None,
    micro_batch: int | None = None,
) -> FittedFold:
    """Train a head on all folds but one, for as many epochs as the trial says, and score the films of that fold.

    Args:
        development: films, labels and folds.
        source: the features of those films, in their order.
        trial: the hyperparameters.
        fold: the one that is left out.
        seed: of this head's training.
        on_epoch: called after each epoch with its number, from 1, and the average precision on the films left out.
        on_advance: called whenever training got on within an epoch.
        micro_batch: the most films computed at a time, where memory is short; None for whole batches.

    Raises:
        ValueError: training diverged, or the fold leaves nothing to train on.
    """
    left_out = np.flatnonzero(development.folds == fold)
    training = np.flatnonzero(development.folds != fold)
    labels = development.labels[left_out]
    trainer = FoldTrainer(
        source, development.labels, training, trial, seed, micro_batch=micro_batch, on_advance=on_advance
    )
    curve = []
    for epoch in range(1, trial.epochs + 1):
        _train(trainer, epoch)
        scores = trainer.predict(left_out)
        _refuse_divergence(np.isfinite(scores).all(), epoch)
        curve.append(macro_average_precision(labels, scores))
        on_advance()
        on_epoch(epoch, curve[-1])
    head = _head(trainer, source, training, trial)
    films = np.array(development.content, dtype="U64")[left_out]
    return FittedFold(tuple(curve), films, labels, head.scores(source.table()[left_out, 0]), head)


def fit_whole(
    development: DevelopmentSet,
    source: FeatureSource,
    trial: TrialConfiguration,
    *,
    seed: int,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Head:
    """Train a head on the whole development set, for as many epochs as the trial says.

    Raises:
        ValueError: training diverged.
    """
    films = np.arange(len(development.content))
    trainer = FoldTrainer(source, development.labels, films, trial, seed)
    for epoch in range(1, trial.epochs + 1):
        _train(trainer, epoch)
        on_epoch(epoch)
    return _head(trainer, source, films, trial)


def _train(trainer: FoldTrainer, epoch: int) -> None:
    _refuse_divergence(np.isfinite(trainer.train_epoch(epoch)), epoch)


def _refuse_divergence(finite: bool | np.bool_, epoch: int) -> None:
    if not finite:
        raise ValueError(
            f"training diverged in epoch {epoch}: the loss, the scores or the weights are no longer finite numbers"
        )


def _head(trainer: FoldTrainer, source: FeatureSource, films: np.ndarray, trial: TrialConfiguration) -> Head:
    _refuse_divergence(trainer.finite, trial.epochs)
    standardisation = source.standardisation(films) if trial.standardize else None
    return Head(tuple(trainer.weights), standardisation, trial.training_precision)


def save_fold(path: Path, result: FittedFold) -> None:
    """Write a fold with its head as ``.npz``, whole or not at all; `numpy.load` reads it without pickle."""
    _save(
        path,
        {
            "curve": np.array(result.curve),
            "film": result.films,
            "labels": result.labels,
            "scores": result.scores,
            **_arrays(result.head),
        },
    )


def load_fold(path: Path) -> FittedFold:
    """Read what `save_fold` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return FittedFold(
            curve=tuple(arrays["curve"].tolist()),
            films=arrays["film"],
            labels=arrays["labels"],
            scores=arrays["scores"],
            head=_head_of(arrays),
        )


def save_head(path: Path, head: Head) -> None:
    """Write a head alone, as `save_fold` does."""
    _save(path, _arrays(head))


def load_head(path: Path) -> Head:
    """Read what `save_head` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return _head_of(arrays)


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _arrays(head: Head) -> dict[str, np.ndarray]:
    arrays = {f"weights_{number}": array for number, array in enumerate(head.weights)}
    if head.standardisation is not None:
        arrays |= {"mean": head.standardisation.mean, "scale": head.standardisation.scale}
    return {**arrays, "precision": np.array(head.precision)}


def _head_of(arrays: Mapping[str, np.ndarray]) -> Head:
    count = sum(name.startswith("weights_") for name in arrays)
    return Head(
        weights=tuple(arrays[f"weights_{number}"] for number in range(count)),
        standardisation=Standardisation(arrays["mean"], arrays["scale"]) if "mean" in arrays else None,
        precision=str(arrays["precision"]),
    )
