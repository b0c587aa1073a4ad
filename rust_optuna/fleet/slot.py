"""A slot: a place for one worker process on a device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

from rust_optuna.fleet.commands import program
from rust_optuna.fleet.devices import Device
from rust_optuna.processes import SUPERVISOR, WORKER_ID, new_worker_id
from rust_optuna.signals import blocked

ERROR = "Error: "
"""How the line begins with which a command tells of the error that ends it."""
TAIL_BYTES = 2**16
"""How much of a log is read for its last line."""


def spawn(words: Sequence[str], log: Path, worker: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker as a child of this process, which it knows as its supervisor.

    Args:
        words: its command, from `commands.worker_run`.
        log: what its output is appended to; the folder is made where it is missing.
        worker: its identifier.
        environment: variables to set beside this process's own.
    """
    variables = {**os.environ, **environment, SUPERVISOR: str(os.getpid()), WORKER_ID: worker}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            program(words),
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C reaches the supervisor, which stops its children in good order.
            start_new_session=True,
        )


class Process(Protocol):
    """What a supervisor needs of a worker process; `subprocess.Popen` has it, and so has one on another machine."""

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""

    def wait(self) -> int:
        """Wait for its end; return the exit code."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it still runs."""


@dataclass
class Slot:
    """A slot, and the worker process that runs there.

    Args:
        number: of the slot.
        device: where its workers run.
        log: where its workers' output goes, one's after the other's.
        worker: the identifier of its worker, or of the last one.
        process: its worker, None while there is none.
        deaths: of its workers, in a row, with no point finished in between.
        due: when the next worker may start, by the supervisor's clock.
        retired: given up.
        unfit: given up because no worker can serve the studies here.
    """

    number: int
    device: Device
    log: Path
    worker: str = ""
    process: Process | None = None
    deaths: int = 0
    due: float = 0.0
    retired: bool = False
    unfit: bool = False
    _shown: int = 0
    _held: list[str] = field(default_factory=list)
    _unheard: bool = False

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> int | None:
        """Start a worker; return its process number, None where it is not known yet.

        Args:
            words: its command, from `commands.worker_run`.
            environment: variables to set beside the slot's.
        """
        # Late: what keeps a worker on a node of Ray uses this module, and must not load Optuna.
        self.worker = new_worker_id()
        with blocked():
            process = spawn(words, self.log, self.worker, {**environment, **self.device.environment})
        self.process = process
        return process.pid

    @property
    def ended(self) -> int | None:
        """The exit code of a worker that has ended and is not buried yet; None otherwise."""
        return None if self.process is None else self.process.poll()

    @property
    def lives(self) -> bool:
        """Whether a worker runs here."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send its worker a signal, if there is one."""
        if self.process is not None:
            self.process.send_signal(number)

    def cause(self, code: int) -> str:
        """Say how its worker, the last one, ended."""
        return cause(code)

    @property
    def blameless(self) -> bool:
        """Whether the last worker's death says nothing about the worker: then it is not counted."""
        return False

    @property
    def stays(self) -> bool:
        """Whether the next worker would meet the machine that this one met."""
        return True

    def show(self, stream: TextIO, prefix: str) -> None:
        """Write the whole lines that were logged since the last call.

        The error that a worker ends with is held back until its supervisor has buried it, and may have it left out: the
        workers of all slots may have the same.

        Showing is no reason to stop workers: a log that was removed is not shown, and where the stream takes no more (a
        terminal that is closed, ``| head``), nothing is.
        """
        if not self.worker or self._unheard:
            return
        lines = self._held + self._new_lines()
        at = len(lines)
        if self.process is not None:
            at = next((number for number, line in enumerate(lines) if line.startswith(ERROR)), at)
        lines, self._held = lines[:at], lines[at:]
        try:
            for line in lines:
                stream.write(f"{prefix}{line}\n")
            stream.flush()
        except OSError:
            self._unheard = True

    def leave_out_error(self) -> None:
        """Do not show the error that its worker ended with."""
        self._held = []

    def _new_lines(self) -> list[str]:
        try:
            file = self.log.open("rb")
        except FileNotFoundError:
            self._shown = 0  # the next one is shown from its start, however long it is by then
            return []
        with file:
            if os.fstat(file.fileno()).st_size < self._shown:
                self._shown = 0  # another file, or emptied
            file.seek(self._shown)
            lines, newline, _ = file.read().rpartition(b"\n")
        self._shown += len(lines) + len(newline)
        return lines.decode(errors="replace").splitlines()

    def last_words(self) -> str:
        """Return the last line of its log; of a line of JSON, the message."""
        return last_words(self.log)


def last_words(log: Path) -> str:
    """Return the last line of a log; of a line of JSON, the message; ``none`` where the log was removed."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return "none"
    if not lines:
        return "none"
    try:
        return str(json.loads(lines[-1])["message"])
    except (ValueError, KeyError, TypeError):
        return lines[-1]


def cause(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"died with exit code {code}" if code else "ended"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"
