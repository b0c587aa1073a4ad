"""Intermediate values, shown in Optuna from a thread of their own."""

import warnings

import optuna

from rust_optuna.worker.reporter import Reporter


def test_a_trial_that_begins_anew_shows_each_epoch_once_and_its_first_value():
    trial = optuna.create_study().ask()
    with warnings.catch_warnings():
        # Optuna warns of a value that is reported twice.
        warnings.simplefilter("error")
        with Reporter(trial) as reporter:
            for epoch, value in ((1, 0.1), (2, 0.2), (1, 0.9), (2, 0.9), (3, 0.3)):
                reporter.report(epoch, value)
    assert trial.storage.get_trial(trial._trial_id).intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}
