"""Processes in PID namespaces of their own, as in containers, which give the same numbers to different processes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rust_optuna.paths import Home
from tests.studies import command

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@functools.cache
def why_not() -> str | None:
    """Say why this process cannot make PID namespaces, None where it can."""
    if os.geteuid() != 0:
        return "PID namespaces need root"
    if shutil.which("unshare") is None:
        return "PID namespaces need unshare (util-linux)"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"no PID namespace can be made here: {tried.stderr.strip()}" if tried.returncode else None


def need_namespaces() -> None:
    """Skip the test where PID namespaces cannot be made."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)


def start_inside(home: Home, url: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Run this program in a new PID namespace, which stays for what it leaves behind until stdin is closed."""
    line, keywords = command(home, url, arguments, **environment)
    stay = ["sh", "-c", '"$@" && echo up && read -r _', "sh", *line]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*UNSHARE, *stay], **pipes, **keywords)


def run_beside(
    home: Home, url: str, number: int, *arguments: str | Path, host: str | None = None, **environment: str
) -> dict[str, Any]:
    """Run this program in another new PID namespace, in which an unrelated process has a certain number.

    Args:
        home: the program's.
        url: the database's.
        number: the unrelated process's.
        arguments: of the program.
        host: the name of the machine in there; None for the one outside.
        environment: more variables.

    Returns:
        ``code`` and ``output`` of the program, and whether the unrelated process ``lives``.
    """
    line, keywords = command(home, url, arguments, **environment)
    uts = ["--uts"] if host else []
    script = Path(__file__).with_name("unrelated_process.py")
    inside = [sys.executable, str(script), str(number), host or "", *line]
    done = subprocess.run([*UNSHARE, *uts, *inside], capture_output=True, timeout=240, check=True, **keywords)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
