"""What the processes of a search share: exit codes, variables in a child's environment, names of workers, sleeping."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum

GRACE_SECONDS = 0.0
"""How long a running point may take to finish once a stop is asked for, where nobody says otherwise. Whoever stops a
search wants it to stop; points that are given back cost their time again, and nothing else."""
LOOK_SECONDS = 0.2
"""Between looks, while sleeping, at whether there is a reason not to."""
WORKER_ID = "RUST_OPTUNA_WORKER_ID"
"""Names a supervisor's child, so that whatever it was running can be requeued the moment it is dead."""
SUPERVISOR = "RUST_OPTUNA_SUPERVISOR"
"""The supervisor's process number: a child whose parent is another has been orphaned, and stops."""

PART_OF = "RUST_OPTUNA_PART_OF"
"""Names the command that this process is a step of, on the same terminal: that one says what Ctrl-C came to."""


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    """All is well; also after a stop that was asked for, with the point finished or given back."""
    ERROR = 1
    """An error that the message explains."""
    USAGE = 2
    """A wrong call or invalid input."""
    HOLES = 3
    """A study has holes that nobody accepted: points whose attempts are used up."""
    CIRCUIT_BREAKER = 4
    """A worker met the same error on several points in a row: the fault is then likelier its own than theirs."""
    STUCK = 5
    """A worker's trial did not advance any more; its point was given back."""
    RETIRED = 6
    """A supervisor gave up every slot."""
    CANNOT_SERVE = 7
    """A supervised worker cannot serve its studies here, nor could another in its place: its supervisor starts none,
    and ends with `ERROR` and what helps. A worker without a supervisor ends with `ERROR` itself."""
    INTERRUPTED = 130
    """After Ctrl-C, as shells have it."""


def sleep_unless(reason: Callable[[], bool], seconds: float) -> None:
    """Sleep, at most until there is a reason not to.

    In short sleeps: a lock that a signal's handler could wake this by is one that it could hang on.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not reason():
        time.sleep(min(LOOK_SECONDS, left))


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs, for what it starts or loads."""
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
    """Return an identifier that no other worker ever had."""
    return f"{platform.node()[:40]}-{uuid.uuid4().hex[:12]}"
