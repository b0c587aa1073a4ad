"""The worker processes of a round: real ones, started, halted and killed."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.chaos import objective
from tests.chaos.script import Start
from tests.studies import REPOSITORY

CLOCK = Path(__file__).parent / "clock"
PRELOAD = [
    "tests.chaos.objective",
    *("rust_optuna.cli.worker", "rust_optuna.worker.worker", "rich.progress", "optuna.storages._rdb.models"),
    *("alembic.command", "alembic.migration", "psycopg", "pymysql"),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.mysql.pymysql"),
]
"""What a worker imports, imported once: a round has no time for two dozen fresh interpreters."""


class WorkerProcess:
    """One worker.

    Args:
        number: from 1, in the order of starting.
        study: whose points it runs.
        environment: added to this process's own.
        start: how.
        log: the file that takes what it prints.
        calm: nothing will disturb it.
    """

    def __init__(
        self, number: int, study: str, environment: Mapping[str, str], start: Start, log: Path, *, calm: bool
    ) -> None:
        self.number, self.start, self.log, self.calm = number, start, log, calm
        self.signals: list[str] = []
        arguments = ["worker", "run", study, "--objective", objective.NAME]
        variables = {**environment, "PYTHONFAULTHANDLER": "1"}
        if start.zone:
            variables["TZ"] = start.zone
        if start.shift:
            variables["CHAOS_CLOCK_SHIFT"] = str(start.shift)
        self._process = (_command if start.command else _fork)(arguments, variables, log)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives, negative for the signal that ended it."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        self.signals.append(number.name)
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def __str__(self) -> str:
        kind = "command" if self.start.command else "forked"
        sent = f", sent {' '.join(self.signals)}" if self.signals else ""
        return f"worker {self.number} (process {self.pid}, {kind}{sent})"


def _command(arguments: list[str], variables: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([*([str(CLOCK)] if "CHAOS_CLOCK_SHIFT" in variables else []), str(REPOSITORY)])
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "rust_optuna", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **variables, "PYTHONPATH": path},
            stdout=file,
            stderr=file,
        )


def _fork(arguments: list[str], variables: Mapping[str, str], log: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_work, args=(arguments, dict(variables), str(log)), daemon=True)
    process.start()
    return process


def _work(arguments: list[str], variables: Mapping[str, str], log: str) -> None:
    """Be the command line in a forked process, with the objective that names its artifacts to the ledger."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable(file=2)
    os.environ.update(variables)
    time.tzset()
    if "CHAOS_CLOCK_SHIFT" in variables:
        importlib.import_module("tests.chaos.clock.sitecustomize")
    from rust_optuna import cli
    from rust_optuna.worker import worker

    worker.StandInObjective = objective.ChaosObjective
    sys.argv = ["rust-optuna", *arguments]
    cli.main()
