"""Where out-of-fold scores are kept: an Optuna artifact store, a folder."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound

from rust_optuna.errors import DataError
from rust_optuna.paths import Home, atomic_write


class ArtifactStore(FileSystemArtifactStore):
    """A folder of artifacts, each there as a whole or not at all, even after a power cut.

    Args:
        folder: exists.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact."""
        with atomic_write(self.folder / artifact_id) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(content_body, file)


def open_store(location: str, home: Home) -> ArtifactStore:
    """Open the store at a folder (relative ones are below the home), made where it is missing."""
    folder = home.resolve(location)
    folder.mkdir(parents=True, exist_ok=True)
    return ArtifactStore(folder)


def artifacts_of(storage: optuna.storages.BaseStorage, name: str) -> list[str]:
    """Return the identifiers of all artifacts of an Optuna study's trials, those of failed attempts too."""
    try:
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except KeyError:
        return []
    return [meta.artifact_id for trial in trials for meta in get_all_artifact_meta(trial, storage=storage)]


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
