import threading
from unittest.mock import patch

import pytest

from rust_optuna.learn import threads
from rust_optuna.learn.threads import AbandonedError, SideBySide


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(count):
    with SideBySide(count) as side_by_side:
        assert side_by_side.map(lambda item: item * item, range(7)) == [item * item for item in range(7)]


@pytest.mark.parametrize("count", [2, 3])
def test_as_many_calls_run_at_once_as_there_are_threads(count):
    together = threading.Barrier(count, timeout=30)
    with SideBySide(count) as side_by_side:
        assert sorted(side_by_side.map(lambda _: together.wait(), range(count))) == list(range(count))


def test_one_thread_is_the_callers_own():
    with SideBySide(1) as side_by_side:
        assert side_by_side.map(lambda _: threading.get_ident(), [0]) == [threading.get_ident()]


@pytest.mark.parametrize("failing", [0, 1])
def test_where_one_call_fails_the_others_are_told_and_its_error_is_raised(failing):
    both, told = threading.Barrier(2, timeout=30), []

    def call(number):
        side_by_side.check()
        both.wait()
        if number == failing:
            raise ValueError("this fold")
        try:
            while True:
                side_by_side.check()
        except AbandonedError:
            told.append(number)
            raise

    side_by_side = SideBySide(2)
    with pytest.raises(ValueError, match="this fold"), side_by_side:
        side_by_side.map(call, [0, 1])
    assert told == [1 - failing]


def test_of_several_calls_that_fail_lack_of_memory_is_told_then_the_first():
    """Lack of memory makes others fail, and its trial is run again in micro-batches."""

    def fail(errors):
        together = threading.Barrier(3, timeout=30)

        def call(error):
            together.wait()
            raise error

        with SideBySide(3) as side_by_side:
            # As if all had failed by the time that anybody looked.
            honest = threads.wait
            with patch.object(threads, "wait", lambda begun, return_when: honest(begun)):
                side_by_side.map(call, errors)

    for _ in range(5):
        with pytest.raises(MemoryError):
            fail([KeyError(1), ValueError(2), MemoryError(3)])
        with pytest.raises(KeyError):
            fail([KeyError(1), ValueError(2), TypeError(3)])
