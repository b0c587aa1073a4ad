"""Artifacts on S3, or on anything that speaks its protocol."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from optuna.artifacts import Boto3ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from rust_optuna.errors import MissingExtraError, StorageError

LOCATION = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]*)(/(?P<prefix>[^?#]*))?")
TRIES = 8
"""Tries of one request; waits double up to 20 seconds."""


class S3Store:
    """The objects of a bucket below a prefix. Credentials, region and endpoint are boto3's own business.

    Args:
        bucket: exists.
        prefix: without slashes at its ends; may be empty.

    Raises:
        MissingExtraError: boto3 is not installed.
        StorageError: boto3's settings are unusable.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix
        with self._errors("be opened"):
            try:
                client = _client()
            except ValueError as error:  # a malformed endpoint
                raise StorageError(f"{self} could not be opened: {error}") from error
            self._store = Boto3ArtifactStore(bucket, client)

    @classmethod
    def at(cls, location: str) -> S3Store:
        """Open the store at ``s3://BUCKET/PREFIX``.

        Raises:
            StorageError: that is not what the location looks like.
        """
        found = LOCATION.fullmatch(location)
        if found is None:
            raise StorageError(
                "The artifacts' location is not s3://BUCKET/PREFIX. Credentials and endpoint do not belong there: set "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL or whatever else boto3 reads"
            )
        return cls(found["bucket"], (found["prefix"] or "").strip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Fetch a whole artifact: they are small, and an error then comes from here and nowhere else.

        Raises:
            ArtifactNotFound: it is not there.
            StorageError: the bucket is not there, or does not answer.
        """
        with self._errors(f"give {artifact_id}"):
            try:
                with self._store.open_reader(self._key(artifact_id)) as body:
                    return io.BytesIO(body.read())
            except ArtifactNotFound as error:
                if "NoSuchBucket" in str(error.__cause__):
                    raise StorageError(f"{self}: there is no bucket {self.bucket}") from error
                raise

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact; S3 shows an object once it is whole.

        Raises:
            StorageError: the bucket is not there, or does not answer.
        """
        with self._errors(f"take {artifact_id}"):
            self._store.write(self._key(artifact_id), content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact, if it is there.

        Raises:
            StorageError: the bucket is not there, or does not answer.
        """
        with self._errors(f"remove {artifact_id}"):
            self._store.remove(self._key(artifact_id))

    def _key(self, artifact_id: str) -> str:
        return f"{self.prefix}/{artifact_id}" if self.prefix else artifact_id

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        errors = _boto3_errors()
        try:
            yield
        except errors as error:
            raise StorageError(f"{self} could not {what}: {' '.join(str(error).split())}") from error


def _boto3_errors() -> tuple[type[Exception], ...]:
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise MissingExtraError("boto3", "s3") from None
    return (Boto3Error, BotoCoreError, ClientError)


def _client() -> Any:
    import boto3
    from botocore.config import Config

    patient = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": TRIES})
    # A session of its own: boto3's shared one is not safe between threads.
    return boto3.session.Session().client("s3", config=patient)
