"""The store of out-of-fold scores: an Optuna artifact store, in a folder or on S3.

A store belongs to one storage, whose token it holds; the token was made with the database's tables. So a worker that
was pointed to another store, or to an empty folder where the right one is not mounted, is refused before it computes.

``optuna.artifacts`` is imported at first use: it imports boto3 wherever that is installed, which takes a fifth of the
time in which a worker starts.
"""

from __future__ import annotations

import io
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import optuna
import sqlalchemy as sa

from rust_optuna.errors import DataError, StorageError, WrongStoreError
from rust_optuna.paths import Home, atomic_write
from rust_optuna.permissions import lack
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import AttemptState

TOKEN = "rust_optuna_token"  # noqa: S105 (a name; the token is no secret either)
"""The object in a store that names the storage it belongs to."""
TOKENS_SINCE = 2
"""The version of the tables that introduced tokens."""
S3 = "s3://"


class ArtifactStore(Protocol):
    """The interface that Optuna needs; ``str`` of a store is its location without credentials.

    A store never shows part of an artifact. Each method may raise StorageError or OSError where the store itself fails.
    """

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact; raise Optuna's ArtifactNotFound if it is not in the store."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact."""

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; raise ArtifactNotFound if it is not in the store and the store reports that."""


@dataclass(frozen=True)
class FolderStore:
    """A folder of artifacts, each of which is whole even after a power cut.

    Args:
        folder: the folder; it is made at the first write.
    """

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact.

        Raises:
            ArtifactNotFound: the artifact is not in the folder.
        """
        try:
            return self._path(artifact_id).open("rb")
        except FileNotFoundError as error:
            raise _not_found()(artifact_id) from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact."""
        with atomic_write(self._path(artifact_id)) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(content_body, file)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact.

        Raises:
            ArtifactNotFound: the artifact is not in the folder.
        """
        try:
            self._path(artifact_id).unlink()
        except FileNotFoundError as error:
            raise _not_found()(artifact_id) from error

    def _path(self, artifact_id: str) -> Path:
        # The dashboard asks for whatever stands in an address.
        if artifact_id in ("", "..") or artifact_id != Path(artifact_id).name:
            raise _not_found()(artifact_id)
        return self.folder / artifact_id


def _not_found() -> type[Exception]:
    """Return the exception by which stores report an artifact that they do not hold."""
    from optuna.artifacts.exceptions import ArtifactNotFound

    return ArtifactNotFound


def open_store(location: str, home: Home) -> ArtifactStore:
    """Open the store at ``s3://BUCKET/PREFIX`` or in a folder, which is made at the first write.

    Args:
        location: the location; a relative folder is below the home.
        home: the root of relative paths.

    Raises:
        StorageError: the location on S3 is malformed.
        MissingExtraError: the store is on S3, and boto3 is not installed.
    """
    if location.startswith(S3):
        from rust_optuna.storage.s3 import S3Store

        return S3Store.at(location)
    return FolderStore(home.resolve(location))


def adopt(store: ArtifactStore, database: Database) -> None:
    """Make a store that belongs to no storage this storage's own; change nothing if it already is.

    Raises:
        StorageError: the store belongs to another storage.
    """
    storage_token, store_token = _token(database), _token_in(store)
    if store_token is None:
        store.write(TOKEN, io.BytesIO(storage_token.encode()))
    elif store_token != storage_token:
        raise StorageError(_foreign_store_message(store, str(database)))


def refuse_owned(store: ArtifactStore, storage: str) -> None:
    """Refuse a store that belongs to any storage, before a new storage is made.

    Raises:
        StorageError: the store belongs to a storage.
    """
    if _token_in(store) is not None:
        raise StorageError(_foreign_store_message(store, storage))


def _foreign_store_message(store: ArtifactStore, storage: str) -> str:
    return (
        f"{store} holds the artifacts of another storage than {storage}: name another place with --artifacts, or, if "
        "that other storage is gone for good, remove its artifacts"
    )


def check_owner(store: ArtifactStore, database: Database) -> None:
    """Refuse a store that does not belong to this storage.

    Raises:
        WrongStoreError: the store belongs to another storage, or to none.
    """
    token = _token_in(store)
    if token != _token(database):
        reason = f"it holds no {TOKEN}" if token is None else "it is another storage's"
        raise WrongStoreError(
            f"{store} is not the artifact store of {database} ({reason}): name the right one with --artifacts. If that "
            "one is lost, rust-optuna storage adopt-artifacts puts this one in its place"
        )


def check_writable(store: ArtifactStore) -> None:
    """Refuse a folder that this process may not write to. A bucket is not checked: only a first write would show.

    Raises:
        WrongStoreError: the process lacks the permission; the message says what helps.
    """
    if isinstance(store, FolderStore) and (problem := lack(store.folder, write=True)) is not None:
        raise WrongStoreError(f"The trials' scores cannot be stored: {problem}")


def _token(database: Database) -> str:
    return database.transact(lambda connection: str(connection.execute(sa.select(tables.schema.c.token)).scalar_one()))


def _token_in(store: ArtifactStore) -> str | None:
    try:
        with store.open_reader(TOKEN) as reader:
            return reader.read().decode(errors="replace")
    except _not_found():
        return None


def artifacts_of(storage: optuna.storages.BaseStorage, name: str) -> list[str]:
    """Return the identifiers of all artifacts of an Optuna study's trials, including those of failed attempts."""
    from optuna.artifacts import get_all_artifact_meta

    try:
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except KeyError:
        return []
    return [meta.artifact_id for trial in trials for meta in get_all_artifact_meta(trial, storage=storage)]


def missing(store: ArtifactStore, database: Database) -> tuple[int, int]:
    """Return how many complete trials' scores are not in the store, and how many complete trials have scores at all.

    The database's tables may be of any version.

    Raises:
        StorageError: the store does not answer.
    """
    attempt = tables.attempt
    query = sa.select(attempt.c.artifact).where(
        attempt.c.outcome == AttemptState.COMPLETE, attempt.c.artifact.is_not(None)
    )
    artifacts = database.transact(lambda connection: connection.execute(query).scalars().all())
    return sum(not _holds(store, artifact) for artifact in artifacts), len(artifacts)


def _holds(store: ArtifactStore, artifact: str) -> bool:
    try:
        with store.open_reader(artifact):
            return True
    except _not_found():
        return False


def download(store: ArtifactStore, artifact: str, path: Path) -> None:
    """Copy an artifact to a file. A copy that fails leaves no file.

    Raises:
        DataError: the artifact is not in the store.
        StorageError: the store does not answer.
    """
    try:
        with store.open_reader(artifact) as reader, atomic_write(path) as temporary:
            temporary.write_bytes(reader.read())
    except _not_found():
        raise DataError(f"Artifact {artifact} is not in {store}: does --artifacts name the right store?") from None


def remove(store: ArtifactStore, artifacts: list[str]) -> None:
    """Remove artifacts; ignore those that are already gone."""
    for artifact in artifacts:
        with suppress(_not_found()):
            store.remove(artifact)
