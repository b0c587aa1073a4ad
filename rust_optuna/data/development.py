"""The development set: the films that search and training see, without a name, a number or a path."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.folds import assign_folds, check_disjoint
from rust_optuna.data.manifest import (
    CORTICES,
    LABELS,
    SOURCE,
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
from rust_optuna.errors import DataError, DataValueError, ManifestError, Problem


# Sets are compared by fingerprint: a generated __eq__ would compare arrays, whose truth value is undefined.
@dataclass(frozen=True, eq=False)
class DevelopmentSet:
    """The n films that search and training see, sorted by content hash.

    Args:
        content: the sha256 of each film's bytes, hex.
        patients: the pseudonym of each film's patient, see `pseudonyms`.
        views: each film's view.
        labels: (n, 18) uint8 in the order of `LABELS`; stored as a read-only copy.
        folds: (n,) int64, each film's fold, 0 to k-1; stored as a read-only copy.

    Raises:
        DataError: shapes disagree, films are not sorted or not distinct, labels are not 0 or 1 or contradict the views,
            a fold is empty, or a patient has films in two folds.
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
            raise DataError(f"The development set has {films} films, and its columns do not have as many rows")
        if any(a >= b for a, b in zip(self.content, self.content[1:], strict=False)):
            raise DataError("The development set's films are not distinct and sorted by content")
        shown = tuple(VIEWS[position] for position in self.labels[:, : len(VIEWS)].argmax(axis=1))
        if shown != self.views or self.labels.max() > 1:
            raise DataError("The development set's labels contradict its views, or are not 0 or 1")
        if set(self.folds.tolist()) != set(range(int(self.folds.max()) + 1)):
            raise DataError("The development set has an empty fold")
        check_disjoint(self.patients, self.folds)

    @property
    def cortices(self) -> dict[str, tuple[str, ...]]:
        """The cortices that the films of each view show, inferred from the labels.

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
        """Return the sha256, hex, of films, patients, labels and folds."""
        digest = hashlib.sha256(b"development set 1\n")
        rows = zip(self.content, self.patients, self.labels.tolist(), self.folds.tolist(), strict=True)
        for row in rows:
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()


def pseudonyms(content: Sequence[str], patients: Sequence[str]) -> list[str]:
    """Return each film's patient under a pseudonym that needs no key and reveals nothing of the clinic's records.

    It is the first 16 hex digits of the sha256 of ``patient:`` and the smallest content hash among the patient's films,
    so the same films give the same pseudonym everywhere.
    """
    first: dict[str, str] = {}
    for film, patient in zip(content, patients, strict=True):
        first[patient] = min(film, first.get(patient, film))
    return [hashlib.sha256(f"patient:{first[patient]}".encode()).hexdigest()[:16] for patient in patients]


def development_set(
    manifest: Manifest, index: FilmIndex, *, folds: int, seed: int, progress: Progress | None = None
) -> DevelopmentSet:
    """Return the development films of a manifest with their folds; hold-out films are neither opened nor indexed.

    Args:
        manifest: a manifest that `rust_optuna.data.split` has split.
        index: the index that records where the development films are.
        folds: the number of folds.
        seed: the seed of the folds.
        progress: called while films are hashed.

    Raises:
        ManifestError: films have no split, patients are on both sides of it, or two rows hold the same film.
        DataError: a film cannot be read, or there are too few patients.
    """
    rows = _development_rows(manifest, index, progress)
    content = sorted(rows)
    films = [rows[film] for film in content]
    patients = pseudonyms(content, [film.patient for film in films])
    return _set_of(rows, assign_folds(content, patients, stack_labels(films), folds=folds, seed=seed))


def development_set_by_source(manifest: Manifest, index: FilmIndex) -> DevelopmentSet:
    """Return the development films of a manifest with a fold for each source, in the order of `sources_of`.

    Args:
        manifest: a manifest that `rust_optuna.data.split` has split.
        index: the index that records where the development films are.

    Raises:
        ManifestError: as for `development_set`.
        DataError: a film cannot be read, or as for `sources_of`.
    """
    sources = sources_of(manifest)
    rows = _development_rows(manifest, index, None)
    return _set_of(rows, np.array([sources.index(rows[film].source) for film in sorted(rows)]))


def sources_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the sources of a manifest's development films, sorted: the hospitals or earlier studies.

    Raises:
        DataError: films have no source, all have the same one, or a patient has films of two.
    """
    films = manifest.part("development")
    without = [film.row for film in films if not film.source]
    if len(without) == len(films):
        raise DataValueError(f"{manifest.path} does not say where its films come from: it has no column `{SOURCE}`")
    if without:
        raise DataValueError(f"{manifest.path}: {named_rows(without)} without a {SOURCE}, which every film needs")
    sources = sorted({film.source for film in films})
    if len(sources) < 2:
        raise DataValueError(f"{manifest.path}: all development films are of one {SOURCE}, and leaving out takes two")
    first: dict[str, Film] = {}
    for film in films:
        other = first.setdefault(film.patient, film)
        if other.source != film.source:
            raise DataValueError(
                f"{manifest.path}: {named_rows([other.row, film.row])} are of one patient and of two sources, and a "
                "patient whose films are left out may not be trained on"
            )
    return tuple(sources)


