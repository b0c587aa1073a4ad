import threading

import pytest

from rust_optuna.learn.threads import AbandonedError, SideBySide


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads):
    with SideBySide(threads) as side_by_side:
        assert side_by_side.map(lambda item: item * item, range(7)) == [item * item for item in range(7)]


@pytest.mark.parametrize("threads", [2, 3])
def test_as_many_calls_run_at_once_as_there_are_threads(threads):
    together = threading.Barrier(threads, timeout=30)
    with SideBySide(threads) as side_by_side:
        assert sorted(side_by_side.map(lambda _: together.wait(), range(threads))) == list(range(threads))


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
