"""A file system without flock: a library for LD_PRELOAD, compiled here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def library(folder: Path) -> Path:
    """Compile the library; skip the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("a file system without flock is played by a C library, and there is no C compiler")
    made = folder / "without_locks.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source], check=True)
    return made


def variables(made: Path, number: int) -> dict[str, str]:
    """Return the environment in which flock fails with that error number."""
    return {"LD_PRELOAD": str(made), "NO_FLOCK": str(number)}
