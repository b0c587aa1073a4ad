"""Supervisors in the background (daemons): detaching them from the terminal, finding them again, and stopping them."""

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
"""The variable in a daemon's environment that holds the file descriptor of a pipe. The daemon writes to this pipe once
a worker serves."""
LOOK_SECONDS = 0.05
"""How long to wait between checks of a daemon that starts or stops."""
SERVE_SECONDS = 60.0
"""How long to wait for a daemon's first worker. Missing films and weights show within seconds, while computing features
may take hours. It must not exceed a worker's ``BEAT_SECONDS``, since a worker that can serve nothing beats as well."""
STOP_MARGIN_SECONDS = 90.0
"""How long a stopping daemon may take beyond the grace of its workers."""


@dataclass(frozen=True)
class Daemon:
    """A daemon that runs.

    Args:
        pid: its process number.
        log: the log of the daemon itself, not of its workers.
        serves: whether one of its workers is ready; if not, the workers were still preparing when the wait ended.
    """

    pid: int
    log: Path
    serves: bool


def detach(home: Home, name: str, words: Sequence[str], environment: Mapping[str, str]) -> Daemon | None:
    """Start a supervisor in the background, in a session of its own, and wait until one of its workers serves.

    Ctrl-C, or `SERVE_SECONDS` passing, ends the wait but not the daemon.

    Args:
        home: the root of relative paths.
        name: the name under which the daemon registers, from `records.new_name`.
        words: the daemon's command, from `commands.worker_start` with the same name.
        environment: the variables to set for it.

    Returns:
        The daemon, or None if it has ended because nothing is left to do.

    Raises:
        RustOptunaError: the daemon ended with an error; the message and the exit code are those of the daemon.
    """
    log = home.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                program(words),
                env={**os.environ, **environment, TELL: str(write_end)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[write_end],
            )
        os.close(write_end)  # only the daemon's copy is left, which closes when the daemon ends
        deadline = time.monotonic() + SERVE_SECONDS
        with suppress(KeyboardInterrupt):
            while time.monotonic() < deadline or not records.lives(home, name):
                if not select.select([read_end], [], [], LOOK_SECONDS)[0]:
                    continue
                if os.read(read_end, 1):
                    return Daemon(process.pid, log, serves=True)
                _raise_ended(process.wait(), log)
                return None
    finally:
        os.close(read_end)
    return Daemon(process.pid, log, serves=False)


def _raise_ended(code: int, log: Path) -> None:
    if code == ExitCode.DONE:
        return
    if code == ExitCode.HOLES:
        raise OpenHolesError(
            "The studies are done, but have holes that nobody accepted: rust-optuna status shows which"
        )
    error = RustOptunaError(f"The daemon has ended: {_error_in(log) or f'exit code {code}; log: {log}'}")
    error.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.ERROR
    raise error


def teller() -> Callable[[], None] | None:
    """Return a function that tells the process that started this daemon that a worker serves; None outside a daemon.

    This must be called before this process starts others, none of which may keep the pipe open.
    """
    descriptor = os.environ.pop(TELL, None)
    if descriptor is None:
        return None
    pipe = int(descriptor)
    os.set_inheritable(pipe, False)

    def tell() -> None:
        with suppress(OSError):  # the starting process no longer waits
            os.write(pipe, b"1")
        os.close(pipe)

    return tell


@dataclass(frozen=True)
class Failure:
    """The end of a daemon that ended with an error.

    Args:
        at: when it ended.
        error: the error message.
        log: the daemon's log.
    """

    at: datetime
    error: str
    log: Path

    def __str__(self) -> str:
        return f"The last daemon ended at {self.at:%Y-%m-%d %H:%M:%S} UTC with an error: {self.error}. Log: {self.log}"


def last_failure(home: Home) -> Failure | None:
    """Return the failure of the last daemon of this home; None if it still runs or ended well, or if there was none."""
    daemons = [name for name in records.logs(home) if home.log(name).exists()]
    if not daemons or records.lives(home, daemons[-1]):
        return None
    log = home.log(daemons[-1])
    error = _error_in(log)
    if error is None:
        return None
    return Failure(datetime.fromtimestamp(log.stat().st_mtime, UTC), " ".join(error.split()).rstrip("."), log)


def _error_in(log: Path) -> str | None:
    """Return the error with which a daemon ended, according to its log; None if the log holds none."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    if text.startswith("{"):
        try:
            last = json.loads(text.splitlines()[-1])
        except ValueError:
            return text.splitlines()[-1]  # the last line of a traceback
        return str(last["message"]) if last.get("event") == "ended" and last["level"] == "ERROR" else None
    # The error is what follows "Error: " or the frames of a traceback.
    parts = re.split(r"^(?:Error: |Traceback \(most recent call last\):\n(?: .*\n)*)", text, flags=re.MULTILINE)
    return parts[-1] if len(parts) > 1 else None


def daemons(home: Home) -> tuple[list[records.Record], list[tuple[records.Record, str]]]:
    """Return the living daemons of this home, oldest first: those that can be signalled from here, and the others.

    Each of the others comes with a description of where it runs.
    """
    here, others = [], []
    for record in records.living(home):
        if record.daemon:
            place = identity.elsewhere(record.process, record.name)
            if place is None:
                here.append(record)
            else:
                others.append((record, place))
    return here, others


def home_of(pid: int) -> Path | None:
    """Return the home of the daemon that has this process number here; None if there is none or it cannot be read."""
    root = identity.variable_of(pid, "RUST_OPTUNA_HOME")
    if root is None:
        return None
    home = Home.find(root)
    try:
        here, _ = daemons(home)
    except OSError:
        return None  # the home belongs to another user
    return home.root if pid in [record.pid for record in here] else None


def stop(home: Home, chosen: Sequence[records.Record]) -> None:
    """Ask daemons to stop, and wait until they have ended.

    Raises:
        RustOptunaError: a daemon is another user's, does not run here, or still runs long after its workers' grace.
    """
    for record in chosen:
        try:
            sent = identity.send(record.process, record.name, signal.SIGTERM)
            place = None if sent else identity.elsewhere(record.process, record.name)
            if place is not None and records.lives(home, record.name):
                raise RustOptunaError(f"Daemon {record.pid} runs {place}: stop it there")
        except ProcessLookupError:
            pass  # it has ended
        except PermissionError:
            raise RustOptunaError(
                f"Daemon {record.pid} belongs to another user: only that user, or root, may stop it"
            ) from None
    deadline = time.monotonic() + max((record.grace for record in chosen), default=0.0) + STOP_MARGIN_SECONDS
    while running := [record for record in chosen if records.lives(home, record.name)]:
        if time.monotonic() > deadline:
            pids = ", ".join(str(record.pid) for record in running)
            raise RustOptunaError(
                f"These daemons still run: {pids}. Stop them once more to hurry them, or end one at once with kill -9"
            )
        time.sleep(LOOK_SECONDS)
