"""One network, trained end to end, epoch by epoch, on one fold's training films."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np

from rust_optuna.config import KEYS, TrialConfiguration
from rust_optuna.data.manifest import LABELS
from rust_optuna.learn import program
from rust_optuna.learn.end_to_end_program import MicroBatch, new_state, program_of
from rust_optuna.learn.inception import Inception
from rust_optuna.learn.lenet import UNITS, LeNet
from rust_optuna.learn.network import Network
from rust_optuna.learn.pipeline import prefetched
from rust_optuna.learn.pixels import Pixels
from rust_optuna.learn.training import EpochTrainer

END_TO_END_VERSION = 1
"""The version of this training's arithmetic. Raise it with every change that may change a study's values."""


INCEPTION_WEIGHTS = 24_600_000
"""The weights of InceptionV3 with the default head."""
INCEPTION_BYTES_A_PIXEL, LENET_BYTES_A_PIXEL = 1_200, 200
"""The memory of a micro-batch while its gradient is computed, in bytes per pixel of its films, as measured at 299 × 299
in float32."""


def network_of(trial: TrialConfiguration) -> Network:
    """Return the network that a trial trains."""
    backbone = trial.backbone
    if trial.architecture == "lenet_1998":
        return LeNet(backbone.image_size, trial.training_precision)
    defaults = {name: KEYS[name].default for name in ("weights_seed", "resize", "bits")}
    # Of these, nothing in the network depends on the first, and only the films depend on the others.
    trained = replace(backbone, extraction_precision=trial.training_precision, **defaults)  # type: ignore[arg-type]
    return Inception(trained, trial.hidden_units)


def check_start(trial: TrialConfiguration) -> None:
    """Load the weights that a trial starts from, if it starts from a file.

    Raises:
        WeightsError: they are missing or do not fit.
    """
    if trial.architecture == "inception_v3" and trial.backbone.weights != "random":
        network_of(trial).start(seed=0)


def network_bytes(trial: TrialConfiguration) -> int:
    """Return the approximate memory of one fold while it trains, in bytes.

    Weights, their two moments and gradients take 16 bytes a weight: 1.4 GB for LeNet-1998 at 299 × 299 pixels, 0.4 GB
    for InceptionV3. A micro-batch that is not a whole batch takes 4 more, and what is kept of each film for the
    gradient comes on top.
    """
    size, films = trial.backbone.image_size, min(trial.micro_batch, trial.batch_size)
    copies = 5 if trial.micro_batch < trial.batch_size else 4
    if trial.architecture == "lenet_1998":
        weights, a_pixel = LeNet(size, "float32").flattened * UNITS, LENET_BYTES_A_PIXEL
    else:
        weights, a_pixel = INCEPTION_WEIGHTS, INCEPTION_BYTES_A_PIXEL
    return copies * 4 * weights + films * size**2 * a_pixel


class EndToEndTrainer(EpochTrainer):
    """The state of one fold's training: the whole network, optimizer, steps.

    It does for films what `FoldTrainer` does for features. The seed alone decides initial weights, order, flips and
    dropout. Only one thread at a time may use a trainer.

    Args:
        pixels: the films.
        labels: (all films, 18) of 0 and 1, in the order of the films.
        films: (training films,) the numbers of the films to train on.
        trial: the hyperparameters.
        seed: the fold's seed, at least 0.
        on_advance: called after each micro-batch, in training and in scoring.

    Raises:
        ValueError: there is no film to train on.
        WeightsError: the weights to start from are missing or do not fit.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: np.ndarray,
        films: np.ndarray,
        trial: TrialConfiguration,
        seed: int,
        *,
        on_advance: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(labels, films, trial, seed, on_advance)
        self._pixels = pixels
        self._micro_batch = trial.micro_batch
        network = network_of(trial)
        self._program = program_of(network)
        self._state = new_state(network.start(seed), accumulate=self.batch_size > trial.micro_batch)
        self._settings = program.new_settings(
            learning_rate=trial.learning_rate,
            epsilon=trial.epsilon,
            dropout_rate=trial.dropout_rate,
            seed=seed,
        )

    @property
    def steps(self) -> int:
        """The number of optimizer steps so far."""
        return int(self._state.optimised.steps.numpy())

    @property
    def weights(self) -> list[np.ndarray]:
        """Copies of all weights, and of the moving averages of batch normalisation after them."""
        return [array.copy() for array in self._arrays()]

    @property
    def finite(self) -> bool:
        """Whether all weights and averages are finite."""
        return all(np.isfinite(array).all() for array in self._arrays())

    @property
    def sha256(self) -> str:
        """A checksum of all weights and averages."""
        digest = hashlib.sha256()
        for array in self._arrays():
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<f4").data)
        return digest.hexdigest()

    def train_epoch(self, epoch: int) -> float:
        """Train on every film once and return the mean of the batches' losses (not finite once training diverged).

        Args:
            epoch: the epoch's number, from 1. Each epoch is trained at most once, in order.

        Raises:
            RuntimeError: a batch was left out.
        """
        films, flips = self.order(epoch)
        parts = self._parts(len(films))
        before, loss = self.steps, 0.0
        with closing(prefetched(self._pixels, [films[part] for part, _, _ in parts], self._micro_batch)) as gathered:
            for images, (part, start, batch) in zip(gathered, parts, strict=True):
                micro_batch = MicroBatch(images, flips[part], self._targets[films[part]], start, batch)
                loss += self._program.train(self._state, self._settings, micro_batch)
                self._on_advance()
        steps = math.ceil(len(films) / self.batch_size)
        if self.steps - before != steps:
            raise RuntimeError(f"took {self.steps - before} steps for {len(films)} films, not {steps}")
        return loss / steps

    def predict(self, films: np.ndarray) -> np.ndarray:
        """Return the scores of the unflipped films: (films, 18) float32."""
        films = np.asarray(films)
        parts = [films[start : start + self._micro_batch] for start in range(0, len(films), self._micro_batch)]
        scores = np.empty((len(films), len(LABELS)), dtype=np.float32)
        done = 0
        with closing(prefetched(self._pixels, parts, self._micro_batch)) as gathered:
            for images, part in zip(gathered, parts, strict=True):
                scores[done : done + len(part)] = self._program.predict(self._state, images, len(part))
                done += len(part)
                self._on_advance()
        return scores

    def _arrays(self) -> Iterator[np.ndarray]:
        """Yield all weights and then the averages, not copied: those of LeNet-1998 take 340 MB."""
        for variable in (*self._state.optimised.weights, *self._state.averages):
            yield variable.numpy()

    def _parts(self, count: int) -> list[tuple[slice, int, int]]:
        """Return the micro-batches of an epoch: where its films are, where in their batch, and that batch's size."""
        parts = []
        for first in range(0, count, self.batch_size):
            batch = min(self.batch_size, count - first)
            for start in range(0, batch, self._micro_batch):
                stop = min(start + self._micro_batch, batch)
                parts.append((slice(first + start, first + stop), start, batch))
        return parts
