"""The development set: what search and training see, without a name, a number or a path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.folds import assign_folds, check_disjoint
from rust_optuna.data.manifest import (
    LABELS,
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
            raise DataError(f"scored on films of both views: {named}. `rust-optuna data check MANIFEST` names the rows")
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


def development_differences(ours: DevelopmentSet, theirs: DevelopmentSet, index: FilmIndex) -> list[str]:
    """Return in words what is other in a development set than in that of a study: which films, and what of them.

    The words name files, for the terminal of whoever holds them and for nothing else.

    Args:
        ours: as the manifest has it.
        theirs: as the study was created with.
        index: knows where films lie.
    """
    here, there = ({film: row for row, film in enumerate(films.content)} for films in (ours, theirs))
    both = [film for film in ours.content if film in there]
    found = []
    if new := [film for film in ours.content if film not in there]:
        found.append(f"the manifest has {_named(new, index)}, which the study has not")
    if gone := [film for film in theirs.content if film not in here]:
        found.append(f"the study has {_named(gone, index)}, which the manifest has not among its development films")
    labelled = [film for film in both if not np.array_equal(ours.labels[here[film]], theirs.labels[there[film]])]
    if labelled:
        first = labelled[0]
        changes = [
            f"{name} is {'set' if now else 'not set'} here and {'set' if was else 'not set'} there"
            for name, now, was in zip(LABELS, ours.labels[here[first]], theirs.labels[there[first]], strict=True)
            if now != was
        ]
        which = "its labels" if len(labelled) == 1 else "labels"
        found.append(f"{which} differ of {_named(labelled, index)} ({', '.join(changes)} of the first)")
    # Pseudonyms change with the films of a patient, so who belongs together is compared, not what they are called.
    ours_of = _companions(both, [ours.patients[here[film]] for film in both])
    theirs_of = _companions(both, [theirs.patients[there[film]] for film in both])
    if moved := [film for film in both if ours_of[film] != theirs_of[film]]:
        found.append(f"the patient differs of {_named(moved, index)}")
    return found or ["the films and labels are the same and the folds differ"]


def _companions(films: Sequence[str], patients: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return, for each film, the films of its patient."""
    of_patient: dict[str, set[str]] = {}
    for film, patient in zip(films, patients, strict=True):
        of_patient.setdefault(patient, set()).add(film)
    groups = {patient: frozenset(group) for patient, group in of_patient.items()}
    return {film: groups[patient] for film, patient in zip(films, patients, strict=True)}


def _named(films: Sequence[str], index: FilmIndex, most: int = 3) -> str:
    """Return films as words: how many, and the first few by file, or by content where no file is known."""
    names = []
    for film in films[:most]:
        try:
            names.append(str(index.locate(film)))
        except DataError:
            names.append(f"film {film[:12]}")
    count = "1 film" if len(films) == 1 else f"{len(films):,} films"
    return f"{count} ({', '.join(names)}{', …' if len(films) > most else ''})"
