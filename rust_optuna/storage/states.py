"""The states of studies, points and attempts, spelled as the ledger stores them."""

from __future__ import annotations

from enum import StrEnum


class StudyState(StrEnum):
    """The state of a study."""

    DRAWING = "drawing"
    """The study is being created or extended."""
    OPEN = "open"
    """The study has points to run."""
    DONE = "done"
    """Every point of the study has ended: complete, pruned or a hole."""


class PointState(StrEnum):
    """The state of a design point."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    HOLE = "hole"
    """The point's attempts are used up."""


UNFINISHED = (PointState.WAITING, PointState.RUNNING)
"""The states of a point that has not ended yet."""


class AttemptState(StrEnum):
    """The outcome of an attempt at a point."""

    RUNNING = "running"
    """The attempt has not ended."""
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    """The objective raised an error, which used up one of the point's attempts."""
    LOST = "lost"
    """The attempt's lease ended, or its worker was seen to die."""
    RELEASED = "released"
    """The worker gave the point back."""


class FaultKind(StrEnum):
    """The kind of trouble that ended an attempt without a result."""

    MEMORY = "memory"
    """The device or the machine ran out of memory."""
    LIBRARY = "library"
    """The objective raised any other error."""
    DATA = "data"
    """Films or their features were missing or broken."""
    MACHINE = "machine"
    """The machine failed: its disk, its network, or a device that stopped answering."""
    INTERRUPTED = "interrupted"
    """The worker was asked to stop."""
    LEASE = "lease"
    """The lease ended, or the worker was seen to die."""
