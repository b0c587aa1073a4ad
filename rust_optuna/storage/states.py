"""The states that the ledger keeps, as it writes them."""

from __future__ import annotations

from enum import StrEnum


class StudyState(StrEnum):
    """How far a study is."""

    DRAWING = "drawing"
    """Its creation, or its extension, is not finished."""
    OPEN = "open"
    """It has points to run."""
    DONE = "done"
    """Each of its points has ended: complete, pruned or a hole."""


class PointState(StrEnum):
    """What is the case with a design point."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    HOLE = "hole"
    """Its attempts are used up."""


UNFINISHED = (PointState.WAITING, PointState.RUNNING)
"""The states of a point that is still to end."""


class AttemptState(StrEnum):
    """How an attempt at a point ended."""

    RUNNING = "running"
    """It has not ended."""
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    """By an error of the objective, which used up one of the point's attempts."""
    LOST = "lost"
    """Its lease ended, or its worker was seen to die."""
    RELEASED = "released"
    """Its worker gave the point back."""


class FaultKind(StrEnum):
    """What kind of trouble ended an attempt without a result."""

    MEMORY = "memory"
    """No memory was left, on the device or on the machine."""
    LIBRARY = "library"
    """Any other error of the objective."""
    DATA = "data"
    """Films or the features of films were missing or broken."""
    MACHINE = "machine"
    """The machine failed: a disk, the network, a device that no longer answers."""
    INTERRUPTED = "interrupted"
    """The worker was asked to stop."""
    LEASE = "lease"
    """The lease ended, or the worker was seen to die."""
