"""A local stand-in for S3, spoken to over HTTP."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

BUCKET = "rust-scores"
SECRET = "correct-horse-battery"


def _moto() -> ModuleType:
    return pytest.importorskip("moto.server", reason="moto is not installed: an extra (dev)")


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve one empty bucket; boto3 finds it by its own variables. Yield the endpoint."""
    server = _moto().ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", "/nowhere")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        # Servers of one process share what they store.
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield endpoint
    finally:
        server.stop()


def keys() -> list[str]:
    """Return the names of all objects in the bucket."""
    import boto3

    found = boto3.client("s3").list_objects_v2(Bucket=BUCKET)
    return sorted(each["Key"] for each in found.get("Contents", []))
