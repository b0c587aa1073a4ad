"""The mapping from views to cortices, inferred from the scores.

An anteroposterior film shows the medial and lateral cortices and a lateral film the anterior and posterior ones, but
the published data set has it the other way round. So the mapping is never assumed. It is inferred, and it must hold
over the whole data set.
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
        view: the view with fewer films that carry the cortex, which are the suspicious ones; both views if even.
        films: the positions of these films; of all films that carry the cortex if both views have equally many.
    """

    cortex: str
    view: str
    films: tuple[int, ...]


@dataclass(frozen=True)
class ViewMapping:
    """The cortices that the films of each view show, and contradictions. An unscored cortex belongs to no view."""

    cortices: dict[str, tuple[str, ...]]
    contradictions: tuple[Contradiction, ...]


def infer_mapping(views: Sequence[str], scored: np.ndarray) -> ViewMapping:
    """Infer the mapping from the scores: a cortex belongs to the view that carries it on more films.

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
    """Return the mapping implied by the rows of a manifest."""
    scored = np.array([[score is not None for score in film.subscores] for film in films], dtype=bool)
    return infer_mapping([film.view for film in films], scored.reshape(-1, len(CORTICES)))


def mapping_problems(films: Sequence[Film]) -> list[Problem]:
    """Return the rows of a manifest that contradict the mapping implied by the other rows."""
    problems = []
    for contradiction in mapping_of_films(films).contradictions:
        rows = named_rows([films[position].row for position in contradiction.films])
        description = f"{contradiction.cortex} cortex is scored on {contradiction.view} films too"
        if len(contradiction.view.split()) > 1:
            description = f"{contradiction.cortex} cortex is scored on as many anteroposterior as lateral films"
        problems.append(Problem(rows, description))
    return problems


def mapping_of_labels(labels: np.ndarray) -> ViewMapping:
    """Return the mapping implied by labels, (n, 18) in the order of `LABELS`."""
    views = [VIEWS[position] for position in np.asarray(labels)[:, : len(VIEWS)].argmax(axis=1)]
    onehot = np.asarray(labels)[:, len(VIEWS) :].reshape(-1, len(CORTICES), len(SUBSCORES))
    return infer_mapping(views, onehot.max(axis=2) > 0)


def _positions(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(position) for position in np.flatnonzero(mask))
