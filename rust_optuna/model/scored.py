"""Films with their labels and a model's scores, and an estimate with its interval."""

from __future__ import annotations

import dataclasses
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.data.manifest import CORTICES, LABELS, SUBSCORES, VIEWS
from rust_optuna.data.metrics import view_only_scores
from rust_optuna.errors import DataError
from rust_optuna.paths import atomic_write

UNREADABLE = len(SUBSCORES)
"""The class of a cortex without a subscore; subscore k is class k − 1."""


@dataclass(frozen=True, eq=False)
class ScoredFilms:
    """Films, what they show, and what a model and two trivial baselines say of them.

    Args:
        content: the content hash of each of n films.
        patients: the pseudonym of each film's patient.
        visits: the pseudonym of each film's visit: all films of one patient at one time share it.
        labels: (n, 18) uint8, 0 and 1, in the order of `LABELS`.
        scores: (n, 18) float32 or float64, the model's probabilities.
        frequencies: (n, 18) float64, the first trivial baseline: the label frequencies of the training films.
        view_only: (n, 18) float64, the second: the label frequencies of the training films of the same view.
        cortices: for each of `VIEWS`, the cortices that its films show.
        sources: the hospital or study of each film, where that is known.
        readers: (readers, n, 4) float64, the subscores by further readers, 1 to 4 in the order of `CORTICES`; NaN where
            a reader did not read the film or could not read the cortex.

    Raises:
        ValueError: there is no film; a shape is wrong; a label is neither 0 nor 1; a score is not finite or not between
            0 and 1; a film has not exactly one view, or two subscores of a cortex; two patients share a visit; a
            reader's subscore is none.
    """

    content: tuple[str, ...]
    patients: tuple[str, ...]
    visits: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    frequencies: np.ndarray
    view_only: np.ndarray
    cortices: Mapping[str, tuple[str, ...]]
    sources: tuple[str, ...] | None = None
    readers: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.content)
        if not count:
            raise ValueError("there are no films")
        for name in ("patients", "visits", "sources"):
            column = getattr(self, name)
            if column is not None and len(column) != count:
                raise ValueError(f"{name} has {len(column)} entries for {count} films")
        if len(set(zip(self.visits, self.patients, strict=True))) != len(set(self.visits)):
            raise ValueError("two patients share a visit")
        _check_labels(self.labels, count)
        for name in ("scores", "frequencies", "view_only"):
            _check_scores(name, getattr(self, name), count)
        if set(self.cortices) != set(VIEWS) or not set().union(*self.cortices.values()) <= set(CORTICES):
            raise ValueError(f"{dict(self.cortices)} does not give the cortices of each view")
        if self.readers is not None:
            _check_readers(self.readers, count)

    def __len__(self) -> int:
        return len(self.content)

    @property
    def by_scorer(self) -> dict[str, np.ndarray]:
        """The model's scores and those of the two trivial baselines, by name: the same films, three times scored."""
        return {"model": self.scores, "frequencies": self.frequencies, "view_only": self.view_only}

    @property
    def counts(self) -> dict[str, int]:
        """How many films, patients and visits there are."""
        return {"films": len(self), "patients": len(set(self.patients)), "visits": len(set(self.visits))}

    @property
    def views(self) -> np.ndarray:
        """The view of each film, (n,) int: its position in `VIEWS`."""
        return np.asarray(self.labels[:, : len(VIEWS)].argmax(axis=1))

    @property
    def shown(self) -> np.ndarray:
        """(n, 4) bool: whether a film's view shows each of `CORTICES`, readable or not."""
        table = np.array([[cortex in self.cortices[view] for cortex in CORTICES] for view in VIEWS])
        return np.asarray(table[self.views])

    @property
    def classes(self) -> np.ndarray:
        """The class of each cortex, (n, 4) int: subscore k is k − 1, and `UNREADABLE` stands for no subscore."""
        subscores = self.labels[:, len(VIEWS) :].reshape(len(self), len(CORTICES), len(SUBSCORES))
        return np.where(subscores.any(axis=2), subscores.argmax(axis=2), UNREADABLE)

    def with_scores(self, scores: np.ndarray) -> ScoredFilms:
        """Return the same films with other scores, such as a baseline's.

        Args:
            scores: (n, 18), probabilities.

        Raises:
            ValueError: as the class.
        """
        return dataclasses.replace(self, scores=scores)

    def take(self, positions: np.ndarray) -> ScoredFilms:
        """Return the films at some positions, in that order; a position that stands twice gives its film twice.

        Raises:
            ValueError: there are no positions.
            IndexError: there is no film at one of them.
        """
        positions = np.asarray(positions, dtype=np.intp)

        def of(column: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(column[position] for position in positions)

        return dataclasses.replace(
            self,
            content=of(self.content),
            patients=of(self.patients),
            visits=of(self.visits),
            labels=self.labels[positions],
            scores=self.scores[positions],
            frequencies=self.frequencies[positions],
            view_only=self.view_only[positions],
            sources=None if self.sources is None else of(self.sources),
            readers=None if self.readers is None else self.readers[:, positions],
        )

    def save(self, path: Path) -> None:
        """Write the films as ``.npz``, whole or not at all; `numpy.load` reads it without pickle."""
        names = ("content", "patients", "visits", "sources")
        arrays = {name: np.array(getattr(self, name), dtype=np.str_) for name in names if getattr(self, name)}
        arrays |= {name: getattr(self, name) for name in ("labels", "scores", "frequencies", "view_only")}
        arrays |= {f"cortices_{view}": np.array(shown, dtype=np.str_) for view, shown in self.cortices.items()}
        if self.readers is not None:
            arrays["readers"] = self.readers
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> ScoredFilms:
        """Read what `save` wrote.

        Raises:
            DataError: the file is damaged, or holds something else.
            OSError: it cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                arrays = dict(kept)
            return cls(
                content=tuple(arrays["content"].tolist()),
                patients=tuple(arrays["patients"].tolist()),
                visits=tuple(arrays["visits"].tolist()),
                labels=arrays["labels"],
                scores=arrays["scores"],
                frequencies=arrays["frequencies"],
                view_only=arrays["view_only"],
                cortices={view: tuple(arrays[f"cortices_{view}"].tolist()) for view in VIEWS},
                sources=tuple(arrays["sources"].tolist()) if "sources" in arrays else None,
                readers=arrays.get("readers"),
            )
        except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} does not hold scored films: {error}") from error


def baselines(labels: np.ndarray, views: Sequence[str], scored: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of films by label frequencies, and by label frequencies given the view, of training films.

    Args:
        labels: (n, 18), of the training films.
        views: theirs.
        scored: the views of the films to score.
    """
    frequencies = np.tile(labels.mean(axis=0, dtype=np.float64), (len(scored), 1))
    return frequencies, view_only_scores(views, labels, scored)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval.

    Args:
        value: on the films themselves; None where it is not defined.
        low: the 2.5th percentile over the resamples in which it is defined; None where there is none.
        high: the 97.5th.
        resamples: how many resamples define it.
    """

    value: float | None
    low: float | None
    high: float | None
    resamples: int

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> Estimate:
        """Return the estimate of a value (NaN: not defined) and its values in the resamples, (B,) with NaN likewise."""
        defined = resampled[~np.isnan(resampled)]
        low, high = np.percentile(defined, (2.5, 97.5)).tolist() if defined.size else (None, None)
        return cls(None if math.isnan(value) else float(value), low, high, int(defined.size))

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as a JSON object."""
        return dataclasses.asdict(self)


def plain(numbers: Any) -> Any:
    """Return a document in which estimates are JSON objects."""
    if isinstance(numbers, Estimate):
        return numbers.to_json()
    if isinstance(numbers, Mapping):
        return {name: plain(value) for name, value in numbers.items()}
    return numbers


def _check_labels(labels: np.ndarray, count: int) -> None:
    if labels.shape != (count, len(LABELS)) or labels.dtype != np.uint8:
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, not uint8 ({count}, {len(LABELS)})")
    if labels.max() > 1:
        raise ValueError("a label is neither 0 nor 1")
    if (labels[:, : len(VIEWS)].sum(axis=1) != 1).any():
        raise ValueError("a film does not have exactly one view")
    if (labels[:, len(VIEWS) :].reshape(count, len(CORTICES), len(SUBSCORES)).sum(axis=2) > 1).any():
        raise ValueError("a film has two subscores of a cortex")


def _check_scores(name: str, scores: np.ndarray, count: int) -> None:
    if scores.shape != (count, len(LABELS)) or scores.dtype.kind != "f":
        raise ValueError(f"{name} are {scores.dtype} {scores.shape}, not floating-point ({count}, {len(LABELS)})")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"{name} are not all between 0 and 1")


def _check_readers(readers: np.ndarray, count: int) -> None:
    if readers.ndim != 3 or readers.shape[1:] != (count, len(CORTICES)):
        raise ValueError(f"readers is {readers.shape}, not (readers, {count}, {len(CORTICES)})")
    if not (np.isnan(readers) | np.isin(readers, SUBSCORES)).all():
        raise ValueError("a reader's subscore is neither NaN nor 1 to 4")