def _development_rows(manifest: Manifest, index: FilmIndex, progress: Progress | None) -> dict[str, Film]:
    """Return the content hash of each development film, with its row."""
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
        Problem(named_rows([film.row for film in duplicates]), "are the same film")
        for duplicates in by_content.values()
        if len(duplicates) > 1
    ]
    if problems:
        raise ManifestError(str(manifest.path), problems)
    return {film: rows[0] for film, rows in by_content.items()}


def _set_of(rows: Mapping[str, Film], folds: np.ndarray) -> DevelopmentSet:
    """Return films as a development set.

    Args:
        rows: the content hash of each film, with its row.
        folds: the fold of each film, in order of content.
    """
    content = sorted(rows)
    films = [rows[film] for film in content]
    return DevelopmentSet(
        content=tuple(content),
        patients=tuple(pseudonyms(content, [film.patient for film in films])),
        views=tuple(film.view for film in films),
        labels=stack_labels(films),
        folds=folds,
    )


def development_differences(
    current: DevelopmentSet, created: DevelopmentSet, index: FilmIndex, root: Path, most: int = 3
) -> list[str]:
    """Return sentences about how a manifest's development set differs from that of a study.

    The list is empty if only the folds differ. The sentences name files, so they are only for the terminal of the
    person who has the files.

    Args:
        current: the development set of the manifest as it is now.
        created: the development set that the study was created with.
        index: the index that knows where the films are.
        root: the folder to which the paths of files below it are shown relative.
        most: the maximum number of films named for each kind of difference.
    """
    now, before = ({film: row for row, film in enumerate(films.content)} for films in (current, created))
    both = [film for film in current.content if film in before]
    # Pseudonyms change with a patient's films, so the groups of films are compared, not the names.
    now_with, before_with = _companions(current, both), _companions(created, both)

    def named(films: Sequence[str]) -> str:
        others = f" and {_other_films(len(films) - most)}" if len(films) > most else ""
        return ", ".join(_name(film, index, root) for film in films[:most]) + others

    new = {film: (current.labels[row].tobytes(), now_with[film]) for film, row in now.items() if film not in before}
    gone = {film: (created.labels[row].tobytes(), before_with[film]) for film, row in before.items() if film not in now}
    # A missing film of the same patient with the same label is taken for the former version of the new file.
    former = Counter(gone.values())
    changed = {key for key, count in Counter(new.values()).items() if former[key] == count}
    sentences = []
    if replaced := [film for film, key in new.items() if key in changed]:
        have = "has" if len(replaced) == 1 else "have"
        sentences.append(f"{named(replaced)} {have} changed since the study was created")
    if added := [film for film, key in new.items() if key not in changed]:
        sentences.append(f"{named(added)} {'is' if len(added) == 1 else 'are'} in the manifest but not in the study")
    if lost := [film for film, key in gone.items() if key not in changed]:
        be = "is" if len(lost) == 1 else "are"
        sentences.append(f"{named(lost)} {be} in the study but not among the development films of the manifest")
    relabelled = [film for film in both if not np.array_equal(current.labels[now[film]], created.labels[before[film]])]
    for film in relabelled[:most]:
        sentences += _changes(_name(film, index, root), current.labels[now[film]], created.labels[before[film]])
    if len(relabelled) > most:
        count = len(relabelled) - most
        sentences.append(f"{_other_films(count)} {'has' if count == 1 else 'have'} other labels, too")
    if moved := [film for film in both if now_with[film] != before_with[film]]:
        sentences.append(f"the patient of {named(moved)} is not the same as when the study was created")
    return sentences


def _changes(name: str, now: np.ndarray, before: np.ndarray) -> list[str]:
    """Return sentences about how a film's label has changed, in terms of the manifest's columns."""
    (view, scores), (old_view, old_scores) = _columns(now), _columns(before)
    changes = [("view", view, old_view)] if view != old_view else []
    changes += [(c, scores[c], old_scores[c]) for c in CORTICES if scores[c] != old_scores[c]]
    return [f"{c} of {name} is {n} in the manifest and was {old} when the study was created" for c, n, old in changes]


def _columns(label: np.ndarray) -> tuple[str, dict[str, str]]:
    """Return the view and the subscore of each cortex in a label."""
    subscores = label[len(VIEWS) :].reshape(len(CORTICES), len(SUBSCORES))
    scores = {
        c: str(SUBSCORES[row.argmax()]) if row.any() else "empty" for c, row in zip(CORTICES, subscores, strict=True)
    }
    return VIEWS[int(label[: len(VIEWS)].argmax())], scores


def _companions(films: DevelopmentSet, among: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return, for each film, the films ``among`` these that belong to the same patient."""
    of_patient: dict[str, set[str]] = {patient: set() for patient in films.patients}
    patient_of = dict(zip(films.content, films.patients, strict=True))
    for film in among:
        of_patient[patient_of[film]].add(film)
    groups = {patient: frozenset(group) for patient, group in of_patient.items()}
    return {film: groups[patient] for film, patient in patient_of.items()}


def _other_films(count: int) -> str:
    return "1 other film" if count == 1 else f"{count:,} other films"


def _name(film: str, index: FilmIndex, root: Path) -> str:
    """Return a film's path relative to ``root``, or its content hash if no path is known."""
    try:
        path = index.locate(film)
    except DataError:
        return f"film {film[:12]}"
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
