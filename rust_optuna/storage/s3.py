"""An artifact store on S3, or on any service that speaks its protocol."""

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
"""How often one request is tried; the waits between tries double, up to 20 seconds."""


class S3Store:
    """The objects of a bucket below a prefix. boto3 itself reads credentials, region and endpoint.

    Args:
        bucket: the name of an existing bucket.
        prefix: the prefix, without slashes at its ends; it may be empty.

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
            except ValueError as error:  # the endpoint is malformed
                raise StorageError(f"{self} could not be opened: {error}") from error
            self._store = Boto3ArtifactStore(bucket, client)

    @classmethod
    def at(cls, location: str) -> S3Store:
        """Open the store at ``s3://BUCKET/PREFIX``.

        Raises:
            StorageError: the location is malformed.
        """
        match = LOCATION.fullmatch(location)
        if match is None:
            raise StorageError(
                "The artifacts' location is not of the form s3://BUCKET/PREFIX. Credentials and endpoint do not belong "
                "in it: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL or whatever else boto3 reads"
            )
        return cls(match["bucket"], (match["prefix"] or "").strip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Fetch a whole artifact, which is small, so that reading from the result cannot fail.

        Raises:
            ArtifactNotFound: the artifact is not in the bucket.
            StorageError: the bucket does not exist, or does not answer.
        """
        with self._errors(f"return {artifact_id}"):
            try:
                with self._store.open_reader(self._key(artifact_id)) as body:
                    return io.BytesIO(body.read())
            except ArtifactNotFound as error:
                if "NoSuchBucket" in str(error.__cause__):
                    raise StorageError(
                        f"{self}: there is no bucket {self.bucket}; make it, or name another with --artifacts"
                    ) from error
                raise

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact; S3 shows an object only once it is whole.

        Raises:
            StorageError: the bucket does not exist, or does not answer.
        """
        with self._errors(f"store {artifact_id}"):
            self._store.write(self._key(artifact_id), content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact if it is in the bucket.

        Raises:
            StorageError: the bucket does not exist, or does not answer.
        """
        with self._errors(f"remove {artifact_id}"):
            self._store.remove(self._key(artifact_id))

    def _key(self, artifact_id: str) -> str:
        return f"{self.prefix}/{artifact_id}" if self.prefix else artifact_id

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        errors = _boto3_errors()
        try:
            yield
        except errors as error:
            raise StorageError(f"{self} could not {action}: {' '.join(str(error).split())}") from error


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

    config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": TRIES})
    # boto3's shared session is not thread-safe.
    return boto3.session.Session().client("s3", config=config)
