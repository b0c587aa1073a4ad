"""The invented patients behind the synthetic films: their visits, views and RUST subscores.

Every frequency in this module is a published one (2,936 films of 1,207 patients with tibial shaft fractures). Only the
course of healing is invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Number of films → number of patients with that many films.
FILMS_PER_PATIENT = {1: 45, 2: 944, 3: 17, 4: 123, 5: 8, 6: 70}
# The share of visits with a single film that have the anteroposterior one: 1,493 of all films are anteroposterior.
LONE_FILMS_ANTEROPOSTERIOR = 60 / 70
# The two cortices that each view shows, in the anatomical mapping.
CORTICES_OF_VIEW = {"anteroposterior": ("medial", "lateral"), "lateral": ("anterior", "posterior")}
# The number of films with each subscore 1 to 4, by cortex.
SUBSCORE_COUNTS = {
    "medial": (149, 404, 478, 251),
    "lateral": (121, 365, 498, 257),
    "anterior": (169, 378, 464, 265),
    "posterior": (115, 376, 551, 285),
}
# The number of films on which both, only the first, only the second or neither of the view's cortices is unreadable.
# Together they give the published 252 films without and 242 with one readable cortex, and the totals of
# SUBSCORE_COUNTS.
UNREADABLE = {"anteroposterior": (156, 55, 96, 1186), "lateral": (96, 71, 20, 1256)}
HIDDEN_CORTICES = ((True, True), (True, False), (False, True), (False, False))

# The spread of one cortex about the healing stage of the whole fracture, in standard deviations of the stage at the
# first visit, and the mean rise of the stage to the next visit.
CORTEX_NOISE = 0.35
RISE_PER_VISIT = 0.8


@dataclass(frozen=True)
class SyntheticFilm:
    """One film to draw: its patient, and what it shows.

    Attributes:
        patient: the patient's number, from 1.
        visit: the patient's visit, from 1.
        view: ``anteroposterior`` or ``lateral``.
        subscores: the true subscores, 1 to 4, of the view's two cortices in the order of ``CORTICES_OF_VIEW``.
        hidden: whether each of the two cortices is covered and so unreadable.
    """

    patient: int
    visit: int
    view: str
    subscores: tuple[int, int]
    hidden: tuple[bool, bool]

    @property
    def name(self) -> str:
        """The film's file name."""
        view = {"anteroposterior": "ap", "lateral": "lat"}[self.view]
        return f"{self.patient_id}-v{self.visit}-{view}.png"

    @property
    def patient_id(self) -> str:
        """The patient's identifier, which shows that the patient is invented."""
        return f"synthetic-{self.patient:04d}"

    @property
    def readable(self) -> dict[str, int]:
        """The subscore of each cortex that is readable."""
        triples = zip(CORTICES_OF_VIEW[self.view], self.subscores, self.hidden, strict=True)
        return {cortex: score for cortex, score, hidden in triples if not hidden}


def draw_cohort(patients: int, seed: int) -> list[SyntheticFilm]:
    """Return every film of ``patients`` invented patients, patient by patient and visit by visit.

    Each visit has one latent healing stage, which rises from visit to visit; the stage of a cortex is that plus noise.
    Subscores are the stages cut at quantiles, so that they have the published frequencies even with few patients. The
    stage does not influence which cortices are unreadable.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    films: list[SyntheticFilm] = []
    stages: list[float] = []
    for patient, count in enumerate(_draw_film_counts(patients, rng), start=1):
        stage = rng.normal()
        for visit, views in enumerate(_draw_visits(count, rng), start=1):
            films += [SyntheticFilm(patient, visit, view, (0, 0), _draw_hidden(view, rng)) for view in views]
            stages += [stage] * len(views)
            stage += rng.exponential(RISE_PER_VISIT)
    return _score(films, np.array(stages), rng)


def shuffle_readings(films: Sequence[SyntheticFilm], seed: int) -> list[dict[str, int]]:
    """Return a reader's scores of each film, permuted among the films of the same view."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    readings = [film.readable for film in films]
    for view in CORTICES_OF_VIEW:
        places = [place for place, film in enumerate(films) if film.view == view]
        shuffled = [films[place].readable for place in rng.permutation(places)]
        for place, reading in zip(places, shuffled, strict=True):
            readings[place] = reading
    return readings


def _draw_film_counts(patients: int, rng: np.random.Generator) -> list[int]:
    """Return the number of films of each patient."""
    frequencies = np.array(list(FILMS_PER_PATIENT.values()), float)
    counts: list[int] = rng.choice(list(FILMS_PER_PATIENT), size=patients, p=frequencies / frequencies.sum()).tolist()
    return counts


def _draw_visits(count: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Return the views taken at each visit: pairs, and at the end a single film if ``count`` is odd."""
    visits: list[tuple[str, ...]] = [tuple(CORTICES_OF_VIEW)] * (count // 2)
    if count % 2:
        visits.append(("anteroposterior" if rng.random() < LONE_FILMS_ANTEROPOSTERIOR else "lateral",))
    return visits


def _draw_hidden(view: str, rng: np.random.Generator) -> tuple[bool, bool]:
    """Return which of the view's two cortices are unreadable."""
    frequencies = np.array(UNREADABLE[view], float)
    first, second = HIDDEN_CORTICES[rng.choice(4, p=frequencies / frequencies.sum())]
    return first, second


def _score(
    films: Sequence[SyntheticFilm], stages: NDArray[np.float64], rng: np.random.Generator
) -> list[SyntheticFilm]:
    """Return the films with their subscores; ``stages`` holds the healing stage of each film."""
    noise = rng.normal(scale=CORTEX_NOISE, size=(len(films), 2))
    scores = np.zeros((len(films), 2), int)
    for view, cortices in CORTICES_OF_VIEW.items():
        rows = [row for row, film in enumerate(films) if film.view == view]
        for column, cortex in enumerate(cortices):
            scores[rows, column] = _cut(stages[rows] + noise[rows, column], SUBSCORE_COUNTS[cortex], rng)
    pairs: list[tuple[int, int]] = [(int(first), int(second)) for first, second in scores]
    return [replace(film, subscores=pair) for film, pair in zip(films, pairs, strict=True)]


def _cut(values: NDArray[np.float64], frequencies: Sequence[int], rng: np.random.Generator) -> NDArray[np.int_]:
    """Return ``values`` (n,) as subscores 1 to 4 with these frequencies; higher values get higher subscores.

    All ranks share one random offset, so that expected counts are exact for any n.
    """
    ranks = np.argsort(np.argsort(values))
    quantiles = (ranks + rng.random()) / max(len(values), 1)
    thresholds = np.cumsum(frequencies)[:-1] / np.sum(frequencies)
    return 1 + np.searchsorted(thresholds, quantiles, side="right")
