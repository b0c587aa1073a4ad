import os
import signal
import subprocess
import sys

import pytest

from rust_optuna.signals import ASKING, WARNING, Signals, blocked


def mask():
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.fixture(autouse=True)
def unchanged():
    before = ([signal.getsignal(number) for number in ASKING], mask())
    yield
    assert ([signal.getsignal(number) for number in ASKING], mask()) == before


def test_signals_are_noted_in_order_and_none_is_lost_before_they_are_let_in():
    with Signals() as signals:
        assert set(ASKING) <= mask()
        os.kill(os.getpid(), signal.SIGTERM)
        signals.listen()
        os.kill(os.getpid(), signal.SIGINT)
        signals.wait(0)
        assert signals.received == [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", WARNING)
def test_a_warning_asks_to_stop_once_and_never_insists(number):
    with Signals() as signals:
        signals.listen()
        for each in (number, number, signal.SIGTERM, number):
            os.kill(os.getpid(), each)
        signals.wait(0)
        assert signals.received == [number, signal.SIGTERM]


def test_a_signal_ends_a_wait():
    with Signals() as signals:
        signals.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        signals.wait(600)
        assert signals.received == [signal.SIGTERM]


def test_a_signal_that_the_user_chose_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signals.listen()
            os.kill(os.getpid(), signal.SIGHUP)
            signals.wait(0)
            assert signals.received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_started_in_between_waits_with_signals_until_it_lets_them_in():
    script = (
        "import signal, sys\n"
        "from rust_optuna.signals import unblock\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('stopped in good order'))\n"
        "print('up', flush=True)\n"
        "sys.stdin.readline()\n"
        "print('nothing yet')\n"
        "unblock()\n"
    )
    with blocked():
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    with child:
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "up\n"
        said, _ = child.communicate("go on\n")
    assert said == "nothing yet\nstopped in good order\n"
