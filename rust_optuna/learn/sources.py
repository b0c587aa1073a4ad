"""The source of training's features: the cache, or the backbone at every step. Nothing else in a trial differs.

Both give the same bits, because the same function extracts (`Extractor.extract`) and the same program trains.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np

from rust_optuna.learn.extraction import FLIPS, Extractor, read_film
from rust_optuna.learn.features import Features
from rust_optuna.learn.head import Standardisation
from rust_optuna.learn.runtime import load_tensorflow


class FeatureSource(Protocol):
    """The features of a development set's films, numbered in the order of its contents.

    Any number of threads may use one source at once, as the folds of a trial do.
    """

    @property
    def films(self) -> int:
        """The number of films."""

    @property
    def width(self) -> int:
        """The number of features of a film."""

    @property
    def sha256(self) -> str:
        """The checksum of all films' features in all flips. Equal features have equal checksums from every source."""

    def table(self) -> np.ndarray:
        """Return (films, 4, width) float32: all films in all flips. Training does not use it."""

    @property
    def batches_at_once(self) -> int | None:
        """The number of batches to pass to `gather` at a time; None for a whole epoch."""

    def gather(self, films: np.ndarray, flips: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return an (any, width) tensor of features, and the row in it of each film with its flip."""

    def unflipped(self, films: np.ndarray) -> Any:
        """Return a (films, width) tensor of the unflipped films."""

    def standardisation(self, films: np.ndarray) -> Standardisation:
        """Return mean and scale over these films in all four flips."""


class CachedFeatures:
    """Features that were computed before, as one table on the device.

    Args:
        features: the features of all films of a development set, in its order.
    """

    batches_at_once: int | None = None

    def __init__(self, features: Features) -> None:
        self._features = features
        self._standardisations = _Standardisations(lambda: features.table)
        self._copying = threading.Lock()
        self._copy: Any = None

    @property
    def films(self) -> int:
        """The number of films."""
        return len(self._features.table)

    @property
    def width(self) -> int:
        """The number of features of a film."""
        return int(self._features.table.shape[-1])

    @property
    def sha256(self) -> str:
        """The checksum of the table's bytes."""
        return self._features.sha256

    def table(self) -> np.ndarray:
        """Return (films, 4, width) float32: all films in all flips."""
        return self._features.table

    def gather(self, films: np.ndarray, flips: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return the whole table, copied to the device once, and the row of each film with its flip."""
        return self._on_device(), np.asarray(films) * FLIPS + flips

    def unflipped(self, films: np.ndarray) -> Any:
        """Return a (films, width) tensor of the unflipped films."""
        return load_tensorflow().gather(self._on_device(), np.asarray(films) * FLIPS)

    def standardisation(self, films: np.ndarray) -> Standardisation:
        """Return mean and scale over these films in all four flips."""
        return self._standardisations.of(films)

    def _on_device(self) -> Any:
        with self._copying:
            if self._copy is None:
                self._copy = load_tensorflow().constant(self._features.table.reshape(-1, self.width))
            return self._copy


class LiveFeatures:
    """The backbone, run at every step as in the published study, at about a thousand times the cost.

    Decoded films stay in memory (0.36 MB per film at 299×299).

    Args:
        extractor: the backbone.
        contents: the content hashes of the development set's films, in its order.
        read: a function that returns a film's bytes.

    Raises:
        DataError: a film cannot be read.
    """

    batches_at_once: int | None = 1

    def __init__(self, extractor: Extractor, contents: Sequence[str], read: Callable[[str], bytes]) -> None:
        self._extractor = extractor
        size = extractor.backbone.image_size
        self._images = np.empty((len(contents), size, size), dtype=np.float32)
        for position, content in enumerate(contents):
            self._images[position] = read_film(extractor.backbone, content, read)
        self._standardisations = _Standardisations(self.table)
        self._completing = threading.Lock()
        self._complete: np.ndarray | None = None

    @property
    def films(self) -> int:
        """The number of films."""
        return len(self._images)

    @property
    def width(self) -> int:
        """The number of features of a film."""
        return self._extractor.width

    @functools.cached_property
    def sha256(self) -> str:
        """The checksum of all films' features in all flips."""
        return hashlib.sha256(self.table().data).hexdigest()

    def complete(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute the table of all films now, which takes minutes, rather than within the first trial.

        Args:
            progress: called with the number of films done and the number of all films. An exception it raises ends the
                computation.
        """
        report = progress or (lambda done, total: None)
        with self._completing:
            if self._complete is None:
                self._complete = self._extractor.extract_all_flips(
                    self._images, lambda done: report(done, len(self._images))
                )

    def gather(self, films: np.ndarray, flips: np.ndarray) -> tuple[Any, np.ndarray]:
        """Run the backbone on these films and return its output, one row per film."""
        features = self._extractor.extract(self._images[films], flips)
        return load_tensorflow().constant(features), np.arange(len(films))

    def unflipped(self, films: np.ndarray) -> Any:
        """Run the backbone on the unflipped films."""
        return self.gather(films, np.zeros(len(films), dtype=np.int64))[0]

    def standardisation(self, films: np.ndarray) -> Standardisation:
        """Return mean and scale over these films in all four flips."""
        return self._standardisations.of(films)

    def table(self) -> np.ndarray:
        """Return (films, 4, width) float32: all films in all flips. Training does not use it."""
        self.complete()
        return cast(np.ndarray, self._complete)


class _Standardisations:
    """A cache of standardisations, which fits each set of films once: all trials of a study have the same folds.

    Args:
        table: a function that returns (films, 4, width) float32.
    """

    def __init__(self, table: Callable[[], np.ndarray]) -> None:
        self._table = table
        self._fitting = threading.Lock()
        self._fitted: dict[bytes, Standardisation] = {}

    def of(self, films: np.ndarray) -> Standardisation:
        """Return the standardisation fitted on these films."""
        key = np.asarray(films, dtype=np.int64).tobytes()
        with self._fitting:
            if key not in self._fitted:
                self._fitted[key] = Standardisation.fit(self._table()[films])
            return self._fitted[key]
