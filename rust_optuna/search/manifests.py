"""The manifest from which each study of this home was created.

It is recorded on this machine alone, since no database holds paths. The path of a manifest below the home is relative
to it, so that it stays valid if the home moves.
"""

from __future__ import annotations

import json
from pathlib import Path

from rust_optuna.locks import locked
from rust_optuna.paths import Home, atomic_write


def remember_manifest(home: Home, study: str, manifest: Path) -> None:
    """Record the absolute path of the manifest from which a study was created."""
    if known_manifest(home, study) == manifest:
        return
    path = manifest.relative_to(home.root) if manifest.is_relative_to(home.root) else manifest
    with locked(home.manifests.with_name(f"{home.manifests.name}.lock")):
        known = {**_read(home.manifests), study: str(path)}
        with atomic_write(home.manifests) as temporary:
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def known_manifest(home: Home, study: str) -> Path | None:
    """Return the manifest from which a study was created on this machine; None if it is not known."""
    path = _read(home.manifests).get(study)
    return None if path is None else home.resolve(path)


def _read(path: Path) -> dict[str, str]:
    """Return the path of each study's manifest; a missing or damaged file counts as empty.

    That is no error, because the user can name the manifest.
    """
    try:
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return known
