"""Films that the search has not seen, with their labels: they can be scored, and never trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.development import pseudonyms
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import VIEWS, Film, stack_labels
from rust_optuna.data.threads import Progress
from rust_optuna.learn.features import FeatureCache, Features
from rust_optuna.model.scored import ScoredFilms


@dataclass(frozen=True, eq=False)
class UnseenFilms:
    """Films that no search and no training has seen, sorted by content hash.

    Args:
        content: sha256 of each film's bytes, hex.
        patients: a pseudonym of each film's patient.
        visits: a pseudonym of each film's visit.
        labels: (n, 18) uint8.
        sources: the hospital or study of each film; None if the manifest does not say.
        readers: (readers, n, 4) the subscores by further readers; None if there are none.
        index: knows where the films lie.
    """

    content: tuple[str, ...]
    patients: tuple[str, ...]
    visits: tuple[str, ...]
    labels: np.ndarray
    sources: tuple[str, ...] | None
    readers: np.ndarray | None
    index: FilmIndex

    @classmethod
    def of(cls, rows: Mapping[str, Film], index: FilmIndex) -> Self:
        """Return the films of a manifest's rows.

        Args:
            rows: the content hash of each film → its row.
            index: knows where the films lie.
        """
        content = sorted(rows)
        films = [rows[film] for film in content]
        return cls(
            content=tuple(content),
            patients=tuple(pseudonyms(content, [film.patient for film in films])),
            visits=visit_pseudonyms(content, films),
            labels=stack_labels(films),
            sources=tuple(film.source for film in films) if any(film.source for film in films) else None,
            readers=_stack_readers(films),
            index=index,
        )

    @property
    def views(self) -> tuple[str, ...]:
        """The view of each film."""
        return tuple(VIEWS[position] for position in self.labels[:, : len(VIEWS)].argmax(axis=1))

    def scored(
        self,
        scores: np.ndarray,
        frequencies: np.ndarray,
        view_only: np.ndarray,
        cortices: Mapping[str, tuple[str, ...]],
    ) -> ScoredFilms:
        """Return the films with a model's scores and those of the two baselines, each (n, 18).

        Args:
            scores: the model's probabilities.
            frequencies: the first baseline's.
            view_only: the second's.
            cortices: view → the cortices that its films show.
        """
        return ScoredFilms(
            content=self.content,
            patients=self.patients,
            visits=self.visits,
            labels=self.labels,
            scores=scores,
            frequencies=frequencies,
            view_only=view_only,
            cortices=cortices,
            sources=self.sources,
            readers=self.readers,
        )

    def features(self, backbone: BackboneConfiguration, folder: Path, progress: Progress | None) -> Features:
        """Return the features of the films, from a cache apart from the one that search reads.

        Args:
            backbone: what computes them.
            folder: the folder of the cache.
            progress: called while features are computed.
        """
        cache = FeatureCache(folder, backbone)
        with self.index.naming():
            cache.build(self.content, self.index.read, progress)
        return cache.load(self.content)


def visit_pseudonyms(content: Sequence[str], films: Sequence[Film]) -> tuple[str, ...]:
    """Return each film's visit under a name that holds nothing of the clinic's, as `pseudonyms` does of patients."""
    first: dict[tuple[str, str], str] = {}
    for film, row in zip(content, films, strict=True):
        visit = (row.patient, row.visit)
        first[visit] = min(film, first.get(visit, film))
    names = (first[row.patient, row.visit] for row in films)
    return tuple(hashlib.sha256(f"visit:{name}".encode()).hexdigest()[:16] for name in names)


def _stack_readers(films: Sequence[Film]) -> np.ndarray | None:
    """Return what further readers scored, (readers, films, 4) float64; NaN where a cortex has no subscore."""
    if not films[0].readers:
        return None
    scores = [[[np.nan if s is None else s for s in reader] for reader in film.readers] for film in films]
    return np.array(scores, dtype=np.float64).transpose(1, 0, 2)
