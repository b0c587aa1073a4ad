"""What the processes of a search share: exit codes, environment variables of children, worker names, sleeping."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum

GRACE_SECONDS = 0.0
"""How long a running point may take to finish after a stop is requested, by default. A user who stops a search wants it
to stop, and a point that is given back costs only the time to run it again."""
LOOK_SECONDS = 0.2
"""How long a sleeping process waits between checks for a reason to wake."""
WORKER_ID = "RUST_OPTUNA_WORKER_ID"
"""The variable with the name of a supervisor's child, whose point can be requeued as soon as the child is dead."""
SUPERVISOR = "RUST_OPTUNA_SUPERVISOR"
"""The variable with the supervisor's process number. A child with another parent has been orphaned, and stops."""

PART_OF = "RUST_OPTUNA_PART_OF"
"""The variable with the command that this process is a step of. That command reports the outcome of Ctrl-C."""


class ExitCode(IntEnum):
    """The exit code of a command."""

    DONE = 0
    """Success. This includes a requested stop, with the point finished or given back."""
    ERROR = 1
    """An error that the message explains."""
    USAGE = 2
    """A wrong call or invalid input."""
    HOLES = 3
    """A study with holes that nobody has accepted: points whose attempts are used up."""
    CIRCUIT_BREAKER = 4
    """The same error on several points in a row, which is more likely the worker's fault than the points'."""
    STUCK = 5
    """A worker whose trial stopped advancing; its point was given back."""
    RETIRED = 6
    """A supervisor that gave up every slot."""
    CANNOT_SERVE = 7
    """A supervised worker that cannot serve its studies on this machine. A replacement could not either, so its
    supervisor starts none and ends with `ERROR` and advice. A worker without a supervisor ends with `ERROR` itself."""
    INTERRUPTED = 130
    """An end by Ctrl-C, with the code that shells use."""


def sleep_unless(reason: Callable[[], bool], seconds: float) -> None:
    """Sleep for some seconds, or until there is a reason to wake.

    The sleep is a series of short ones: a signal handler could wake a longer sleep only through a lock, on which it
    could hang.
    """
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0 and not reason():
        time.sleep(min(LOOK_SECONDS, remaining))


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs, for the processes it starts and the libraries it loads."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def new_worker_id() -> str:
    """Return an identifier that no other worker has ever had."""
    return f"{platform.node()[:40]}-{uuid.uuid4().hex[:12]}"
