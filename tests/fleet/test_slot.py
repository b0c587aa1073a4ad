import io

import pytest

from rust_optuna.fleet.devices import Slot
from rust_optuna.fleet.slot import Place, last_words


@pytest.fixture
def place(tmp_path):
    return Place(0, Slot("cpu", {}), tmp_path / "worker.log", worker="ann")


def shown(place):
    stream = io.StringIO()
    place.show(stream, "[0] ")
    return stream.getvalue()


def test_whole_lines_are_shown_once(place):
    place.log.write_text("one\ntwo\nthr")
    assert shown(place) == "[0] one\n[0] two\n"
    with place.log.open("a") as file:
        file.write("ee\n")
    assert shown(place) == "[0] three\n"
    assert shown(place) == ""


def test_a_log_that_was_removed_or_emptied_is_no_error_and_its_successor_is_shown(place):
    place.log.write_text("one\ntwo\n")
    shown(place)
    place.log.unlink()
    assert shown(place) == ""
    assert last_words(place.log) == "none"
    place.log.write_text("anew, and longer than the first\n")
    assert shown(place) == "[0] anew, and longer than the first\n"
    place.log.write_text("short\n")
    assert shown(place) == "[0] short\n"
    place.log.write_text("")
    assert last_words(place.log) == "none"


def test_the_error_that_a_worker_ended_with_is_shown_once_it_is_buried_or_not_at_all(place):
    for left_out in (False, True):
        place.process = object()
        place.log.write_text("one\nError: two\n  three\n")
        assert shown(place) == "[0] one\n"
        assert shown(place) == ""
        place.process = None
        if left_out:
            place.leave_out_error()
        assert shown(place) == ("" if left_out else "[0] Error: two\n[0]   three\n")
        place.log.write_text("")
        shown(place)


def test_a_stream_that_takes_no_more_is_left_alone(place):
    class Closed(io.StringIO):
        tries = 0

        def write(self, text):
            self.tries += 1
            raise BrokenPipeError

    place.log.write_text("one\n")
    closed = Closed()
    for _ in range(2):
        place.show(closed, "")
    assert closed.tries == 1
