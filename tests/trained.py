"""Real trials, watched: a study file becomes a study, its point runs through the objective, and what trained is kept.

Beside it stands what should have trained, computed otherwise: films read with Pillow, features by an ordinary Keras
model pooled with NumPy, steps of Adam by hand in float64.
"""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rust_optuna.config import KEYS
from rust_optuna.data.manifest import read_manifest
from rust_optuna.learn.runtime import load_keras
from rust_optuna.paths import Home
from rust_optuna.search.creation import create_study
from rust_optuna.search.ledger import Claim, Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import Study, load_development, load_parameters
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import Database
from rust_optuna.study_file import read_study_file
from rust_optuna.worker.objective import CrossValidationObjective, Outcome
from tests.studies import write_study

BETA_1, BETA_2 = 0.9, 0.999


@dataclass(frozen=True)
class Epoch:
    """What one call of the compiled program started from, was given, and left.

    Args:
        before: the weights before the first step.
        first: Adam's first moments after the first step; before any step they are zero.
        after: the weights in the end.
        steps: optimizer steps that were taken.
        features: (rows, width) float32, as gathered, in order.
        targets: (rows, 18) float32.
    """

    before: list[np.ndarray]
    first: list[np.ndarray]
    after: list[np.ndarray]
    steps: int
    features: np.ndarray
    targets: np.ndarray

    @property
    def gradients(self) -> list[np.ndarray]:
        """The first step's gradients, where it is the first of all."""
        return [moment / (1 - BETA_1) for moment in self.first]


@dataclass
class Watch:
    """What was seen while trials ran.

    Args:
        epochs: for each seed of a fold, the program's calls in order: one an epoch, or one a batch of live features.
        extracted: films that went through the backbone.
    """

    epochs: dict[int, list[Epoch]] = field(default_factory=dict)
    extracted: int = 0


@contextmanager
def watching() -> Iterator[Watch]:
    """See what the program trains and the backbone extracts.

    Each call's first batch is trained by itself, for its gradients; the program promises the same bits.
    """
    from rust_optuna.learn import program
    from rust_optuna.learn.extraction import Extractor

    seen, lock = Watch(), threading.Lock()
    train, extract = program.train, Extractor.extract

    def watched(state, settings, table, rows, targets, batch_size, loss=0.0, *more, **others):
        features = table.numpy()[rows]
        before, already = [each.numpy().copy() for each in state.weights], int(state.steps.numpy())
        done = train(state, settings, table, rows[:batch_size], targets[:batch_size], batch_size, loss, *more, **others)
        first = [each.numpy().copy() for each in state.first_moments]
        if len(rows) > batch_size:
            rest = slice(batch_size, None)
            then = train(state, settings, table, rows[rest], targets[rest], batch_size, done.loss, *more, **others)
            done = program.Progress(then.loss, done.steps + then.steps, done.first_batch)
        after = [each.numpy().copy() for each in state.weights]
        steps = int(state.steps.numpy()) - already
        with lock:
            calls = seen.epochs.setdefault(int(settings.seed.numpy()), [])
            calls.append(Epoch(before, first, after, steps, features, np.asarray(targets)))
        return done

    def counted(self, images, *given, **named):
        with lock:
            seen.extracted += len(images)
        return extract(self, images, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "train", watched)
        patch.setattr(Extractor, "extract", counted)
        yield seen


@dataclass(frozen=True)
class Trained:
    """A trial that ran.

    Args:
        values: a value for every trial key, as the study file says them.
        study: its study.
        claim: its point.
        outcome: what the objective returned.
        curve: what was reported after each epoch.
        folds: for each fold, what was trained.
        extracted: films that went through the backbone while it trained.
        development: films, labels and folds.
    """

    values: Mapping[str, Any]
    study: Study
    claim: Claim
    outcome: Outcome
    curve: Sequence[float]
    folds: Sequence[Sequence[Epoch]]
    extracted: int
    development: Any


