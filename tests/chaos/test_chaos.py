"""A round of crashes on each database, from a fixed seed; `make chaos` runs hundreds."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from rust_optuna.paths import Home
from tests.chaos.backends import missing, open_backend
from tests.chaos.harness import run_round
from tests.chaos.script import draw
from tests.data.films import make_manifest


@pytest.mark.parametrize(("name", "seed"), [("sqlite", 1), ("postgresql", 2), ("mariadb", 3)])
def test_every_point_ends_exactly_once_whatever_crashes(name, seed):
    if reason := missing(name):
        pytest.skip(reason)
    # Not pytest's own folder: the servers' unprivileged users cannot pass through it.
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        make_manifest(folder / "home")
        backend = open_backend(name, folder)
        try:
            done = run_round(seed, backend, Home((folder / "home").resolve()), folder / "logs")
            assert [str(finding) for finding in done.findings] == []
        finally:
            backend.close()


def test_the_same_seed_draws_the_same_round():
    for server, disk in ((False, False), (False, True), (True, False)):
        assert draw(7, server=server, disk=disk) == draw(7, server=server, disk=disk)
        assert draw(7, server=server, disk=disk) != draw(8, server=server, disk=disk)


def test_a_disk_that_cannot_be_mounted_is_not_filled():
    kinds = {step.kind for seed in range(50) for step in draw(seed, server=False, disk=False).steps}
    assert "fill" not in kinds
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk: no disk is filled")
