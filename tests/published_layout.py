"""A generated data set in the published layout, with exactly the published marginal counts.

Nothing here is a patient's: the pixels are noise and the scores are drawn, then cut so that the counts agree.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

STUDIES = {"pacs": 1389, "trial": 1233, "registry": 314}
FILMS_PER_PATIENT = {6: 70, 5: 8, 4: 123, 3: 17, 2: 944, 1: 45}
PATIENTS = sum(FILMS_PER_PATIENT.values())
FILMS = sum(size * count for size, count in FILMS_PER_PATIENT.items())
PAIRED_VISITS, SINGLE_VISITS = 1426, {"antpr": 67, "later": 17}
SUBSCORES = {
    "medial": (149, 404, 478, 251),
    "lateral": (121, 365, 498, 257),
    "anterior": (169, 378, 464, 265),
    "posterior": (115, 376, 551, 285),
}
# Which cortices the films of a view show here, and on how many of them both, only one or none is readable. The
# published counts (252 films without, 242 with one) leave one of these numbers free.
READABLE = {
    "antpr": {("anterior", "posterior"): 1240, ("anterior",): 36, ("posterior",): 87, (): 130},
    "later": {("medial", "lateral"): 1202, ("medial",): 80, ("lateral",): 39, (): 122},
}
EVENTS = ("baseline_arm_1", "6week_follow_up_arm_1", "3month_follow_up_arm_1", "6month_follow_up_arm_1")


@dataclass
class Row:
    """One film of the generated data set."""

    study: str
    record: int
    event: str
    view: str
    stage: float
    scores: dict[str, int] = field(default_factory=dict)

    @property
    def patient(self) -> tuple[str, int]:
        """The patient: record numbers repeat over the studies."""
        return self.study, self.record

    def name(self, index: int) -> str:
        """Return the film's file name."""
        return f"{index}-{self.study}-{self.record}-{self.event}-{self.view}.jpg"

    def cells(self, index: int) -> list[object]:
        """Return the film's row of the one-hot CSV."""
        onehot = [int(self.scores.get(c) == s) for c in SUBSCORES for s in (1, 2, 3, 4)]
        views = [int(self.view == view) for view in READABLE]
        return [index, self.study, self.record, self.event, *views, *onehot]


def cohort(seed: int = 0) -> list[Row]:
    """Return the 2,936 films of 1,207 patients, shuffled."""
    rng = random.Random(seed)
    rows = _films(rng, _studies())
    for view, readable in READABLE.items():
        shown = [row for row in rows if row.view == view]
        rng.shuffle(shown)
        for cortices, count in readable.items():
            for row in shown[:count]:
                row.scores = dict.fromkeys(cortices, 0)
            del shown[:count]
        assert not shown
    for cortex, counts in SUBSCORES.items():
        carriers = [row for row in rows if cortex in row.scores]
        carriers.sort(key=lambda row: row.stage + rng.gauss(0, 0.4))
        scores = [score for score, count in enumerate(counts, start=1) for _ in range(count)]
        for row, score in zip(carriers, scores, strict=True):
            row.scores[cortex] = score
    rng.shuffle(rows)
    return rows


def _studies() -> list[tuple[str, int, int]]:
    """Return (study, record, number of films) of every patient."""
    left, patients, record = dict(STUDIES), [], dict.fromkeys(STUDIES, 0)
    for size, count in FILMS_PER_PATIENT.items():
        for _ in range(count):
            study = max(left, key=lambda name: left[name])
            left[study] -= size
            record[study] += 1
            patients.append((study, record[study], size))
    assert not any(left.values())
    return patients


def _films(rng: random.Random, patients: Iterable[tuple[str, int, int]]) -> list[Row]:
    """Return the films without scores: visits with both views, some with only one."""
    alone = [view for view, count in SINGLE_VISITS.items() for _ in range(count)]
    rng.shuffle(alone)
    # The odd patients take one single view each; seven pairs of views are of two visits, to use up the others.
    to_break = (len(alone) - sum(FILMS_PER_PATIENT[size] for size in (1, 3, 5))) // 2
    rows: list[Row] = []
    for study, record, size in patients:
        pairs, singles = divmod(size, 2)
        if size == 2 and to_break:
            to_break, pairs, singles = to_break - 1, 0, 2
        visits = [tuple(READABLE)] * pairs + [(alone.pop(),) for _ in range(singles)]
        stage = rng.gauss(0, 1)
        for event, views in zip(EVENTS, visits, strict=False):
            rows += [Row(study, record, event, view, stage) for view in views]
            stage += rng.uniform(0.2, 1.2)
    assert not alone
    return rows


def write_tables(directory: Path, rows: Iterable[Row]) -> tuple[Path, Path]:
    """Write the one-hot CSV and the list of file names; neither has a header or a last newline."""
    rows = list(rows)
    labels, filenames = directory / "labels.csv", directory / "filenames.csv"
    with labels.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(row.cells(i) for i, row in enumerate(rows))
    labels.write_text(labels.read_text().rstrip("\n"))
    filenames.write_text("\n".join(row.name(i) for i, row in enumerate(rows)))
    return labels, filenames


def write_images(directory: Path, rows: Iterable[Row], seed: int = 0) -> None:
    """Write a small JPEG of noise for every film, no two alike."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(rows):
        noise = rng.integers(0, 256, size=(40, 32), dtype=np.uint8)
        Image.fromarray(noise).save(directory / row.name(index), quality=90)
