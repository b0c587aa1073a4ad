"""The development set: what search and training see, without a name, a number or a path."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.folds import assign_folds, check_disjoint
from rust_optuna.data.manifest import (
    CORTICES,
    LABELS,
    SUBSCORES,
    VIEWS,
    Film,
    Manifest,
    named_rows,
    split_problems,
    stack_labels,
)
from rust_optuna.data.threads import Progress
from rust_optuna.data.views import mapping_of_labels, mapping_problems
from rust_optuna.errors import DataError, ManifestError, Problem


# Compared by fingerprint: a generated __eq__ would compare arrays, whose truth is not defined.
@dataclass(frozen=True, eq=False)
class DevelopmentSet:
    """The n films that search and training see, sorted by content hash.

    Args:
        content: sha256 of each film's bytes, hex.
        patients: a pseudonym of each film's patient, see `pseudonyms`.
        views: each film's view.
        labels: (n, 18) uint8, order `LABELS`; kept as a read-only copy.
        folds: (n,) int64, each film's fold, 0 to k-1; kept as a read-only copy.

    Raises:
        DataError: shapes disagree, films are not sorted or not distinct, views are not those of the labels,
        or a
            patient has films in two folds.
    """

    content: tuple[str, ...]
    patients: tuple[str, ...]
    views: tuple[str, ...]
    labels: np.ndarray
    folds: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (("labels", np.uint8), ("folds", np.int64)):
            array = np.array(getattr(self, name), dtype=dtype)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        films = len(self.content)
        lengths = {len(self.patients), len(self.views), len(self.folds)}
        if films == 0 or lengths != {films} or self.labels.shape != (films, len(LABELS)):
            raise DataError(f"a development set of {films} films whose columns do not fit them")
        if any(a >= b for a, b in zip(self.content, self.content[1:], strict=False)):
            raise DataError("a development set whose films are not distinct and sorted by content")
        shown = tuple(VIEWS[position] for position in self.labels[:, : len(VIEWS)].argmax(axis=1))
        if shown != self.views or self.labels.max() > 1:
            raise DataError("a development set whose labels are not of its views, or not of 0 and 1")
        if set(self.folds.tolist()) != set(range(int(self.folds.max()) + 1)):
            raise DataError("a development set with an empty fold")
        check_disjoint(self.patients, self.folds)

    @property
    def cortices(self) -> dict[str, tuple[str, ...]]:
        """View → the cortices its films show, read off the labels.

        Raises:
            DataError: a cortex is scored on films of both views.
        """
        mapping = mapping_of_labels(self.labels)
        if mapping.contradictions:
            named = ", ".join(c.cortex for c in mapping.contradictions)
            raise DataError(
                f"Films of both views carry scores of {named}: `rust-optuna data check MANIFEST` names the rows"
            )
        return mapping.cortices

    def fingerprint(self) -> str:
        """Return the sha256, hex, over films, patients, labels and folds."""
        digest = hashlib.sha256(b"development set 1\n")
        rows = zip(self.content, self.patients, self.labels.tolist(), self.folds.tolist(), strict=True)
        for row in rows:
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()


def pseudonyms(content: Sequence[str], patients: Sequence[str]) -> list[str]:
    """Return each film's patient under a name that needs no key and holds nothing of the clinic's.

    It is the first 16 hex digits of the sha256 of ``patient:`` and the smallest content hash among the
    patient's films, so the same films give the same name everywhere.
    """
    first: dict[str, str] = {}
    for film, patient in zip(content, patients, strict=True):
        first[patient] = min(film, first.get(patient, film))
    return [hashlib.sha256(f"patient:{first[patient]}".encode()).hexdigest()[:16] for patient in patients]


def development_set(
    manifest: Manifest, index: FilmIndex, *, folds: int, seed: int, progress: Progress | None = None
) -> DevelopmentSet:
    """Return the development films of a manifest with their folds; hold-out films are not opened, nor indexed.

    Args:
        manifest: split by `rust_optuna.data.split`.
        index: learns where the development films lie.
        folds: how many folds.
        seed: of the folds.
        progress: called while films are hashed.

    Raises:
        ManifestError: films have no split, patients are on both sides of it, or two rows hold the same film.
        DataError: a film cannot be read, or there are too few patients.
    """
    problems = split_problems(manifest.films) + mapping_problems(manifest.films)
    if problems:
        raise ManifestError(str(manifest.path), problems)
    films = manifest.part("development")
    if not films:
        raise DataError(f"{manifest.path}: no film is in the development set")
    hashes = index.add([film.image for film in films], progress)
    by_content: dict[str, list[Film]] = {}
    for film in films:
        by_content.setdefault(hashes[film.image], []).append(film)
    problems = [
        Problem(named_rows([film.row for film in same]), "are the same film")
        for same in by_content.values()
        if len(same) > 1
    ]
    if problems:
        raise ManifestError(str(manifest.path), problems)
    content = sorted(by_content)
    films = tuple(by_content[film][0] for film in content)
    labels = stack_labels(films)
    patients = pseudonyms(content, [film.patient for film in films])
    return DevelopmentSet(
        content=tuple(content),
        patients=tuple(patients),
        views=tuple(film.view for film in films),
        labels=labels,
        folds=assign_folds(content, patients, labels, folds=folds, seed=seed),
    )


def development_differences(
    ours: DevelopmentSet, theirs: DevelopmentSet, index: FilmIndex, root: Path, most: int = 3
) -> list[str]:
    """Return in words what is other in a development set than in that of a study: which films, and what of them.

    Nothing, where they differ in the folds alone.

    The words name files, for the terminal of whoever holds them and for nothing else.

    Args:
        ours: as the manifest has it.
        theirs: as the study was created with.
        index: knows where films lie.
        root: files below this folder are named from there.
        most: how many films are named of each kind of difference.
    """
    here, there = ({film: row for row, film in enumerate(films.content)} for films in (ours, theirs))
    both = [film for film in ours.content if film in there]
    # Pseudonyms change with the films of a patient, so who belongs together is compared, not what they are called.
    ours_of, theirs_of = _companions(ours, both), _companions(theirs, both)

    def named(films: Sequence[str]) -> str:
        others = f" and {_other_films(len(films) - most)}" if len(films) > most else ""
        return ", ".join(_name(film, index, root) for film in films[:most]) + others

    new = {film: (ours.labels[row].tobytes(), ours_of[film]) for film, row in here.items() if film not in there}
    gone = {film: (theirs.labels[row].tobytes(), theirs_of[film]) for film, row in there.items() if film not in here}
    # What was scored alike, of the same patient, stood in the place of the new file.
    known = Counter(gone.values())
    changed = {key for key, count in Counter(new.values()).items() if known[key] == count}
    found = []
    if replaced := [film for film, key in new.items() if key in changed]:
        found.append(f"{named(replaced)} {'has' if len(replaced) == 1 else 'have'} changed since the study was created")
    if added := [film for film, key in new.items() if key not in changed]:
        found.append(f"{named(added)} {'is' if len(added) == 1 else 'are'} in the manifest and not in the study")
    if lost := [film for film, key in gone.items() if key not in changed]:
        be = "is" if len(lost) == 1 else "are"
        found.append(f"{named(lost)} {be} in the study and not among the development films of the manifest")
    labelled = [film for film in both if not np.array_equal(ours.labels[here[film]], theirs.labels[there[film]])]
    for film in labelled[:most]:
        found += _changes(_name(film, index, root), ours.labels[here[film]], theirs.labels[there[film]])
    if len(labelled) > most:
        count = len(labelled) - most
        found.append(f"{_other_films(count)} {'has' if count == 1 else 'have'} other labels, too")
    if moved := [film for film in both if ours_of[film] != theirs_of[film]]:
        found.append(f"the patient of {named(moved)} is another than when the study was created")
    return found


def _changes(name: str, now: np.ndarray, before: np.ndarray) -> list[str]:
    """Return in words how a film's label has changed, as the columns of the manifest have it."""
    (view, scores), (old_view, old_scores) = _columns(now), _columns(before)
    changes = [("view", view, old_view)] if view != old_view else []
    changes += [(c, scores[c], old_scores[c]) for c in CORTICES if scores[c] != old_scores[c]]
    return [f"{c} of {name} is {n} in the manifest and was {was} when the study was created" for c, n, was in changes]


def _columns(label: np.ndarray) -> tuple[str, dict[str, str]]:
    """Return the view and the subscore of each cortex that a label stands for."""
    subscores = label[len(VIEWS) :].reshape(len(CORTICES), len(SUBSCORES))
    scores = {
        c: str(SUBSCORES[row.argmax()]) if row.any() else "empty" for c, row in zip(CORTICES, subscores, strict=True)
    }
    return VIEWS[int(label[: len(VIEWS)].argmax())], scores


def _companions(films: DevelopmentSet, among: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return, for each film, those films of its patient that are ``among`` some."""
    of_patient: dict[str, set[str]] = {patient: set() for patient in films.patients}
    patient_of = dict(zip(films.content, films.patients, strict=True))
    for film in among:
        of_patient[patient_of[film]].add(film)
    groups = {patient: frozenset(group) for patient, group in of_patient.items()}
    return {film: groups[patient] for film, patient in patient_of.items()}


def _other_films(count: int) -> str:
    return "1 other film" if count == 1 else f"{count:,} other films"


def _name(film: str, index: FilmIndex, root: Path) -> str:
    """Return a film's file from ``root``, or its content where no file is known."""
    try:
        path = index.locate(film)
    except DataError:
        return f"film {film[:12]}"
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