def document(name: str, values: Mapping[str, Any], searched: Sequence[str], **changes: Any) -> dict[str, Any]:
    """Return a study file's contents: a grid of one cell over the keys ``searched``, and all others fixed."""
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    sections: dict[str, dict[str, Any]] = {"fixed": {}, "model": {}, "cross_validation": {"folds": 3, "seed": 5}}
    for key, value in listed.items():
        if key not in searched:
            sections[KEYS[key].section or "fixed"][key] = value
    return {
        "name": name,
        "manifest": "manifest.csv",
        "sampler": {"type": "grid", "seed": 1},
        "search_space": {key: [listed[key]] for key in searched},
        **sections,
        **changes,
    }


def run_trial(database: Database, home: Home, contents: Mapping[str, Any], values: Mapping[str, Any]) -> Trained:
    """Write a study file, create its study and run one of its points, as a worker would.

    Args:
        database: where the study goes.
        home: holds the manifest.
        contents: the study file's. A study that exists is gone on with.
        values: what a reader of the file would expect of the point.
    """
    study = create_study(database, read_study_file(write_study(home, contents)), home).study
    development, store = load_development(database, study), open_store(database.artifacts(), home)
    objective = CrossValidationObjective(study, development, home, store)
    objective.prepare(load_parameters(database, study.id))
    ledger, mirror = Ledger(database), Mirror(database, study)
    claim = ledger.claim([study.id], "ann")
    assert claim is not None
    curve: list[float] = []
    with watching() as seen:
        outcome = objective(claim, mirror.start(claim), lambda epoch, value: curve.append(value), lambda: None)
    ledger.finish(claim, "complete", outcome.value, outcome.report, outcome.artifact)
    seeds = outcome.report.seeds.folds
    assert sorted(seen.epochs) == sorted(seeds)
    folds = [seen.epochs[seed] for seed in seeds]
    return Trained(values, study, claim, outcome, curve, folds, seen.extracted, development)


