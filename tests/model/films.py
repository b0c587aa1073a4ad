"""Scored films that were drawn, for the tests of numbers."""

import dataclasses

import numpy as np

from rust_optuna.data.manifest import CORTICES, LABELS, SUBSCORES, VIEWS
from rust_optuna.data.metrics import view_only_scores
from rust_optuna.model.scored import UNREADABLE, ScoredFilms

SHOWN = {"anteroposterior": ("anterior", "posterior"), "lateral": ("medial", "lateral")}
"""As in the published data set."""


def draw_films(seed=0, patients=20, *, skill=2.0, sources=False, levels=None):
    """Return films of `patients` patients with one or two visits, a pair of films each (some lack the lateral film).

    A healing stage per visit, with noise per cortex, gives the subscores; some cortices are unreadable. The logits of a
    label's score rise by `skill` where the film has it, so that 0 is a model that knows nothing.

    Args:
        levels: how many distinct scores there are; few make ties. None: as many as there are.
    """
    generator = np.random.default_rng(seed)
    names, visits, labels = [], [], []
    for patient in range(patients):
        for visit in range(generator.integers(1, 3)):
            stage = generator.normal(1.5, 1.0)
            views = VIEWS[: 1 if generator.random() < 0.1 else 2]
            for view in views:
                label = np.zeros(len(LABELS), dtype=np.uint8)
                label[VIEWS.index(view)] = 1
                for cortex in SHOWN[view]:
                    kind = int(np.clip(np.round(stage + generator.normal(0, 0.5)), 0, 3))
                    if generator.random() < 0.9:
                        label[len(VIEWS) + len(SUBSCORES) * CORTICES.index(cortex) + kind] = 1
                names.append(f"patient-{patient}")
                visits.append(f"patient-{patient}-visit-{visit}")
                labels.append(label)
    labels = np.array(labels)
    scores = 1 / (1 + np.exp(1.5 - skill * labels - generator.normal(size=labels.shape)))
    if levels:
        scores = np.round(scores * levels) / levels
    films_views = [VIEWS[label[1]] for label in labels]
    trained = np.concatenate([labels, labels[: len(labels) // 3]])
    return ScoredFilms(
        content=tuple(f"{seed}-{number}" for number in range(len(labels))),
        patients=tuple(names),
        visits=tuple(visits),
        labels=labels,
        scores=scores.astype(np.float32),
        frequencies=np.tile(trained.mean(axis=0), (len(labels), 1)),
        view_only=view_only_scores([VIEWS[label[1]] for label in trained], trained, films_views),
        cortices=SHOWN,
        sources=tuple("AB"[int(name[8:]) % 2] for name in names) if sources else None,
    )


def repeat_films(films, weights):
    """Return the films repeated as often as the weights say: the slow, obvious resample."""
    return films.take(np.repeat(np.arange(len(films)), weights))


def readable(films):
    """Return how many cortices of each film carry a subscore."""
    return (films.classes != UNREADABLE).sum(axis=1)


def draw_readers(films, seed=0, readers=2):
    """Return the films with further readers, who miss some films and are often a subscore away from the label."""
    generator = np.random.default_rng(seed)
    shape = (readers, len(films), len(CORTICES))
    given = np.clip(films.classes + 1 + generator.integers(-1, 2, shape), 1, len(SUBSCORES)).astype(np.float64)
    given[:, films.classes == UNREADABLE] = np.nan
    given[generator.random(shape) < 0.2] = np.nan
    return dataclasses.replace(films, readers=given)
