"""What a manifest and its films are, and everything that is wrong with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import FOLDS, SEED
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.folds import assign_folds, labels_missing
from rust_optuna.data.manifest import (
    LABELS,
    SPLITS,
    Film,
    Manifest,
    named_rows,
    read_manifest,
    split_problems,
    stack_labels,
)
from rust_optuna.data.patients import Group, undecided, warning
from rust_optuna.data.radiographs import ImageFacts, examine
from rust_optuna.data.threads import Progress, map_in_threads
from rust_optuna.data.views import mapping_of_films, mapping_problems
from rust_optuna.errors import DataError, DataValueError, ManifestError, Problem, UnreadableManifestError

DARK = 1 / 16
"""A film whose brightest level is below this share of its range looks like 12 bits or fewer saved in 16."""
DETECTORS = (10, 12)
"""Bits of the usual detectors."""
TINY = 32
"""Width or height of a film, in pixels, below which it is hardly one."""


@dataclass(frozen=True)
class Part:
    """Films that belong together: all of them, a split, or a fold."""

    name: str
    films: int
    patients: int
    labels: dict[str, int]


@dataclass(frozen=True)
class CheckReport:
    """What `check_manifest` found.

    Args:
        manifest: the file.
        problems: what must be put right; without any the check has passed.
        notes: what is worth knowing and breaks nothing.
        undecided: groups of patients' names that are alike, of which nobody has said whether they are one patient's.
        parts: counts of all films, of each split and of each fold of the development set.
        films_per_patient: number of films → number of patients that have as many.
        cortices: view → the cortices that its films carry scores of.
        sizes: ``smallest`` and ``largest`` of width and height in pixels, and how many ``distinct`` sizes.
        depths: bits per channel → number of films.
        modes: pixel layout → number of films.
    """

    manifest: str
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    undecided: tuple[Group, ...] = ()
    parts: tuple[Part, ...] = ()
    films_per_patient: dict[int, int] = field(default_factory=dict)
    cortices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    depths: dict[int, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing must be put right."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the report as what JSON can hold."""
        problems = [{"where": problem.where, "what": problem.what} for problem in self.problems]
        return {"passed": self.passed} | asdict(self) | {"problems": problems}


def check_manifest(
    path: Path, *, folds: int = FOLDS, seed: int = SEED, progress: Progress | None = None
) -> CheckReport:
    """Read a manifest and every film in it, and report what they are and what is wrong with them.

    The folds are those that a study with the same number of folds and seed uses.

    Args:
        path: the manifest. One that breaks its rules is reported; its films are then not looked at.
        folds: of the development set, once there is one.
        seed: of the folds.
        progress: called while films are read.

    Raises:
        DataError: fewer than two folds.
        UnreadableManifestError: the manifest is not there, or no CSV file at all.
    """
    if folds < 2:
        raise DataValueError(f"Cross-validation needs at least 2 folds, not {folds}")
    try:
        manifest = read_manifest(path)
    except UnreadableManifestError:
        raise
    except ManifestError as error:
        note = "The films were not read; fix the manifest first"
        return CheckReport(str(path), error.problems, (note,))
    films = manifest.films
    facts = map_in_threads(_examine, [film.image for film in films], progress)
    problems = _problems(films, [fact.pixels if isinstance(fact, ImageFacts) else fact for fact in facts])
    notes = _notes(films)
    if manifest.ignored:
        notes.append(f"columns that mean nothing here are ignored: {', '.join(map(repr, manifest.ignored))}")
    readable = [(f, fact) for f, fact in zip(films, facts, strict=True) if isinstance(fact, ImageFacts)]
    notes += _notes_of_images(readable)
    parts = [_part("all", films)]
    if any(film.split for film in films):
        parts += [_part(name, [film for film in films if film.split == name]) for name in SPLITS]
        development = [(film, fact) for film, fact in readable if film.split == "development"]
        problems += too_few_patients([film.patient for film, _ in development], folds)
        parts += _folds(development, folds, seed, notes)
    images = [fact for _, fact in readable]
    return CheckReport(
        manifest=str(path),
        problems=tuple(problems),
        notes=tuple(notes),
        undecided=tuple(undecided(films)),
        parts=tuple(parts),
        films_per_patient=_count(Counter(film.patient for film in films).values()),
        cortices=mapping_of_films(films).cortices,
        sizes=_sizes(images),
        depths=_count(fact.bits for fact in images),
        modes=_count(fact.mode for fact in images),
    )


def refuse_problems(manifest: Manifest, index: FilmIndex, progress: Progress | None = None) -> None:
    """Refuse a manifest in which `check_manifest` would find a problem.

    Films of both sides of the split are decoded for it, to see that none is on both; of each, the index keeps the hash
    of its pixels, so that this is done once on a machine.

    Args:
        manifest: keeps its rules.
        index: learns where the films lie.
        progress: called while films are read.

    Raises:
        ManifestError: with every problem.
    """
    pixels = index.add_pixels([film.image for film in manifest.films], progress)
    problems = _problems(manifest.films, [pixels[film.image] for film in manifest.films])
    if problems:
        raise ManifestError(str(manifest.path), problems)


def _problems(films: Sequence[Film], pixels: Sequence[str | DataError]) -> list[Problem]:
    """Return what must be put right.

    Args:
        films: of a manifest that keeps its rules.
        pixels: the `pixel_hash` of each film, or why it cannot be read.
    """
    found = list(zip(films, pixels, strict=True))
    problems = mapping_problems(films)
    problems += [
        Problem(f"row {film.row}, image", str(fault), str(fault).removeprefix(str(film.image)))
        for film, fault in found
        if isinstance(fault, DataError)
    ]
    problems += _same_pixels([(film, each) for film, each in found if isinstance(each, str)])
    if any(film.split for film in films):
        problems += split_problems(films)
    return problems


