"""Supervisors in the background: detached from the terminal, found again by their record, and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.errors import RustOptunaError
from rust_optuna.fleet import identity, records
from rust_optuna.fleet.slot import last_words, program
from rust_optuna.paths import Home
from rust_optuna.processes import ExitCode

LOOK_SECONDS = 0.05
STOP_MARGIN_SECONDS = 90.0
"""How long a daemon that was told to stop may take beyond the grace of its workers."""


@dataclass(frozen=True)
class Daemon:
    """A daemon that runs: its process, and its log."""

    pid: int
    log: Path


def detach(home: Home, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Daemon | None:
    """Start this program as a supervisor of that name, in a session of its own, and wait until it runs.

    Args:
        home: root of relative paths.
        name: from `records.new_name`.
        arguments: the words of the command; it registers under that name.
        environment: variables to set.

    Returns:
        The daemon, or None where nothing was left to do.

    Raises:
        RustOptunaError: it ended before it ran, with what it said; of its exit code.
    """
    log = home.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            program(arguments),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while not records.lives(home, name):
        code = process.poll()
        if code is not None:
            said = log.read_text(encoding="utf-8", errors="replace").strip()
            if code == ExitCode.DONE:
                return None
            if said.startswith("{"):
                said = last_words(log)  # who starts a daemon reads no JSON
            error = RustOptunaError(f"The daemon did not start: {said or f'exit code {code}'}")
            error.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.ERROR
            raise error
        time.sleep(LOOK_SECONDS)
    return Daemon(process.pid, log)


def daemons(home: Home) -> tuple[list[records.Record], list[tuple[records.Record, str]]]:
    """Return the daemons of this home that live, oldest first: those that can be signalled here, and the others.

    Each of the others comes with where it runs, in words.
    """
    here, others = [], []
    for each in records.living(home):
        if each.daemon:
            where = identity.elsewhere(each.process, each.name)
            if where is None:
                here.append(each)
            else:
                others.append((each, where))
    return here, others


def home_of(pid: int) -> Path | None:
    """Return the home of the supervisor that has this process number here, None if there is none or it is not told."""
    root = identity.variable_of(pid, "RUST_OPTUNA_HOME")
    if root is None:
        return None
    home = Home.find(root)
    try:
        here, _ = daemons(home)
    except OSError:
        return None  # another user's
    return home.root if pid in [each.pid for each in here] else None


def stop(home: Home, chosen: Sequence[records.Record]) -> None:
    """Ask daemons to stop, and wait until they have ended.

    Raises:
        RustOptunaError: one is another user's, does not run here, or is still there long after its workers' grace.
    """
    for each in chosen:
        try:
            sent = identity.send(each.process, each.name, signal.SIGTERM)
            where = None if sent else identity.elsewhere(each.process, each.name)
            if where is not None and records.lives(home, each.name):
                raise RustOptunaError(f"Daemon {each.pid} runs {where}: stop it there")
        except ProcessLookupError:
            pass  # it has ended
        except PermissionError:
            raise RustOptunaError(f"Process {each.pid} is another user's: only they, or root, may stop it") from None
    deadline = time.monotonic() + max((each.grace for each in chosen), default=0.0) + STOP_MARGIN_SECONDS
    while there := [each for each in chosen if records.lives(home, each.name)]:
        if time.monotonic() > deadline:
            pids = ", ".join(str(each.pid) for each in there)
            raise RustOptunaError(f"Still running: {pids}. Call it again to hurry them; kill -9 ends one at once")
        time.sleep(LOOK_SECONDS)
