import pytest

from rust_optuna.data.threads import map_in_threads


def test_results_keep_the_order_of_the_items():
    seen = []
    assert map_in_threads(lambda n: n * n, range(50), lambda *counts: seen.append(counts)) == [n * n for n in range(50)]
    assert seen[-1] == (50, 50)


def test_no_items():
    assert map_in_threads(str, []) == []


def test_a_failure_is_raised_and_the_rest_given_up():
    started = []

    def work(number):
        started.append(number)
        if number == 0:
            raise KeyError(number)

    def interrupt(done, total):
        raise AssertionError("nothing was done")

    with pytest.raises(KeyError):
        map_in_threads(work, range(10_000), interrupt)
    assert len(started) < 10_000
