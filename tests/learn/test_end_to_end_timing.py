import numpy as np
import pytest

from tests.learn.end_to_end_material import inception, lenet
from tests.learn.material import hashes, make_development

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def clock(monkeypatch):
    """A clock that only training and scoring move: 2 s a film that is trained on, 3 s a step, 0.5 s a film scored."""
    from rust_optuna.learn import end_to_end_timing as module
    from rust_optuna.learn.end_to_end import EndToEndTrainer

    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "folds_at_once", lambda trial: 1)
    train, predict = EndToEndTrainer.train_epoch, EndToEndTrainer.predict

    def trained(self, epoch):
        now[0] += 2.0 * len(self._films) + 3.0
        return train(self, epoch)

    def predicted(self, films):
        now[0] += 0.5 * len(films)
        return predict(self, films)

    monkeypatch.setattr(EndToEndTrainer, "train_epoch", trained)
    monkeypatch.setattr(EndToEndTrainer, "predict", predicted)


@pytest.fixture
def development():
    return make_development(hashes(9))


@pytest.mark.parametrize("micro_batch", [4, 100])
def test_a_trial_is_added_up_from_films_steps_and_scores(clock, development, micro_batch):
    from rust_optuna.learn.end_to_end_timing import EndToEndTimer

    times = EndToEndTimer(development, lenet(micro_batch=micro_batch)).measure()
    training = [int((development.folds != fold).sum()) for fold in range(3)]
    # In batches of 4, each of 5 epochs has two steps a fold.
    expected = 5 * (2.0 * sum(training) + 3.0 * 2 * 3 + 0.5 * 9)
    assert training == [6, 6, 6]
    assert times.trial(training, 4, 5) == pytest.approx(expected)
    assert times.trial(training, 100, 1) == pytest.approx(2.0 * 18 + 3.0 * 3 + 0.5 * 9)
    assert times.artifact_bytes == 120 * 9


def test_memory_counts_the_folds_that_wait(clock, development, monkeypatch):
    from rust_optuna.learn import end_to_end_timing as module

    monkeypatch.setattr(module, "peak_memory", lambda: 10**9)
    timer = module.EndToEndTimer(development, lenet())
    weights = sum(array.nbytes for array in timer._trainers[1][0].weights)
    assert timer.measure().memory_bytes == 10**9 + 3 * weights
    assert np.isclose(weights, 4 * 1024 * 1024, rtol=0.05)


def test_a_large_micro_batch_of_inception_is_timed_on_fewer_films(clock, development, monkeypatch):
    from rust_optuna.learn import end_to_end_timing as module
    from rust_optuna.learn.end_to_end import INCEPTION_BYTES_A_PIXEL

    monkeypatch.setattr(module, "peak_memory", lambda: 0)
    monkeypatch.setattr(module, "FILMS_AT_MOST", 2)
    timer = module.EndToEndTimer(development, inception(micro_batch=5))
    times, training = timer.measure(), [6, 6, 6]
    assert times.trial(training, 6, 5) == pytest.approx(5 * (2.0 * 18 + 3.0 * 3 + 0.5 * 9))
    weights = sum(array.nbytes for array in timer._trainers[1][0].weights)
    assert times.memory_bytes == 3 * weights + 3 * 75**2 * INCEPTION_BYTES_A_PIXEL
