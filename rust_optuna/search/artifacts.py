"""Where out-of-fold scores are kept: an Optuna artifact store, a folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from rust_optuna.errors import DataError
from rust_optuna.paths import Home, atomic_write

ArtifactStore: TypeAlias = FileSystemArtifactStore


def open_store(location: str, home: Home) -> ArtifactStore:
    """Open the store at a folder (relative ones are below the home), made where it is missing."""
    folder = home.resolve(location)
    folder.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(folder)


def download(store: ArtifactStore, artifact: str, path: Path) -> None:
    """Copy an artifact to a file, whole or not at all.

    Raises:
        DataError: it is not in the store.
    """
    try:
        with store.open_reader(artifact) as reader, atomic_write(path) as temporary:
            temporary.write_bytes(reader.read())
    except ArtifactNotFound:
        raise DataError(f"Artifact {artifact} is not in the store: is --artifacts the right folder?") from None


def remove(store: ArtifactStore, artifacts: list[str]) -> None:
    """Remove artifacts; one that is gone already is no error."""
    for artifact in artifacts:
        with suppress(ArtifactNotFound, FileNotFoundError):
            store.remove(artifact)
