"""The hold-out: a share of the patients, set aside once and stratified like the folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rust_optuna.config import HOLDOUT
from rust_optuna.data.folds import stratify
from rust_optuna.data.manifest import (
    SPLITS,
    Film,
    Manifest,
    read_manifest,
    side_problems,
    stack_labels,
    update_manifest,
)
from rust_optuna.data.patients import Settled, settle
from rust_optuna.errors import DataError, DataValueError, ManifestError, Problem


def split_manifest(
    path: Path,
    *,
    holdout: float | None = None,
    seed: int,
    again: bool = False,
    same: Sequence[str] = (),
    different: Sequence[str] = (),
    on_settled: Callable[[Settled], None] | None = None,
) -> Manifest:
    """Assign every patient of a manifest to development or hold-out, and rewrite the manifest atomically.

    Films that have a side keep it. A film without a side goes to that of its patient, and new patients are divided so
    that the hold-out comes closest to its share. Patients are stratified over the 16 subscores and the views. The
    result depends on the films' patients, labels and sides and on ``seed``, but not on the order of the rows.

    Args:
        path: the manifest.
        holdout: the share of films to set aside, between 0 and 1; None for the share that is already set aside, or
            `HOLDOUT` if nothing is split yet.
        seed: the seed; another seed gives another hold-out.
        again: whether to split films anew that are already split.
        same: names of the same patient, see `rust_optuna.data.patients.settle`. With these or ``different``, a manifest
            that is already split keeps its split.
        different: names of different patients.
        on_settled: called with the outcome of these decisions, once the manifest is written.

    Returns:
        The manifest as it is now.

    Raises:
        ManifestError: the manifest breaks its rules, or names of one patient are on both sides of its split.
        PatientNamesError: names are alike, and nobody has said whether they are one patient's.
        DataError: every film is already split, ``holdout`` is out of range, or there are fewer than two patients.
    """
    if holdout is not None and not 0 < holdout < 1:
        meant = f"; for {holdout:g}%, give --holdout {holdout / 100:g}" if 1 < holdout < 100 else ""
        raise DataValueError(f"--holdout is a share between 0 and 1, not {holdout:g}{meant}")
    manifest = read_manifest(path)
    settled = settle(manifest.films, same, different)
    films = tuple(replace(film, split="") for film in settled.films) if again else settled.films
    if all(film.split for film in films) and not same and not different:
        raise DataError(
            f"{path}: all {len(films):,} films are split already. A new split may move hold-out films into "
            "development, after which no result on the hold-out is valid: pass --force to do it anyway"
        )
    if problems := side_problems(films):
        description = (
            "all rows of a patient must be on one side: edit them by hand, or split anew with --force. Either way, "
            "no earlier result on the hold-out is valid"
        )
        raise ManifestError(str(path), [*problems, Problem("split", description)])
    films = _split(films, holdout, seed)
    update_manifest(path, films)
    if on_settled is not None:
        on_settled(settled)
    return read_manifest(path, require_split=True)


def _split(films: Sequence[Film], holdout: float | None, seed: int) -> tuple[Film, ...]:
    """Return all films with a side of the split; films and patients that already have one keep it."""
    placed = {film.patient: SPLITS.index(film.split) for film in films if film.split}
    if any(film.patient not in placed for film in films):
        share = _share(films) if holdout is None else holdout
        patients = [film.patient for film in films]
        parts = stratify(patients, stack_labels(films), [1 - share, share], seed, placed)
        placed = dict(zip(patients, parts.tolist(), strict=True))
    return tuple(replace(film, split=SPLITS[placed[film.patient]]) for film in films)


def _share(films: Sequence[Film]) -> float:
    """Return the share that is already set aside, so that new films change it least, else the default share."""
    sides = [film.split for film in films if film.split]
    return sides.count("holdout") / len(sides) if len(set(sides)) > 1 else HOLDOUT