def too_few_patients(patients: Iterable[str], folds: int) -> list[Problem]:
    """Return the problem that there are more folds than patients to divide among them, if so.

    Args:
        patients: whose film each development film is that can be read.
        folds: how many there are to be.
    """
    count = len(set(patients))
    if count >= folds:
        return []
    have = "1 development patient has" if count == 1 else f"{count:,} development patients have"
    what = (
        f"{folds} folds need at least {folds} patients, and {have} a readable film: lower `folds` under "
        "[cross_validation] in the study file, or add patients"
    )
    return [Problem("folds", what)]


def _examine(path: Path) -> ImageFacts | DataError:
    try:
        return examine(path)
    except DataError as error:
        return error


def _notes(films: Sequence[Film]) -> list[str]:
    notes = [
        f"{view} films carry scores of {len(cortices)} cortices ({', '.join(cortices)}); a film shows two"
        for view, cortices in mapping_of_films(films).cortices.items()
        if len(cortices) > 2
    ]
    if groups := undecided(films):
        notes.append(warning(groups, films))
    absent = [name for name, count in zip(LABELS, stack_labels(films).sum(axis=0), strict=True) if count == 0]
    if absent:
        notes.append(f"no film has the label {', '.join(absent)}")
    return notes


def _notes_of_images(found: Sequence[tuple[Film, ImageFacts]]) -> list[str]:
    """Return what looks wrong with films that can be read, without being so for certain."""

    def listed(what: str, rows: Sequence[int], rest: str = "") -> list[str]:
        count = "1 film" if len(rows) == 1 else f"{len(rows):,} films"
        return [f"{count} {what}: {named_rows(rows)}{rest}"] if rows else []

    constant = [(film, fact) for film, fact in found if fact.darkest == fact.brightest]
    dark = [(film, fact) for film, fact in found if 0 < fact.brightest < 2**fact.bits * DARK and fact.bits > 1]
    notes = listed(
        "whose JPEG data have a hole or a damaged place, so that part of the picture is missing or wrong",
        [film.row for film, fact in found if fact.hole],
        ". Fetch the files again",
    )
    notes += listed(
        "whose JPEG data cannot be searched for holes, because they are progressive or in very many parts",
        [film.row for film, fact in found if fact.hole is None],
    )
    notes += listed("black throughout", [film.row for film, fact in constant if fact.brightest == 0])
    notes += listed("of one grey level throughout", [film.row for film, fact in constant if fact.brightest > 0])
    notes += listed(
        f"smaller than {TINY} pixels", [film.row for film, fact in found if min(fact.width, fact.height) < TINY]
    )
    unscored = [film.row for film, _ in found if not film.scored]
    notes += listed("without any score", unscored)
    if sixteen := [(film, fact) for film, fact in dark if fact.bits == 16]:
        brightest = max(fact.brightest for _, fact in sixteen)
        bits = next(bits for bits in DETECTORS if brightest < 2**bits)
        share = math.ceil(100 * (brightest + 1) / 2**16)
        advice = (
            f". They look like {bits} bits saved in 16 and come out nearly black: if so, put `bits = {bits}` under "
            "[model] in the study file"
        )
        notes += listed(
            f"of 16 bits that use less than {share}% of their range", [film.row for film, _ in sixteen], advice
        )
    others = [film.row for film, fact in dark if fact.bits != 16 and fact.darkest < fact.brightest]
    notes += listed(f"that use less than {DARK:.1%} of their range", others, ". They come out nearly black")
    return notes


def _same_pixels(films: Sequence[tuple[Film, str]]) -> list[Problem]:
    """Return one problem for each picture that stands in more than one row."""
    by_pixels: dict[str, list[Film]] = {}
    for film, pixels in films:
        by_pixels.setdefault(pixels, []).append(film)
    problems = []
    for same in by_pixels.values():
        if len(same) > 1:
            what = ["hold the same pixels"]
            if len({film.patient for film in same}) > 1:
                what.append("under different patients")
            if len({film.split for film in same}) > 1:
                what.append("on both sides of the split")
            problems.append(Problem(named_rows([film.row for film in same]), ", ".join(what)))
    return problems


def _folds(development: Sequence[tuple[Film, ImageFacts]], folds: int, seed: int, notes: list[str]) -> list[Part]:
    """Return the folds of the development films that can be read; none where there are too few patients for them."""
    # Of files with the same bytes one is enough: their rows are reported already.
    unique = {fact.content: film for film, fact in development}
    films = list(unique.values())
    labels = stack_labels(films)
    patients = [film.patient for film in films]
    if len(set(patients)) < folds:
        return []
    fold_of = assign_folds(list(unique), patients, labels, folds=folds, seed=seed)
    missing = labels_missing(fold_of, labels)
    if missing:
        notes.append(f"some fold has no film with the label {', '.join(missing)}")
    return [
        _part(f"fold {fold}", [films[position] for position in np.flatnonzero(fold_of == fold)])
        for fold in range(folds)
    ]


def _part(name: str, films: Sequence[Film]) -> Part:
    counts = dict(zip(LABELS, stack_labels(films).sum(axis=0).tolist(), strict=True))
    return Part(name, len(films), len({film.patient for film in films}), counts)


def _sizes(images: Sequence[ImageFacts]) -> dict[str, Any]:
    if not images:
        return {}
    sizes = {(image.width, image.height) for image in images}
    widths, heights = zip(*sizes, strict=True)
    return {
        "smallest": [min(widths), min(heights)],
        "largest": [max(widths), max(heights)],
        "distinct": len(sizes),
    }


def _count(values: Any) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))
