"""Which view shows which cortices, as the scores themselves tell it.

An anteroposterior film shows the medial and lateral cortex, a lateral film the anterior and posterior one;
yet the published data set has it the other way round. So the mapping is never assumed, only read off, and it
must hold over the whole data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rust_optuna.data.manifest import CORTICES, SUBSCORES, VIEWS, Film, named_rows
from rust_optuna.errors import Problem


@dataclass(frozen=True)
class Contradiction:
    """A cortex that is scored on films of both views.

    Args:
        cortex: one of `CORTICES`.
        view: the view of the fewer films that carry it, which are the suspicious ones.
        films: positions of those films; of all films that carry the cortex where the views are even.
    """

    cortex: str
    view: str
    films: tuple[int, ...]


@dataclass(frozen=True)
class ViewMapping:
    """View → the cortices its films show; a cortex that no film scores belongs to no view."""

    cortices: dict[str, tuple[str, ...]]
    contradictions: tuple[Contradiction, ...]


def infer_mapping(views: Sequence[str], scored: np.ndarray) -> ViewMapping:
    """Read the mapping off the scores: a cortex belongs to the view that carries it on more films.

    Args:
        views: the view of each of n films.
        scored: (n, 4) bool, whether a film carries a subscore of each of `CORTICES`.
    """
    shown: dict[str, list[str]] = {view: [] for view in VIEWS}
    contradictions = []
    of_view = np.array([[view == name for name in VIEWS] for view in views], dtype=bool).reshape(-1, len(VIEWS))
    for position, cortex in enumerate(CORTICES):
        carries = np.asarray(scored, dtype=bool)[:, position]
        counts = (of_view & carries[:, None]).sum(axis=0)
        if not counts.any():
            continue
        most, least = int(counts.argmax()), int(counts.argmin())
        shown[VIEWS[most]].append(cortex)
        if counts[least] and counts[0] == counts[1]:
            contradictions.append(Contradiction(cortex, " and ".join(VIEWS), _positions(carries)))
        elif counts[least]:
            contradictions.append(Contradiction(cortex, VIEWS[least], _positions(carries & of_view[:, least])))
    return ViewMapping({view: tuple(cortices) for view, cortices in shown.items()}, tuple(contradictions))


def mapping_of_films(films: Sequence[Film]) -> ViewMapping:
    """Return the mapping that the rows of a manifest imply."""
    scored = np.array([[score is not None for score in film.subscores] for film in films], dtype=bool)
    return infer_mapping([film.view for film in films], scored.reshape(-1, len(CORTICES)))


def mapping_problems(films: Sequence[Film]) -> list[Problem]:
    """Return the rows of a manifest that contradict the mapping that the others imply."""
    problems = []
    for found in mapping_of_films(films).contradictions:
        where = named_rows([films[position].row for position in found.films])
        what = f"{found.cortex} cortex is scored on {found.view} films too"
        if len(found.view.split()) > 1:
            what = f"{found.cortex} cortex is scored on as many anteroposterior as lateral films"
        problems.append(Problem(where, what))
    return problems


def mapping_of_labels(labels: np.ndarray) -> ViewMapping:
    """Return the mapping that labels imply, (n, 18) in the order of `LABELS`."""
    views = [VIEWS[position] for position in np.asarray(labels)[:, : len(VIEWS)].argmax(axis=1)]
    onehot = np.asarray(labels)[:, len(VIEWS) :].reshape(-1, len(CORTICES), len(SUBSCORES))
    return infer_mapping(views, onehot.max(axis=2) > 0)


def _positions(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(position) for position in np.flatnonzero(mask))
