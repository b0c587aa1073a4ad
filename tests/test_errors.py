"""How an extra is named that is to be installed."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from rust_optuna import errors


class Installed:
    def __init__(self, origin):
        self.origin = origin

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.origin and json.dumps(self.origin)


HERE, ELSEWHERE = f"file://{Path.cwd()}", "file:///home/ann/my%20clone"


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'rust_optuna[mysql]'"),
        ({"url": "https://host/rust_optuna.whl", "archive_info": {}}, "pip install 'rust_optuna[mysql]'"),
        ({"url": HERE, "dir_info": {}}, "pip install '.[mysql]'"),
        ({"url": HERE, "dir_info": {"editable": True}}, "pip install -e '.[mysql]'"),
        ({"url": ELSEWHERE, "dir_info": {}}, "pip install '/home/ann/my clone[mysql]'"),
    ],
)
def test_an_extra_is_named_as_the_program_was_installed(monkeypatch, origin, command):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))
    assert str(errors.MissingExtraError("pymysql", "mysql")).endswith(f"not installed: {command}")


def test_a_program_that_was_never_installed_names_its_own_name(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert str(errors.MissingExtraError("boto3", "s3")).endswith("pip install 'rust_optuna[s3]'")
