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
"""The prefix of the line in which a command reports the error that ends it."""
TAIL_BYTES = 2**16
"""How much of a log is read to find its last line."""


def spawn(words: Sequence[str], log: Path, worker: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker as a child of this process, which the worker knows as its supervisor.

    Args:
        words: the worker's command, from `commands.worker_run`.
        log: the file to which its output is appended; a missing folder is made.
        worker: the worker's identifier.
        environment: the variables to set in addition to this process's own.

    Raises:
        OSError: the log cannot be written.
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
            # In a session of its own the worker gets no Ctrl-C: the supervisor gets it and stops its workers in order.
            start_new_session=True,
        )


class Process(Protocol):
    """What a supervisor needs from a worker process.

    `subprocess.Popen` implements it for this machine, and `ray.slots.RemoteProcess` for another.
    """

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""

    def wait(self) -> int:
        """Wait for the process to end, and return its exit code."""

    def send_signal(self, sig: int) -> None:
        """Send a signal to the process if it still runs."""


@dataclass
class Slot:
    """A slot, and the worker process that runs there.

    Args:
        number: the slot's number.
        device: the device on which its workers run.
        log: the file to which all its workers append their output.
        worker: the identifier of its current or last worker.
        process: the process of its current worker, or None.
        deaths: the number of its workers that died in a row, with no point finished in between.
        due: when the next worker may start, by the supervisor's clock.
        retired: whether the slot is given up.
        unfit: whether it is given up because no worker can serve the studies here.
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
    """The number of bytes of the log that were read to be shown."""
    _held: list[str] = field(default_factory=list)
    """The lines that were read but are held back."""
    _stream_closed: bool = False
    """Whether the stream takes no more lines."""

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> int | None:
        """Start a worker; return its process number, or None if it is not known yet.

        Args:
            words: the worker's command, from `commands.worker_run`.
            environment: the variables to set in addition to those of the device.
        """
        self.worker = new_worker_id()
        with blocked():
            process = spawn(words, self.log, self.worker, {**environment, **self.device.environment})
        self.process = process
        return process.pid

    @property
    def ended(self) -> int | None:
        """The exit code of a worker that has ended and whose end is not handled yet; None otherwise."""
        return None if self.process is None else self.process.poll()

    @property
    def lives(self) -> bool:
        """Whether a worker runs here."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the slot's worker, if there is one."""
        if self.process is not None:
            self.process.send_signal(number)

    def cause(self, code: int) -> str:
        """Return, as a predicate, how the slot's last worker ended."""
        return cause(code)

    @property
    def lost_its_node(self) -> bool:
        """Whether the last worker died with its node. Such a death says nothing about the worker and is not counted."""
        return False

    @property
    def stays(self) -> bool:
        """Whether the next worker will run on the same machine."""
        return True

    def show(self, stream: TextIO, prefix: str) -> None:
        """Write the whole lines that were logged since the last call.

        The error with which a worker ends is held back until its supervisor has handled the end. The supervisor may
        then leave it out, since the workers of all slots may report the same error.

        Failing to show lines never stops a worker: a removed log is not shown, and if the stream takes no more lines
        (because the terminal was closed, or for ``| head``), nothing is.
        """
        if not self.worker or self._stream_closed:
            return
        lines = self._held + self._new_lines()
        end = len(lines)
        if self.process is not None:
            end = next((number for number, line in enumerate(lines) if line.startswith(ERROR)), end)
        lines, self._held = lines[:end], lines[end:]
        try:
            for line in lines:
                stream.write(f"{prefix}{line}\n")
            stream.flush()
        except OSError:
            self._stream_closed = True

    def leave_out_error(self) -> None:
        """Drop the error with which the worker ended, so that it is not shown."""
        self._held = []

    def _new_lines(self) -> list[str]:
        try:
            file = self.log.open("rb")
        except FileNotFoundError:
            self._shown = 0  # the next log is shown from its start, however long it is by then
            return []
        with file:
            if os.fstat(file.fileno()).st_size < self._shown:
                self._shown = 0  # the log was replaced or emptied
            file.seek(self._shown)
            lines, newline, _ = file.read().rpartition(b"\n")
        self._shown += len(lines) + len(newline)
        return lines.decode(errors="replace").splitlines()

    def last_words(self) -> str:
        """Return the last line of the slot's log; if it is JSON, its message."""
        return last_words(self.log)


def last_words(log: Path) -> str:
    """Return the last line of a log, or its message if it is JSON; ``none`` if the log is empty or was removed."""
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
    """Return, as a predicate, how a process with this exit code ended."""
    if code >= 0:
        return f"died with exit code {code}" if code else "ended"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"
