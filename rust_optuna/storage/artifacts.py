"""Where out-of-fold scores are kept: an Optuna artifact store, in a folder or on S3.

A store belongs to one storage and says so: it holds the token that was made with the database's tables. A worker that
was pointed to another store, or to an empty folder where the right one is not mounted, is refused before it computes.
"""

from __future__ import annotations

import io
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import optuna
import sqlalchemy as sa
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound

from rust_optuna.errors import DataError, StorageError, WrongStoreError
from rust_optuna.paths import Home, atomic_write
from rust_optuna.permissions import lack
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import AttemptState

TOKEN = "rust_optuna_token"  # noqa: S105 (a name; the token is no secret either)
"""The object in a store that says whose it is."""
TOKENS_SINCE = 2
"""The version of the tables that brought the tokens."""
S3 = "s3://"


class ArtifactStore(Protocol):
    """What Optuna needs of a store; ``str`` of one says where it is, without credentials.

    An artifact is there as a whole or not at all. Each method may raise StorageError or OSError where the store itself
    fails.
    """

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact; raise Optuna's ArtifactNotFound where it is not there."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact."""

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; raise ArtifactNotFound where it is not there and the store tells."""


class FolderStore(FileSystemArtifactStore):
    """A folder of artifacts, each whole even after a power cut.

    Args:
        folder: made when something is written to it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact."""
        with atomic_write(self.folder / artifact_id) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(content_body, file)


def open_store(location: str, home: Home) -> ArtifactStore:
    """Open a store: ``s3://BUCKET/PREFIX``, or a folder (relative ones are below the home), made by the first writer.

    Raises:
        StorageError: a malformed location on S3.
        MissingExtraError: S3 needs boto3.
    """
    if location.startswith(S3):
        from rust_optuna.storage.s3 import S3Store

        return S3Store.at(location)
    return FolderStore(home.resolve(location))


def adopt(store: ArtifactStore, database: Database) -> None:
    """Make a store that is nobody's this storage's, or find that it is already; any number of times.

    Raises:
        StorageError: it is another storage's.
    """
    ours, theirs = _token(database), _token_in(store)
    if theirs is None:
        store.write(TOKEN, io.BytesIO(ours.encode()))
    elif theirs != ours:
        raise StorageError(_owned(store, str(database)))


def refuse_owned(store: ArtifactStore, storage: str) -> None:
    """Refuse a store that is some storage's, for a storage that is still to be made.

    Raises:
        StorageError: it is.
    """
    if _token_in(store) is not None:
        raise StorageError(_owned(store, storage))


def _owned(store: ArtifactStore, storage: str) -> str:
    return (
        f"{store} holds the artifacts of another storage than {storage}: name another place with --artifacts; or, "
        "if that storage is gone for good, remove what is there"
    )


def check_owner(store: ArtifactStore, database: Database) -> None:
    """Refuse to work with a store that is not this storage's.

    Raises:
        WrongStoreError: it is another's, or nobody's.
    """
    theirs = _token_in(store)
    if theirs != _token(database):
        why = f"it holds no {TOKEN}" if theirs is None else "it is another storage's"
        raise WrongStoreError(
            f"{store} is not the artifact store of {database} ({why}): name the right one with --artifacts. Where that "
            "one is lost, rust-optuna storage adopt-artifacts takes this one in its place"
        )


def check_writable(store: ArtifactStore) -> None:
    """Refuse a folder that this process may not write to; whether a bucket takes objects shows with the first only.

    Raises:
        WrongStoreError: it may not, with what helps.
    """
    if isinstance(store, FolderStore) and (words := lack(store.folder, write=True)) is not None:
        raise WrongStoreError(f"Trials' scores cannot be kept: {words}")


def _token(database: Database) -> str:
    return database.transact(lambda connection: str(connection.execute(sa.select(tables.schema.c.token)).scalar_one()))


def _token_in(store: ArtifactStore) -> str | None:
    try:
        with store.open_reader(TOKEN) as reader:
            return reader.read().decode(errors="replace")
    except ArtifactNotFound:
        return None


def artifacts_of(storage: optuna.storages.BaseStorage, name: str) -> list[str]:
    """Return the identifiers of all artifacts of an Optuna study's trials, those of failed attempts too."""
    try:
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except KeyError:
        return []
    return [meta.artifact_id for trial in trials for meta in get_all_artifact_meta(trial, storage=storage)]


def missing(store: ArtifactStore, database: Database) -> tuple[int, int]:
    """Return how many complete trials have scores that are not in the store, and how many have scores at all.

    Of tables of any version.

    Raises:
        StorageError: the store does not answer.
    """
    attempt = tables.attempt
    query = sa.select(attempt.c.artifact).where(
        attempt.c.outcome == AttemptState.COMPLETE, attempt.c.artifact.is_not(None)
    )
    named = database.transact(lambda connection: connection.execute(query).scalars().all())
    return sum(not _holds(store, artifact) for artifact in named), len(named)


def _holds(store: ArtifactStore, artifact: str) -> bool:
    try:
        with store.open_reader(artifact):
            return True
    except ArtifactNotFound:
        return False


def download(store: ArtifactStore, artifact: str, path: Path) -> None:
    """Copy an artifact to a file, whole or not at all.

    Raises:
        DataError: it is not in the store.
        StorageError: the store does not answer.
    """
    try:
        with store.open_reader(artifact) as reader, atomic_write(path) as temporary:
            temporary.write_bytes(reader.read())
    except ArtifactNotFound:
        raise DataError(f"Artifact {artifact} is not in {store}: does --artifacts name the right store?") from None


def remove(store: ArtifactStore, artifacts: list[str]) -> None:
    """Remove artifacts; one that is gone already is no error."""
    for artifact in artifacts:
        with suppress(ArtifactNotFound, FileNotFoundError):
            store.remove(artifact)
