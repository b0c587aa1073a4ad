"""The classification of exceptions: whose fault one is, and whether it uses up an attempt at the point."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rust_optuna.errors import CircuitBreakerError, DataError, OutOfMemoryError, RustOptunaError
from rust_optuna.storage.outages import database_errors
from rust_optuna.storage.states import FaultKind

SAME_ERRORS_IN_A_ROW = 3
"""How many points in a row must fail with the same error before a worker stops: the fault is then more likely the
worker's than the points'."""


@dataclass(frozen=True)
class Fault:
    """The fault that ended an attempt without a result.

    Args:
        kind: the kind of fault, as the ledger stores it.
        reason: the reason in words, without the path of any film.
        of_the_point: whether the fault uses up one of the point's attempts. If not, the next point would meet the same
            trouble on this machine, so the worker stops.
    """

    kind: FaultKind
    reason: str
    of_the_point: bool


def classify(error: BaseException) -> Fault:
    """Return the fault that an exception which ended an attempt stands for."""
    if isinstance(error, OutOfMemoryError | MemoryError):
        # Another point, with smaller batches or fewer units, may well fit into memory.
        return Fault(FaultKind.MEMORY, f"out of memory: {error}", of_the_point=True)
    if isinstance(error, DataError):
        return Fault(FaultKind.DATA, error.public, of_the_point=False)
    if isinstance(error, RustOptunaError):
        return Fault(FaultKind.MACHINE, error.public, of_the_point=False)
    if isinstance(error, (OSError, *database_errors())):
        return Fault(FaultKind.MACHINE, type(error).__name__, of_the_point=False)
    if isinstance(error, Exception):
        return Fault(FaultKind.LIBRARY, f"{type(error).__name__}: {error}", of_the_point=True)
    return Fault(FaultKind.INTERRUPTED, "the worker was interrupted", of_the_point=False)


class CircuitBreaker:
    """A counter of points that failed in a row with the same error."""

    def __init__(self) -> None:
        self._error = ""
        self._points: set[tuple[int, int]] = set()

    def success(self) -> None:
        """Reset the count after a point that succeeded."""
        self._points.clear()

    def failure(self, point: tuple[int, int], fault: Fault) -> None:
        """Count a point's failure.

        Args:
            point: the point's study and number.
            fault: the fault of the attempt; errors that differ only in digits count as the same.

        Raises:
            CircuitBreakerError: the count has reached `SAME_ERRORS_IN_A_ROW`.
        """
        error = re.sub(r"\d+", "", fault.reason)
        if error != self._error:
            self._error = error
            self._points.clear()
        self._points.add(point)
        if len(self._points) >= SAME_ERRORS_IN_A_ROW:
            raise CircuitBreakerError(f"{len(self._points)} points failed in a row with the same error: {fault.reason}")
