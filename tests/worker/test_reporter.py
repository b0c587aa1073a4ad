"""Intermediate values, shown in Optuna from a thread of their own."""

import itertools
import warnings

import optuna
import pytest

from rust_optuna.worker.reporter import Reporter
from tests.studies import wait_until


def test_a_trial_that_begins_anew_shows_each_epoch_once_and_its_first_value():
    trial = optuna.create_study().ask()
    with warnings.catch_warnings():
        # Optuna warns of a value that is reported twice.
        warnings.simplefilter("error")
        with Reporter(trial) as reporter:
            for epoch, value in ((1, 0.1), (2, 0.2), (1, 0.9), (2, 0.9), (3, 0.3)):
                reporter.report(epoch, value)
    assert trial.storage.get_trial(trial._trial_id).intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}


def test_a_trial_whose_study_was_deleted_ends_at_its_next_report_and_nothing_is_logged(caplog):
    study = optuna.create_study()
    trial = study.ask()
    optuna.delete_study(study_name=study.study_name, storage=trial.storage)
    epochs = itertools.count(1)
    caplog.clear()
    with pytest.raises(KeyError), Reporter(trial) as reporter:
        wait_until(lambda: reporter.report(next(epochs), 0.1))
    assert caplog.messages == []
