"""Running the same task in several processes at the same time, each with an environment of its own."""

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
    """The task of each process, to which it is sent pickled."""

    def prepare(self) -> Callable[[], Any]:
        """Load what the task needs, and return the function to call once all processes are ready."""


def side_by_side(environments: Sequence[Mapping[str, str]], task: Task) -> tuple[list[Any], float]:
    """Run a task in one new process for each environment, so that this process stays small, whatever the task loads.

    Returns:
        The result of the task in each process, and the seconds until the first process was ready.

    Raises:
        RustOptunaError: the task raised it, or a process died.
    """
    context = multiprocessing.get_context("spawn")
    children: list[tuple[Any, Connection]] = []
    began = time.perf_counter()
    try:
        for environment in environments:
            parent_end, child_end = context.Pipe()
            process = context.Process(target=_child, args=(child_end, task), daemon=True)
            with variables_set(environment):
                process.start()
            child_end.close()
            children.append((process, parent_end))
        startup = 0.0
        for _, pipe in children:
            _received(pipe)
            startup = startup or time.perf_counter() - began
        for _, pipe in children:
            # A process that died in the meantime is noticed when its answer is read.
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
        message = pipe.recv()
    except (EOFError, OSError):
        raise RustOptunaError(
            "A process that timed this machine died, perhaps for lack of memory: try fewer --workers"
        ) from None
    if isinstance(message, RustOptunaError):
        raise message
    return message


def _child(pipe: Connection, task: Task) -> None:
    try:
        measure = task.prepare()
        pipe.send("ready")
        pipe.recv()
        pipe.send(measure())
    except RustOptunaError as error:
        pipe.send(RustOptunaError(str(error)))
    except (EOFError, KeyboardInterrupt):
        pass  # the parent has ended, or both were interrupted
