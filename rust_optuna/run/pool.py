"""Local worker processes: started, watched, replaced when they die, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rust_optuna.errors import RustOptunaError
from rust_optuna.processes import SUPERVISOR, WORKER_ID
from rust_optuna.run.devices import Slot
from rust_optuna.run.worker import new_worker_id
from rust_optuna.search.ledger import Ledger

MAX_RESTARTS = 3
"""Deaths after which a slot is given up."""
GRACE_SECONDS = 60.0
"""How long a stopping worker may take to reach the end of its epoch."""


def program(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs this program in a new process."""
    return [sys.executable, "-m", "rust_optuna", *arguments]


@dataclass
class _Child:
    slot: Slot
    log: Path
    worker_id: str
    process: subprocess.Popen[bytes]
    deaths: int = 0


@dataclass
class WorkerPool:
    """Worker processes of one study, one a slot.

    Args:
        ledger: whatever a dead worker was running is requeued here at once, before its lease ends.
        study: the study's name.
        slots: where the workers run.
        logs: the folder for their output.
        environment: variables for all of them (home, storage, artifacts: a password stands in no command line).
        arguments: further arguments of ``worker run``.
    """

    ledger: Ledger
    study: str
    slots: Sequence[Slot]
    logs: Path
    environment: Mapping[str, str]
    arguments: Sequence[str] = ()
    children: list[_Child] = field(default_factory=list)

    def start(self) -> None:
        """Start every worker."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for number, slot in enumerate(self.slots):
            log = self.logs / f"{self.study}-worker-{number}.log"
            log.unlink(missing_ok=True)
            worker_id = new_worker_id()
            self.children.append(_Child(slot, log, worker_id, self._spawn(slot, log, worker_id)))

    def ended(self) -> list[_Child]:
        """Return the workers whose process has ended, for whatever reason."""
        return [child for child in self.children if child.process.poll() is not None]

    def replace(self, ended: Sequence[_Child]) -> None:
        """Requeue what ended workers were running, and start others in their place: the study is not done.

        Raises:
            RustOptunaError: every slot was given up; with the last words of a worker.
        """
        for child in (child for child in ended if child.deaths <= MAX_RESTARTS):
            self.ledger.abandon(child.worker_id, f"the worker died with exit code {child.process.returncode}")
            child.deaths += 1
            if child.deaths <= MAX_RESTARTS:
                child.worker_id = new_worker_id()
                child.process = self._spawn(child.slot, child.log, child.worker_id)
        if all(child.deaths > MAX_RESTARTS for child in self.children):
            child = self.children[0]
            raise RustOptunaError(f"All workers of {self.study} died. {_last_words(child.log)} Log: {child.log}")

    def stop(self) -> None:
        """Stop all workers at the end of their epoch, kill those that take too long, and requeue what they ran."""
        for child in self.children:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            self.ledger.abandon(child.worker_id, "the worker was stopped")

    def kill(self) -> None:
        """Kill all workers now and requeue what they ran."""
        for child in self.children:
            child.process.kill()
            child.process.wait()
            self.ledger.abandon(child.worker_id, "the worker was killed")

    def _spawn(self, slot: Slot, log: Path, worker_id: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment, **slot.environment}
        environment |= {SUPERVISOR: str(os.getpid()), WORKER_ID: worker_id}
        with log.open("ab") as output:
            # A session of its own: Ctrl-C reaches the supervisor, which stops its children in good order.
            return subprocess.Popen(
                program(["worker", "run", self.study, *self.arguments]),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return f"The last words of one: {lines[-1]}" if lines else "They said nothing."
