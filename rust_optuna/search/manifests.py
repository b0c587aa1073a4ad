"""Which manifest each study of this home was created from: kept on this machine alone, for no database holds paths.

A manifest below the home is kept by its path from there, so that a home that moves takes it along.
"""

from __future__ import annotations

import json
from pathlib import Path

from rust_optuna.locks import locked
from rust_optuna.paths import Home, atomic_write


def remember_manifest(home: Home, study: str, manifest: Path) -> None:
    """Note that a study was created from a manifest, an absolute path."""
    if known_manifest(home, study) == manifest:
        return
    kept = manifest.relative_to(home.root) if manifest.is_relative_to(home.root) else manifest
    with locked(home.manifests.with_name(f"{home.manifests.name}.lock")):
        known = {**_read(home.manifests), study: str(kept)}
        with atomic_write(home.manifests) as temporary:
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def known_manifest(home: Home, study: str) -> Path | None:
    """Return the manifest that a study was created from on this machine, None where that is not known."""
    path = _read(home.manifests).get(study)
    return None if path is None else home.resolve(path)


def _read(path: Path) -> dict[str, str]:
    """Return what the file says; one that is missing or damaged says nothing, for a user can name the manifest."""
    try:
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return known
