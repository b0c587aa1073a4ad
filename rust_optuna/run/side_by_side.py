"""The same task in several processes at the same time, each with an environment of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

from rust_optuna.errors import RustOptunaError
from rust_optuna.processes import variables_set


class Task(Protocol):
    """What a process does. It is pickled on its way there."""

    def prepare(self) -> Callable[[], Any]:
        """Load what is needed and return the function to be called once all processes have come so far."""


def side_by_side(environments: Sequence[Mapping[str, str]], task: Task) -> tuple[list[Any], float]:
    """Run a task in one new process for each environment; whatever it loads, this process stays small.

    Returns:
        What the task returned in each, and the seconds from the start until the first was ready.

    Raises:
        RustOptunaError: as raised by the task, or a process died.
    """
    context = multiprocessing.get_context("spawn")
    children: list[tuple[Any, Connection]] = []
    began = time.perf_counter()
    try:
        for environment in environments:
            here, there = context.Pipe()
            process = context.Process(target=_child, args=(there, task), daemon=True)
            with variables_set(environment):
                process.start()
            there.close()
            children.append((process, here))
        startup = 0.0
        for _, pipe in children:
            _received(pipe)
            startup = startup or time.perf_counter() - began
        for _, pipe in children:
            # One that died meanwhile is noticed when it is to answer.
            with suppress(OSError):
                pipe.send("go")
        return [_received(pipe) for _, pipe in children], startup
    finally:
        for process, pipe in children:
            pipe.close()
            process.terminate()
            process.join()


def _received(pipe: Connection) -> Any:
    try:
        received = pipe.recv()
    except (EOFError, OSError):
        raise RustOptunaError("A process that timed this machine died (out of memory?): try fewer --workers") from None
    if isinstance(received, RustOptunaError):
        raise received
    return received


def _child(pipe: Connection, task: Task) -> None:
    try:
        measure = task.prepare()
        pipe.send("ready")
        pipe.recv()
        pipe.send(measure())
    except RustOptunaError as error:
        pipe.send(RustOptunaError(str(error)))
    except (EOFError, KeyboardInterrupt):
        pass  # the parent has gone, or both were interrupted
