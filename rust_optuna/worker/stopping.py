"""Requests to stop a worker: a signal, or the death of its supervisor, which sends none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rust_optuna import signals
from rust_optuna.processes import GRACE_SECONDS, SUPERVISOR


class StopRequestedError(Exception):
    """The user or the supervisor asked this worker to stop; its point goes back to the queue."""


class StopRequest:
    """A request to stop a worker, and the deadline that it gives a running point.

    Args:
        grace: the seconds that a running point may take to end after the request.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self.grace = grace
        self.preparing = False
        """Whether the worker holds no point and is doing something that may take long."""
        self._parent = int(os.environ.get(SUPERVISOR, "0"))
        self._asked = False
        self._deadline = float("inf")

    @property
    def supervised(self) -> bool:
        """Whether a supervisor started this process; a supervisor passes requests to stop on to its workers."""
        return self._parent != 0

    @property
    def asked(self) -> bool:
        """Whether a stop was requested; a supervisor's death counts as a request."""
        if self._parent and os.getppid() != self._parent:
            self.ask()
        return self._asked

    def ask(self) -> None:
        """Request a stop: the running point may end within the grace, and no other begins. Safe in a signal handler."""
        if not self._asked:
            self._deadline = time.monotonic() + self.grace
            self._asked = True

    def overdue(self, margin: float = 0.0) -> bool:
        """Return whether a stop was requested, and the grace and a margin in seconds are over."""
        return self.asked and time.monotonic() >= self._deadline + margin

    def check(self) -> None:
        """Raise StopRequestedError if a stop was requested."""
        if self.asked:
            raise StopRequestedError

    @contextmanager
    def ends_preparation(self) -> Iterator[None]:
        """Let a signal interrupt the block, which may take long and holds no point.

        Raises:
            StopRequestedError: a stop was requested before the block or during it.
        """
        self.preparing = True
        try:
            self.check()
            yield
        finally:
            self.preparing = False


def stop_on_signals(stop: StopRequest) -> None:
    """Stop a worker on the signals of `signals.ASKING`: on the first within its grace, on the second at once.

    A scheduler's warning never counts as the second signal. If the scheduler warned all processes of a job, and so both
    worker and supervisor, then the signal that the supervisor passes on does not count as the second either.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        warned_only = all(signal in signals.WARNING for signal in received)
        received.append(number)
        if stop.asked:
            if number in signals.WARNING or (stop.supervised and warned_only):
                return
            raise KeyboardInterrupt
        stop.ask()
        if stop.preparing:
            raise StopRequestedError

    signals.handle_with(handle)