class Reference:
    """The features of a home's films, computed without this project: Pillow, an ordinary Keras model, and NumPy.

    Args:
        home: holds the manifest.
    """

    def __init__(self, home: Home) -> None:
        keras = load_keras()
        self.model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(None, None, 3))
        generator = np.random.default_rng(11)
        self.convolutions = sorted(
            (layer for layer in self.model.layers if isinstance(layer, keras.layers.Conv2D)),
            key=lambda layer: int((re.search(r"\d+$", layer.name.removeprefix("conv2d")) or ["0"])[0]),
        )
        for layer in self.convolutions:
            layer.kernel.assign(generator.normal(0, np.sqrt(2 / np.prod(layer.kernel.shape[:-1])), layer.kernel.shape))
        self.in_file = [layer.kernel.numpy() for layer in self.convolutions]
        paths = [film.image for film in read_manifest(home.root / "manifest.csv").films]
        self.films = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in paths}

    def save_weights(self, path: Path) -> None:
        """Write the weights that `features` takes wherever they are not to be random: nothing else has them."""
        for layer, kernel in zip(self.convolutions, self.in_file, strict=True):
            layer.kernel.assign(kernel)
        self.model.save_weights(path)

    def features(self, contents: Sequence[str], values: Mapping[str, Any]) -> np.ndarray:
        """Return the features of films in all four flips, (films, 4, width), always in float32."""
        named = ("weights", "weights_seed", "output", "pooling", "image_size", "resize", "bits")
        return self._features(tuple(contents), *(values[name] for name in named))

    @functools.cache  # noqa: B019 (lives as long as the tests of one module)
    def _features(self, contents, weights, weights_seed, output, pooling, image_size, resize, bits) -> np.ndarray:
        keras = load_keras()
        cut = keras.Model(self.model.input, self.model.get_layer(output).output)
        generator = np.random.default_rng(weights_seed)
        # In the order of creation, of which a cut has the beginning.
        for layer, kernel in zip(self.convolutions[: self._convolutions(cut)], self.in_file, strict=False):
            shape = kernel.shape
            if weights == "random":
                kernel = generator.standard_normal(shape, dtype=np.float32) * np.sqrt(2 / np.prod(shape[:-1]))
            layer.kernel.assign(kernel)
        grey = np.stack([self._read(self.films[content], image_size, resize, bits) for content in contents])
        # By bits: 1 mirrors left and right, 2 top and bottom.
        flips = [grey, grey[:, :, ::-1], grey[:, ::-1], grey[:, ::-1, ::-1]]
        colours = np.repeat(np.concatenate(flips)[..., None], 3, axis=-1)
        maps = np.asarray(cut(colours, training=False))
        assert maps.shape[1] > 1, "of a map of one place, mean and maximum are equal"
        pooled = maps.max(axis=(1, 2)) if pooling == "max" else maps.mean(axis=(1, 2))
        return pooled.reshape(4, len(contents), -1).swapaxes(0, 1)

    @staticmethod
    def _convolutions(model) -> int:
        return sum(isinstance(layer, load_keras().layers.Conv2D) for layer in model.layers)

    @staticmethod
    def _read(path: Path, size: int, resize: str, bits: int) -> np.ndarray:
        levels = np.asarray(Image.open(path))
        film = Image.fromarray(levels.astype(np.float32) / (2**bits - 1 if levels.dtype == np.uint16 else 255))
        scale = size / max(film.size)
        width, height = (size, size) if resize == "stretch" else (round(side * scale) for side in film.size)
        black = Image.new("F", (size, size))
        small = film.resize((width, height), Image.Resampling.BILINEAR)
        black.paste(small, ((size - width) // 2, (size - height) // 2))
        return np.asarray(black) * 2 - 1


def gradients_by_hand(
    weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, masks: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Return the gradients of the mean binary cross-entropy, in float64.

    Args:
        weights: kernel, bias, kernel, bias, ….
        x: (films, width).
        y: (films, labels).
        masks: what each hidden layer's outputs are multiplied by; nothing if not given.
    """
    kernels, biases = weights[0::2], weights[1::2]
    inputs, factors = [x.astype(np.float64)], []
    for layer, (kernel, bias) in enumerate(zip(kernels[:-1], biases[:-1], strict=True)):
        before = inputs[-1] @ kernel.astype(np.float64) + bias
        factors.append((before > 0) * (masks[layer] if masks else 1.0))
        inputs.append(before * factors[-1])
    logits = inputs[-1] @ kernels[-1].astype(np.float64) + biases[-1]
    delta = (1 / (1 + np.exp(-logits)) - y) / y.size
    gradients: list[np.ndarray] = []
    for layer in reversed(range(len(kernels))):
        gradients = [inputs[layer].T @ delta, delta.sum(axis=0), *gradients]
        if layer:
            delta = (delta @ kernels[layer].T.astype(np.float64)) * factors[layer - 1]
    return gradients


def epoch_by_hand(
    weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, batch_size: int, learning_rate: float, epsilon: float
) -> list[np.ndarray]:
    """Return the weights after an epoch of Adam without dropout, in float64, from moments of zero.

    Kingma and Ba 2015 (arXiv:1412.6980), the form before its section 2.1: α·√(1−β₂ᵗ)/(1−β₁ᵗ) · m/(√v + ε).
    """
    new = [array.astype(np.float64) for array in weights]
    m, v = ([np.zeros_like(array) for array in new] for _ in range(2))
    for step, start in enumerate(range(0, len(x), batch_size), start=1):
        batch = slice(start, start + batch_size)
        rate = learning_rate * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
        for i, gradient in enumerate(gradients_by_hand(new, x[batch], y[batch])):
            m[i] = BETA_1 * m[i] + (1 - BETA_1) * gradient
            v[i] = BETA_2 * v[i] + (1 - BETA_2) * gradient**2
            new[i] = new[i] - rate * m[i] / (np.sqrt(v[i]) + epsilon)
    return new


def dropout_masks(epoch: Epoch, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return, of a first step on one film, which units each hidden layer kept, and which had anything to drop.

    A hidden unit that was dropped has no part in the next kernel's gradient: its row there is zero. So has one that
    ReLU had closed, which is known only by computing it.

    Args:
        epoch: its first batch is one film.
        x: (1, width), what entered the head.
    """
    kept, open_units, inputs = [], [], x.astype(np.float64)
    hidden = len(epoch.before) // 2 - 1
    for layer in range(hidden):
        # Biases are zero before the first step, so the sign does not depend on the factor of those kept.
        before = inputs @ epoch.before[2 * layer]
        kept.append((epoch.gradients[2 * layer + 2] != 0).any(axis=1))
        open_units.append(before[0] > 0)
        inputs = np.maximum(before, 0) * kept[-1]
    return kept, open_units
