"""The hold-out: a share of the patients, set aside once and stratified like the folds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rust_optuna.data.folds import stratify
from rust_optuna.data.manifest import Manifest, read_manifest, stack_labels, write_manifest
from rust_optuna.errors import DataError, DataValueError


def split_manifest(path: Path, *, holdout: float, seed: int, again: bool = False) -> Manifest:
    """Assign every patient of a manifest to development or hold-out, and rewrite the manifest atomically.

    Patients are stratified over the 16 subscores and the views. The result depends on the films' patients and
    labels and on ``seed``, not on the order of the rows.

    Args:
        path: the manifest.
        holdout: the share of films to set aside, between 0 and 1.
        seed: another seed, another hold-out.
        again: split anew what already is split.

    Returns:
        The manifest as it is now.

    Raises:
        ManifestError: the manifest breaks its rules.
        DataError: it is split already, ``holdout`` is out of range, or there are fewer than two patients.
    """
    if not 0 < holdout < 1:
        raise DataValueError(f"the hold-out's share is between 0 and 1, not {holdout}")
    manifest = read_manifest(path)
    done = sum(bool(film.split) for film in manifest.films)
    if done and not again:
        count = f"{done:,} of {len(manifest.films):,}"
        raise DataError(
            f"{path}: {count} films are split already. A new split may move hold-out films into "
            "development, after which no result on the hold-out counts: pass --force if you mean it"
        )
    parts = stratify(
        [film.patient for film in manifest.films],
        stack_labels(manifest.films),
        [1 - holdout, holdout],
        seed,
    )
    names = ("development", "holdout")
    films = tuple(replace(f, split=names[part]) for f, part in zip(manifest.films, parts, strict=True))
    write_manifest(path, films)
    return read_manifest(path, require_split=True)
