import io

import pytest

from rust_optuna.fleet.devices import Device
from rust_optuna.fleet.slot import Slot, last_words


@pytest.fixture
def slot(tmp_path):
    return Slot(0, Device("cpu", {}), tmp_path / "worker.log", worker="ann")


def shown(slot):
    stream = io.StringIO()
    slot.show(stream, "[0] ")
    return stream.getvalue()


def test_whole_lines_are_shown_once(slot):
    slot.log.write_text("one\ntwo\nthr")
    assert shown(slot) == "[0] one\n[0] two\n"
    with slot.log.open("a") as file:
        file.write("ee\n")
    assert shown(slot) == "[0] three\n"
    assert shown(slot) == ""


def test_a_log_that_was_removed_or_emptied_is_no_error_and_its_successor_is_shown(slot):
    slot.log.write_text("one\ntwo\n")
    shown(slot)
    slot.log.unlink()
    assert shown(slot) == ""
    assert last_words(slot.log) == "none"
    slot.log.write_text("anew, and longer than the first\n")
    assert shown(slot) == "[0] anew, and longer than the first\n"
    slot.log.write_text("short\n")
    assert shown(slot) == "[0] short\n"
    slot.log.write_text("")
    assert last_words(slot.log) == "none"


def test_the_error_that_a_worker_ended_with_is_shown_once_it_is_buried_or_not_at_all(slot):
    for left_out in (False, True):
        slot.process = object()
        slot.log.write_text("one\nError: two\n  three\n")
        assert shown(slot) == "[0] one\n"
        assert shown(slot) == ""
        slot.process = None
        if left_out:
            slot.leave_out_error()
        assert shown(slot) == ("" if left_out else "[0] Error: two\n[0]   three\n")
        slot.log.write_text("")
        shown(slot)


def test_a_stream_that_takes_no_more_is_left_alone(slot):
    class Closed(io.StringIO):
        tries = 0

        def write(self, text):
            self.tries += 1
            raise BrokenPipeError

    slot.log.write_text("one\n")
    closed = Closed()
    for _ in range(2):
        slot.show(closed, "")
    assert closed.tries == 1
