import threading

import pytest

from rust_optuna.errors import LeaseLostError, StorageError
from rust_optuna.processes import ExitCode
from rust_optuna.search.ledger import Claim
from rust_optuna.storage.tables import StudyKey
from rust_optuna.worker.lease import LeaseKeeper
from tests.studies import wait_until

CLAIM = Claim(1, StudyKey(1, 0.0), "a-study", 0, 1, "ann", {}, None, lease_seconds=0.03)


class FakeLedger:
    """Answers each renewal in turn: None, or an error to raise; the last answer goes on for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.renewals = 0

    def renew(self, claim):
        assert claim is CLAIM
        answer = self.answers[min(self.renewals, len(self.answers) - 1)]
        self.renewals += 1
        if answer is not None:
            raise answer


def test_the_lease_is_renewed_for_as_long_as_the_block_runs():
    ledger = FakeLedger(None)
    with LeaseKeeper(ledger, CLAIM) as lease:
        wait_until(lambda: ledger.renewals >= 3)
        lease.check()
    renewals = ledger.renewals
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]
    assert ledger.renewals == renewals


def test_a_refused_renewal_is_told_at_the_next_check_and_ends_the_renewing():
    ledger = FakeLedger(None, LeaseLostError("gone"))
    with LeaseKeeper(ledger, CLAIM) as lease:
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "lease"])
        for _ in range(2):
            with pytest.raises(LeaseLostError, match="gone"):
                lease.check()
    assert ledger.renewals == 2


def test_a_database_that_is_away_for_a_while_is_asked_again():
    ledger = FakeLedger(StorageError("away"), StorageError("away"), None)
    with LeaseKeeper(ledger, CLAIM) as lease:
        wait_until(lambda: ledger.renewals >= 4)
        lease.check()


def test_an_error_in_the_block_ends_the_renewing_too():
    ledger = FakeLedger(None)
    with pytest.raises(ZeroDivisionError), LeaseKeeper(ledger, CLAIM):
        1 / 0  # noqa: B018
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


class Recording(FakeLedger):
    def __init__(self):
        super().__init__(None)
        self.released = []
        self.left = []

    def leave(self, worker):
        self.left.append(worker)

    def release(self, claim, reason, fault):
        self.released.append((reason, fault))
        return True


def test_a_trial_that_does_not_advance_is_given_back_and_the_process_ends():
    ledger, left, over = Recording(), [], threading.Event()
    with LeaseKeeper(ledger, CLAIM, stuck_seconds=0.01, leave=lambda code: (left.append(code), over.set())):
        assert over.wait(30)
    assert left == [ExitCode.STUCK]
    assert [fault for _, fault in ledger.released] == ["machine"]
    assert "did not advance" in ledger.released[0][0]
    renewals = ledger.renewals
    assert not [thread for thread in threading.enumerate() if thread.name in ("lease", "watch")]
    assert ledger.renewals == renewals


def test_a_slow_trial_may_take_twenty_of_its_own_epochs():
    lease = LeaseKeeper(Recording(), CLAIM, stuck_seconds=1.0)
    lease._epochs = [30.0, 40.0, 50.0]
    lease._advanced -= 799.0
    assert not lease._is_stuck()
    lease._advanced -= 2.0
    assert lease._is_stuck()
    lease.advanced()
    assert not lease._is_stuck()


def test_a_worker_past_its_grace_gives_the_point_back_in_mid_epoch_and_ends_well():
    ledger, left, over = Recording(), [], threading.Event()
    with LeaseKeeper(ledger, CLAIM, overdue=lambda: True, leave=lambda code: (left.append(code), over.set())):
        assert over.wait(30)
    assert ledger.left == ["ann"]  # it is listed no more
    assert (left, ledger.released) == ([ExitCode.DONE], [("the worker was asked to stop", "interrupted")])
