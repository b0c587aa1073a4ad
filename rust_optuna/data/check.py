"""The check of a manifest and its films: what they are, and everything that is wrong with them."""

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
"""The share of its range below which a film's brightest level suggests 12 bits or fewer saved in 16."""
DETECTORS = (10, 12)
"""The bits of the usual detectors."""
TINY = 32
"""The width or height, in pixels, below which an image is hardly a film."""


@dataclass(frozen=True)
class Part:
    """Counts of films that belong together: all films, a split, or a fold."""

    name: str
    films: int
    patients: int
    labels: dict[str, int]


@dataclass(frozen=True)
class CheckReport:
    """The findings of `check_manifest`.

    Args:
        manifest: the file.
        problems: the violations that must be fixed; without any, the check has passed.
        notes: observations that are worth knowing but violate no rule.
        undecided: groups of similar patients' names that nobody has declared the same or different.
        parts: counts of all films, of each split and of each fold of the development set.
        films_per_patient: number of films → number of patients with that many films.
        cortices: view → the cortices that its films carry scores of.
        sizes: the ``smallest`` and ``largest`` width and height in pixels, and the number of ``distinct`` sizes.
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
        """Whether no problem was found."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report in the form that JSON can hold."""
        problems = [{"where": problem.where, "what": problem.what} for problem in self.problems]
        return {"passed": self.passed} | asdict(self) | {"problems": problems}


def check_manifest(
    path: Path, *, folds: int = FOLDS, seed: int = SEED, progress: Progress | None = None
) -> CheckReport:
    """Read a manifest and every film in it, and report what they are and what is wrong with them.

    The folds are those that a study with the same number of folds and the same seed uses.

    Args:
        path: the manifest. If it breaks its rules, that is reported and its films are not read.
        folds: the number of folds of the development set, if there is one.
        seed: the seed of the folds.
        progress: called while films are read.

    Raises:
        DataError: there are fewer than two folds.
        UnreadableManifestError: the manifest does not exist or is not a CSV file.
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
        notes.append(f"unknown columns are ignored: {', '.join(map(repr, manifest.ignored))}")
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

    Films of both sides of the split are decoded, to make sure that none is on both. The index keeps the hash of each
    film's pixels, so a machine decodes each film only once.

    Args:
        manifest: a manifest that follows its rules.
        index: the index that records where the films are.
        progress: called while films are read.

    Raises:
        ManifestError: with every problem found.
    """
    pixels = index.add_pixels([film.image for film in manifest.films], progress)
    problems = _problems(manifest.films, [pixels[film.image] for film in manifest.films])
    if problems:
        raise ManifestError(str(manifest.path), problems)


def _problems(films: Sequence[Film], pixels: Sequence[str | DataError]) -> list[Problem]:
    """Return the problems of films.

    Args:
        films: the films of a manifest that follows its rules.
        pixels: the `pixel_hash` of each film, or the error that occurred while it was read.
    """
    pairs = list(zip(films, pixels, strict=True))
    problems = mapping_problems(films)
    problems += [
        Problem(f"row {film.row}, image", str(error), str(error).removeprefix(str(film.image)))
        for film, error in pairs
        if isinstance(error, DataError)
    ]
    problems += _same_pixels([(film, pixel) for film, pixel in pairs if isinstance(pixel, str)])
    if any(film.split for film in films):
        problems += split_problems(films)
    return problems


def too_few_patients(patients: Iterable[str], folds: int) -> list[Problem]:
    """Return the problem that there are more folds than patients, or nothing.

    Args:
        patients: the patient of each readable development film.
        folds: the number of folds.
    """
    count = len(set(patients))
    if count >= folds:
        return []
    have = "1 development patient has" if count == 1 else f"{count:,} development patients have"
    description = (
        f"{folds} folds need at least {folds} patients, and {have} a readable film: lower `folds` under "
        "[cross_validation] in the study file, or add patients"
    )
    return [Problem("folds", description)]


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


def _notes_of_images(readable: Sequence[tuple[Film, ImageFacts]]) -> list[str]:
    """Return notes on readable films that look wrong but need not be."""

    def listed(description: str, rows: Sequence[int], rest: str = "") -> list[str]:
        count = "1 film" if len(rows) == 1 else f"{len(rows):,} films"
        return [f"{count} {description}: {named_rows(rows)}{rest}"] if rows else []

    constant = [(film, fact) for film, fact in readable if fact.darkest == fact.brightest]
    dark = [(film, fact) for film, fact in readable if 0 < fact.brightest < 2**fact.bits * DARK and fact.bits > 1]
    notes = listed(
        "whose JPEG data have a hole or a damaged place, so that part of the picture is missing or wrong",
        [film.row for film, fact in readable if fact.hole],
        ". Fetch the files again",
    )
    notes += listed(
        "whose JPEG data cannot be searched for holes, because they are progressive or in very many parts",
        [film.row for film, fact in readable if fact.hole is None],
    )
    notes += listed("black throughout", [film.row for film, fact in constant if fact.brightest == 0])
    notes += listed("of one grey level throughout", [film.row for film, fact in constant if fact.brightest > 0])
    notes += listed(
        f"smaller than {TINY} pixels", [film.row for film, fact in readable if min(fact.width, fact.height) < TINY]
    )
    unscored = [film.row for film, _ in readable if not film.scored]
    notes += listed("without any score", unscored)
    if sixteen := [(film, fact) for film, fact in dark if fact.bits == 16]:
        brightest = max(fact.brightest for _, fact in sixteen)
        bits = next(bits for bits in DETECTORS if brightest < 2**bits)
        share = math.ceil(100 * (brightest + 1) / 2**16)
        advice = (
            f". They look like {bits} bits saved in 16, which come out nearly black. If so, put `bits = {bits}` under "
            "[model] in the study file"
        )
        notes += listed(
            f"of 16 bits that use less than {share}% of their range", [film.row for film, _ in sixteen], advice
        )
    others = [film.row for film, fact in dark if fact.bits != 16 and fact.darkest < fact.brightest]
    notes += listed(f"that use less than {DARK:.1%} of their range", others, ". They come out nearly black")
    return notes


def _same_pixels(films: Sequence[tuple[Film, str]]) -> list[Problem]:
    """Return one problem for each picture that is in more than one row."""
    by_pixels: dict[str, list[Film]] = {}
    for film, pixels in films:
        by_pixels.setdefault(pixels, []).append(film)
    problems = []
    for duplicates in by_pixels.values():
        if len(duplicates) > 1:
            description = ["hold the same pixels"]
            if len({film.patient for film in duplicates}) > 1:
                description.append("under different patients")
            if len({film.split for film in duplicates}) > 1:
                description.append("on both sides of the split")
            problems.append(Problem(named_rows([film.row for film in duplicates]), ", ".join(description)))
    return problems


def _folds(development: Sequence[tuple[Film, ImageFacts]], folds: int, seed: int, notes: list[str]) -> list[Part]:
    """Return the folds of the readable development films, or none if there are too few patients."""
    # One of several files with the same bytes is enough: their rows have been reported already.
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
