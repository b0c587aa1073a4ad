"""How a worker is asked to stop: by a signal, or by its supervisor's death, which sends none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rust_optuna import signals
from rust_optuna.processes import GRACE_SECONDS, SUPERVISOR


class StopRequestedError(Exception):
    """The user or the supervisor asked this worker to stop: the point goes back to the queue."""


class StopRequest:
    """Whether a worker was asked to stop, and when the time that a running point still has is over.

    Args:
        grace: seconds that a running point may take to end once a stop is asked for.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self.grace = grace
        self.preparing = False
        """Whether the worker is at something that may take long while it holds no point."""
        self._parent = int(os.environ.get(SUPERVISOR, "0"))
        self._asked = False
        self._deadline = float("inf")

    @property
    def supervised(self) -> bool:
        """Whether a supervisor started this process, and passes on what it is asked."""
        return self._parent != 0

    @property
    def asked(self) -> bool:
        """Whether a stop was asked for; an orphan takes its supervisor's death for the request."""
        if self._parent and os.getppid() != self._parent:
            self.ask()
        return self._asked

    def ask(self) -> None:
        """Ask for a stop: no more points, and the running one may end within the grace. Safe in a signal handler."""
        if not self._asked:
            self._deadline = time.monotonic() + self.grace
            self._asked = True

    def overdue(self, margin: float = 0.0) -> bool:
        """Say whether a stop was asked for, and the grace and a margin in seconds are over."""
        return self.asked and time.monotonic() >= self._deadline + margin

    def check(self) -> None:
        """Raise StopRequestedError if a stop was asked for."""
        if self.asked:
            raise StopRequestedError

    @contextmanager
    def ends_preparation(self) -> Iterator[None]:
        """Let a stop end what may take long while no point is held, in its midst.

        Raises:
            StopRequestedError: a stop was asked for, before or meanwhile.
        """
        self.preparing = True
        try:
            self.check()
            yield
        finally:
            self.preparing = False


def stop_on_signals(stop: StopRequest) -> None:
    """Let the signals of `signals.ASKING` stop a worker: the first within its grace, the second at once.

    A warning is never a second one. Nor is what a supervisor sends after a warning that reached both of them, as a
    scheduler's does that signals all processes of a job.
    """
    heard: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        warned_only = all(each in signals.WARNING for each in heard)
        heard.append(number)
        if stop.asked:
            if number in signals.WARNING or (stop.supervised and warned_only):
                return
            raise KeyboardInterrupt
        stop.ask()
        if stop.preparing:
            raise StopRequestedError

    signals.handle_with(handle)
