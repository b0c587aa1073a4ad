"""Supervisors in the background: detached from the terminal, found again by their record, and stopped."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rust_optuna.errors import OpenHolesError, RustOptunaError
from rust_optuna.fleet import identity, records
from rust_optuna.fleet.commands import program
from rust_optuna.paths import Home
from rust_optuna.processes import ExitCode

TELL = "RUST_OPTUNA_TELL"
"""Names, in a daemon's environment, the end of a pipe that it writes to once a worker serves."""
LOOK_SECONDS = 0.05
SERVE_SECONDS = 60.0
"""How long a daemon's first worker is waited for. Films and weights that are missing show within seconds; features that
are still to be computed may take hours. No longer than a worker's ``BEAT_SECONDS``: that sign of life comes from one
that can serve nothing, too."""
STOP_MARGIN_SECONDS = 90.0
"""How long a daemon that was told to stop may take beyond the grace of its workers."""


@dataclass(frozen=True)
class Daemon:
    """A daemon that runs.

    Args:
        pid: its process.
        log: its own log, not its workers'.
        serves: whether one of its workers is ready; otherwise they were still at it when the waiting ended.
    """

    pid: int
    log: Path
    serves: bool


def detach(home: Home, name: str, words: Sequence[str], environment: Mapping[str, str]) -> Daemon | None:
    """Start this program as a supervisor of that name, in a session of its own, and wait until a worker of it serves.

    Ctrl-C, and `SERVE_SECONDS`, end the waiting and not the daemon.

    Args:
        home: root of relative paths.
        name: from `records.new_name`.
        words: its command, from `commands.worker_start`; it registers under that name.
        environment: variables to set.

    Returns:
        The daemon, or None where it has ended because nothing is left to do.

    Raises:
        RustOptunaError: it ended with an error, which is told; of its exit code.
    """
    log = home.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    told, telling = os.pipe()
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                program(words),
                env={**os.environ, **environment, TELL: str(telling)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[telling],
            )
        os.close(telling)  # the daemon's end is the only one left: it closes with the daemon
        deadline = time.monotonic() + SERVE_SECONDS
        with suppress(KeyboardInterrupt):
            while time.monotonic() < deadline or not records.lives(home, name):
                if not select.select([told], [], [], LOOK_SECONDS)[0]:
                    continue
                if os.read(told, 1):
                    return Daemon(process.pid, log, serves=True)
                _raise_ended(process.wait(), log)
                return None
    finally:
        os.close(told)
    return Daemon(process.pid, log, serves=False)


def _raise_ended(code: int, log: Path) -> None:
    if code == ExitCode.DONE:
        return
    if code == ExitCode.HOLES:
        raise OpenHolesError(
            "The studies are done, but have holes that nobody accepted: rust-optuna status tells which"
        )
    error = RustOptunaError(f"The daemon has ended: {_error_in(log) or f'exit code {code}; log: {log}'}")
    error.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.ERROR
    raise error


def teller() -> Callable[[], None] | None:
    """Return what tells the process that started this daemon that a worker serves; None in any other process.

    To be called before this process starts others: none of them may hold the pipe open.
    """
    named = os.environ.pop(TELL, None)
    if named is None:
        return None
    pipe = int(named)
    os.set_inheritable(pipe, False)

    def tell() -> None:
        with suppress(OSError):  # nobody waits any more
            os.write(pipe, b"1")
        os.close(pipe)

    return tell


@dataclass(frozen=True)
class Failure:
    """How a daemon ended that ended with an error.

    Args:
        at: when.
        error: what it said.
        log: where.
    """

    at: datetime
    error: str
    log: Path

    def __str__(self) -> str:
        return f"The last daemon ended at {self.at:%Y-%m-%d %H:%M:%S} UTC with an error: {self.error}. Log: {self.log}"


def last_failure(home: Home) -> Failure | None:
    """Return how the last daemon of this home ended, None where it still runs, or ended well, or there was none."""
    daemons = [name for name in records.logs(home) if home.log(name).exists()]
    if not daemons or records.lives(home, daemons[-1]):
        return None
    log = home.log(daemons[-1])
    error = _error_in(log)
    if error is None:
        return None
    return Failure(datetime.fromtimestamp(log.stat().st_mtime, UTC), " ".join(error.split()).rstrip("."), log)


def _error_in(log: Path) -> str | None:
    """Return the error that a daemon ended with, as its log tells it; None if it tells of none."""
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    if said.startswith("{"):
        try:
            last = json.loads(said.splitlines()[-1])
        except ValueError:
            return said.splitlines()[-1]  # of a traceback
        return str(last["message"]) if last.get("event") == "ended" and last["level"] == "ERROR" else None
    # A traceback's last line is its error, too.
    found = re.split(r"^(?:Error: |Traceback \(most recent call last\):\n(?: .*\n)*)", said, flags=re.MULTILINE)
    return found[-1] if len(found) > 1 else None


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
