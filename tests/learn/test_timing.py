import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rust_optuna.learn.timing import ExtractionTimer, TrainingTimer, TrainingTimes, timed_sizes
from tests.learn.material import BACKBONE, hashes, make_development

STEPS = ((16, 2.0), (64, 3.0), (200, 10.0))


def times(**changes):
    return TrainingTimes(
        **{"steps": STEPS, "scoring": 0.5, "overhead": 7.0, "artifact_bytes": 1, "memory_bytes": 1, **changes}
    )


@given(films=st.integers(1, 200), batch_size=st.integers(1, 400))
def test_an_epoch_is_the_sum_of_its_steps(films, batch_size):
    """Checked against cutting the films into batches."""
    sizes = [len(batch) for batch in np.split(np.arange(films), range(batch_size, films, batch_size))]
    expected = sum(np.interp(size, [16, 64, 200], [2.0, 3.0, 10.0]) for size in sizes)
    assert times().epoch(films, batch_size) == pytest.approx(expected)


def test_a_trial_is_its_folds_epochs_their_scoring_and_what_is_around():
    # Two folds of 64 films in batches of 16: four steps of 2 s each.
    assert times().trial([64, 64], 16, epochs=3) == pytest.approx(7 + 3 * 2 * (4 * 2 + 0.5))


@pytest.mark.parametrize(
    ("batch_sizes", "films", "expected"),
    [
        ((4, 12, 9), 28, [4, 12]),
        ((1, 20), 28, [1, 4, 16, 20]),
        ((16, 2048), 340, [16, 64, 256, 340]),
        ((64, 2048), 28, [28]),
    ],
)
def test_the_sizes_that_are_timed_are_those_of_the_trials_as_far_as_there_are_films(batch_sizes, films, expected):
    assert timed_sizes(batch_sizes, films) == expected


@pytest.mark.parametrize(("threads", "folds"), [(1, 3), (2, 2), (3, 1), (6, 1)])
def test_folds_that_train_at_once_take_the_time_of_the_longest_row_of_them(threads, folds):
    assert times(threads=threads).trial([64] * 3, 16, epochs=2) == pytest.approx(7 + 2 * folds * (4 * 2 + 0.5))


@pytest.mark.tensorflow
def test_steps_of_every_size_are_timed_on_the_real_code(development, trial, monkeypatch):
    from rust_optuna.learn import timing

    monkeypatch.setattr(timing, "SECONDS_A_SIZE", 0.01)
    monkeypatch.setattr(timing, "BATCH_SIZES", (4, 16, 1024))
    timer = TrainingTimer(development, 24, trial, [4, 1024])
    found = timer.measure()
    films = int((development.folds != 0).sum())
    assert [size for size, _ in found.steps] == [4, 16, films]
    assert all(seconds > 0 for _, seconds in found.steps)
    assert found.artifact_bytes > 1000
    assert found.memory_bytes > 10**8
    assert found.trial([films] * 3, 7, 3) > 0


def test_a_steps_time_is_the_time_of_full_batches_divided_by_their_number(development, trial, monkeypatch):
    """On a clock that a trainer moves: 0.01 s a step and 0.001 s a film."""
    from rust_optuna.learn import timing

    now = [100.0]

    class Trainer:
        def __init__(self, source, labels, films, trial, seed):
            self.films, self.batch_size = len(films), trial.batch_size

        def train_epoch(self, epoch):
            assert self.films % self.batch_size == 0
            now[0] += self.films // self.batch_size * 0.01 + self.films * 0.001

    monkeypatch.setattr(timing, "BATCH_SIZES", (4, 16))
    monkeypatch.setattr(timing, "FILMS_AN_EPOCH", 12)
    monkeypatch.setattr(timing, "FoldTrainer", Trainer)
    monkeypatch.setattr(timing, "side_by_side_threads", lambda: 1)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(TrainingTimer, "_cross_validate", lambda self, epochs=1: (0.0, 0))
    steps = dict(TrainingTimer(development, 24, trial, [4, 1024]).measure().steps)
    films = int((development.folds != 0).sum())
    assert steps == pytest.approx({4: 0.01 + 0.004, 16: 0.01 + 0.016, films: 0.01 + films * 0.001})


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_no_step_is_scoring_and_overhead(trial, monkeypatch, threads):
    """On trials of known length: 5 s of overhead, and an epoch whose steps take 2 s a fold, its scoring 0.5 s."""
    from rust_optuna.learn import timing

    rounds = {1: 3, 3: 1}[threads]  # of three folds
    monkeypatch.setattr(timing, "side_by_side_threads", lambda: threads)
    monkeypatch.setattr(TrainingTimer, "_step", lambda self, size: 2.0)
    monkeypatch.setattr(
        TrainingTimer, "_cross_validate", lambda self, epochs=1: (5.0 + epochs * rounds * 2.5, 100 * epochs)
    )
    found = TrainingTimer(make_development(hashes(42)), 24, trial, [16]).measure()
    assert (found.overhead, found.scoring, found.artifact_bytes) == (pytest.approx(5.0), pytest.approx(0.5), 100)
    assert found.threads == threads


def test_a_film_takes_its_share_of_whole_micro_batches_on_all_threads(films, monkeypatch):
    """On a clock that reading and extraction move: 2 s a film read, 0.1 s a film computed."""
    from rust_optuna.learn import timing

    now = [100.0]

    class Extractor:
        slots, threads, width = 15, 2, 7

        def __init__(self, backbone):
            pass

        def extract(self, images, flips):
            assert len(images) == len(flips) == 30
            assert set(flips) == {0, 1, 2, 3}
            now[0] += 0.1 * len(images)

    def read(backbone, content, bytes_of):
        now[0] += 2.0
        return np.zeros((75, 75), np.float32)

    monkeypatch.setattr(timing, "Extractor", Extractor)
    monkeypatch.setattr(timing, "read_film", read)
    monkeypatch.setattr(timing, "arithmetic", lambda precision: "A 1")
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    found = ExtractionTimer(BACKBONE).measure(films.contents[:4], films.read)
    assert (found.kind, found.width) == ("A 1", 7)
    assert (found.reading, found.flip) == (pytest.approx(2.0), pytest.approx(0.1))


@pytest.mark.tensorflow
def test_extraction_is_timed_on_real_films(films):
    found = ExtractionTimer(BACKBONE).measure(films.contents, films.read)
    assert found.width == 288
    assert found.film == found.reading + 4 * found.flip
    assert min(found.reading, found.flip) > 0


@pytest.mark.tensorflow
def test_a_short_trial_takes_its_time_and_its_scores_their_room(development, trial, monkeypatch):
    """On a clock that the trial moves by 3 s an epoch."""
    from rust_optuna.learn import timing

    now = [100.0]

    def validate(films, source, configuration, **others):
        now[0] += 3.0 * configuration.epochs

    monkeypatch.setattr(timing, "cross_validate", validate)
    monkeypatch.setattr(timing, "save_out_of_fold", lambda path, found: path.write_bytes(b"12345"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert TrainingTimer(development, 24, trial, [16])._cross_validate(2) == (6.0, 5)
