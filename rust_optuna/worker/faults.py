"""What kind of trouble an exception is: whose fault, and whether it uses up an attempt at the point."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rust_optuna.errors import CircuitBreakerError, DataError, OutOfMemoryError, RustOptunaError
from rust_optuna.storage.outages import database_errors
from rust_optuna.storage.states import FaultKind

SAME_ERRORS_IN_A_ROW = 3
"""Points that fail with the same error, one after another, after which a worker stops: the fault is then likelier its
own than theirs."""


@dataclass(frozen=True)
class Fault:
    """What ended an attempt without a result.

    Args:
        kind: as the ledger keeps it.
        reason: in words, without the path of a film.
        of_the_point: whether it uses up one of the point's attempts. Otherwise the point is as good as before, and the
            next one would meet the same trouble here: the worker stops.
    """

    kind: FaultKind
    reason: str
    of_the_point: bool


def classify(error: BaseException) -> Fault:
    """Say what kind of trouble an exception is that ended an attempt."""
    if isinstance(error, OutOfMemoryError | MemoryError):
        # Another point, with smaller batches or fewer units, may well fit.
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
    """Counts points that failed in a row with the same error."""

    def __init__(self) -> None:
        self._error = ""
        self._points: set[tuple[int, int]] = set()

    def success(self) -> None:
        """Forget what was counted: a point went well."""
        self._points.clear()

    def failure(self, point: tuple[int, int], fault: Fault) -> None:
        """Count a point's failure.

        Args:
            point: its study and number.
            fault: what ended it; errors that differ in their numbers only are the same.

        Raises:
            CircuitBreakerError: it is the last straw.
        """
        error = re.sub(r"\d+", "", fault.reason)
        if error != self._error:
            self._error = error
            self._points.clear()
        self._points.add(point)
        if len(self._points) >= SAME_ERRORS_IN_A_ROW:
            raise CircuitBreakerError(f"{len(self._points)} points failed in a row with the same error: {fault.reason}")
