"""Runs a section of the benchmark in processes of its own, with the environment that workers have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rust_optuna.fleet.devices import DeviceChoice

ROOT = Path(__file__).resolve().parent.parent


def run(module: str, arguments: Sequence[str] = (), *, processes: int = 1, one_core: bool = True) -> list[Any]:
    """Run ``python -m benchmarks.MODULE`` in some processes at the same time; return the last line of each, parsed.

    Args:
        module: below this package; prints JSON as its last line, and waits for a line on standard input once it is
            ready to measure, so that all measure at the same time.
        arguments: of the command.
        processes: how many.
        one_core: each on one core with one thread, as workers on a processor are; otherwise all cores for it.

    Raises:
        RuntimeError: one of them failed.
    """
    threads: Mapping[str, str] = (
        DeviceChoice("none", max(processes, os.cpu_count() or 1)).devices()[0].environment if one_core else {}
    )
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    children = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(), **threads, "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    try:
        return _gather(children, command)
    finally:
        for child in children:
            child.terminate()
            child.wait()


def environment() -> dict[str, str]:
    """Return this process's environment without a user's own storage in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RUST_OPTUNA_")}


def _gather(children: Sequence[subprocess.Popen[str]], command: Sequence[str]) -> list[Any]:
    """Let all begin once all are ready; return the last line of each, parsed."""
    for child in children:
        assert child.stdout is not None
        while (line := child.stdout.readline()) and line.strip() != "ready":
            pass
    if any(child.poll() is not None for child in children):
        raise RuntimeError(f"{' '.join(command)} failed")
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"{' '.join(command)} failed")
    return [json.loads(output.strip().splitlines()[-1]) for output in outputs]


def wait_for_the_others() -> None:
    """Say that this process is ready to measure, and wait until all are."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit("the process that asked for this has gone")
