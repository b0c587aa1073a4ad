"""The hold-out: a share of the patients, set aside once and stratified like the folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rust_optuna.data.folds import stratify
from rust_optuna.data.manifest import Film, Manifest, read_manifest, split_problems, stack_labels, write_manifest
from rust_optuna.data.patients import Settled, settle
from rust_optuna.errors import DataError, ManifestError, Problem


def split_manifest(
    path: Path,
    *,
    holdout: float,
    seed: int,
    again: bool = False,
    same: Sequence[str] = (),
    different: Sequence[str] = (),
    on_settled: Callable[[Settled], None] | None = None,
) -> Manifest:
    """Assign every patient of a manifest to development or hold-out, and rewrite the manifest atomically.

    Patients are stratified over the 16 subscores and the views. The result depends on the films' patients and
    labels and on ``seed``, not on the order of the rows.

    Args:
        path: the manifest.
        holdout: the share of films to set aside, between 0 and 1.
        seed: another seed, another hold-out.
        again: split anew what already is split.
        same: names that are one patient's, see `rust_optuna.data.patients.settle`. With these or ``different``, a
            manifest that is split already keeps its split.
        different: names that are different patients'.
        on_settled: told what these came to, once the manifest is written.

    Returns:
        The manifest as it is now.

    Raises:
        ManifestError: the manifest breaks its rules, or names of one patient are on both sides of its split.
        PatientNamesError: names are alike, and it is not said whether they are one patient's.
        DataError: it is split already, ``holdout`` is out of range, or there are fewer than two patients.
    """
    if not 0 < holdout < 1:
        raise DataError(f"the hold-out's share is between 0 and 1, not {holdout}")
    manifest = read_manifest(path)
    settled = settle(manifest.films, same, different)
    manifest = replace(manifest, films=settled.films)
    done = sum(bool(film.split) for film in manifest.films)
    if done and not again:
        if not same and not different:
            count = f"{done:,} of {len(manifest.films):,}"
            raise DataError(
                f"{path}: {count} films are split already. A new split may move hold-out films into "
                "development, after which no result on the hold-out counts: pass --force if you mean it"
            )
        if problems := split_problems(manifest.films):
            what = (
                "all rows of a patient belong on one side: give them one by hand, or split anew with --force. Either "
                "way, no earlier result on the hold-out counts"
            )
            raise ManifestError(str(path), [*problems, Problem("split", what)])
        films = manifest.films
    else:
        films = _split(manifest, holdout, seed)
    write_manifest(path, films)
    if on_settled is not None:
        on_settled(settled)
    return read_manifest(path, require_split=True)


def _split(manifest: Manifest, holdout: float, seed: int) -> tuple[Film, ...]:
    """Return all films with their side of the split."""
    parts = stratify(
        [film.patient for film in manifest.films],
        stack_labels(manifest.films),
        [1 - holdout, holdout],
        seed,
    )
    names = ("development", "holdout")
    return tuple(replace(f, split=names[part]) for f, part in zip(manifest.films, parts, strict=True))
