"""Whose fault an exception is, and when a worker stops for its own."""

import optuna
import pytest
import sqlalchemy as sa

from rust_optuna.errors import CircuitBreakerError, DataError, FilmError, OutOfMemoryError, StorageError
from rust_optuna.worker.faults import SAME_ERRORS_IN_A_ROW, CircuitBreaker, Fault, classify


@pytest.mark.parametrize(
    ("error", "kind", "of_the_point"),
    [
        (MemoryError(), "memory", True),
        (OutOfMemoryError("however small"), "memory", True),
        (ValueError("no luck"), "library", True),
        (DataError("films are elsewhere"), "data", False),
        (StorageError("away"), "machine", False),
        (OSError(28, "No space left on device"), "machine", False),
        (optuna.exceptions.StorageInternalError("away"), "machine", False),
        (sa.exc.TimeoutError(), "machine", False),
        (KeyboardInterrupt(), "interrupted", False),
        (SystemExit(1), "interrupted", False),
    ],
)
def test_only_errors_of_the_objective_use_up_an_attempt(error, kind, of_the_point):
    fault = classify(error)
    assert (fault.kind, fault.of_the_point) == (kind, of_the_point)


def test_a_films_fault_names_the_film_by_its_content_and_no_path():
    fault = classify(FilmError("ab" * 32, "has changed", "/films/Smith-John/1.png"))
    assert fault.reason == "film abababababab has changed"


def test_the_same_error_on_several_points_in_a_row_is_the_workers_own():
    breaker = CircuitBreaker()
    for point in range(SAME_ERRORS_IN_A_ROW - 1):
        breaker.failure((1, point), Fault("library", f"CUDA error {point} at 0x{point}", True))
    with pytest.raises(CircuitBreakerError, match="in a row with the same error: CUDA error 9"):
        breaker.failure((1, 9), Fault("library", "CUDA error 9 at 0x9", True))


def test_one_bad_point_is_not_a_bad_worker():
    breaker = CircuitBreaker()
    for _ in range(2 * SAME_ERRORS_IN_A_ROW):
        breaker.failure((1, 0), Fault("library", "no luck", True))


def test_other_errors_and_successes_in_between_begin_the_count_again():
    breaker = CircuitBreaker()
    for point in range(2 * SAME_ERRORS_IN_A_ROW):
        breaker.failure((1, point), Fault("library", "no luck" if point % 2 else "bad luck", True))
    for point in range(2 * SAME_ERRORS_IN_A_ROW):
        breaker.failure((1, point), Fault("library", "no luck", True))
        breaker.success()
