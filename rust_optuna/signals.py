"""Signals as flags: handlers record what arrived, and the loop that waits here acts on it."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

WARNING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals with which schedulers announce that time is nearly up. The first asks the process to stop; further ones do
not insist, because a scheduler repeats them as often as it likes (SIGXCPU once a second)."""
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *WARNING)
"""Signals that ask a supervisor to stop: a scheduler's, Ctrl-C, a closed terminal, and those of `WARNING`."""


class Signals:
    """A record of the signals that ask this process to stop while the ``with`` block runs. For the main thread only.

    At first the block's thread blocks these signals, so that none disturbs it while it starts processes; ``listen``
    unblocks them. No signal is lost, but warnings after the first signal are not recorded. After the block, the former
    handlers are back.
    """

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []

    def __enter__(self) -> Signals:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
        # A handler that only sets a flag does not end a wait, but a byte in this pipe does.
        self._readable, writable = os.pipe()
        self._writable = writable
        for end in (self._readable, writable):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        self._handlers = handle_with(self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._readable)
        os.close(self._writable)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def listen(self) -> None:
        """Unblock the signals; those that arrived while they were blocked are recorded now."""
        unblock()

    def wait(self, seconds: float) -> None:
        """Wait for some seconds or until the next signal."""
        select.select([self._readable], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._readable, 4096)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not (self.received and number in WARNING):
            self.received.append(signal.Signals(number))


def handle_with(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Install a handler for the signals that ask this process to stop; return the former handlers.

    A signal that the user chose to ignore (nohup) stays ignored.
    """
    heeded = [number for number in ASKING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


@contextmanager
def blocked() -> Iterator[None]:
    """Block signals while a process is started: the child inherits the block until it has handlers of its own."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def unblock() -> None:
    """Unblock signals, in a process that its supervisor started with them blocked and that has handlers now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
