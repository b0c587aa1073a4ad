import io
import json
import logging
import re

import pytest

from rust_optuna import logs
from rust_optuna.errors import FilmError

PATH = "/films/jane-doe.png"
LOG = logging.getLogger("rust_optuna.run.test")


@pytest.fixture
def written(request):
    """Return a function that configures logging and returns the stream it writes to."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("rust_optuna").level)

    def configure(form, **keywords):
        stream = io.StringIO()
        logs.configure(form, stream=stream, **keywords)
        return stream

    yield configure
    root.handlers[:], level, ours = before
    root.setLevel(level)
    logging.getLogger("rust_optuna").setLevel(ours)


def test_a_line_for_people_says_when_in_utc_how_grave_and_what(written):
    stream = written("text")
    LOG.info("%s stopped", "worker", extra={"event": "stopped"})
    LOG.info("claimed", extra={"event": "claimed", "study": "regime-1", "point": 0, "attempt": 2})
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(f"{time} INFO worker stopped", first)
    assert re.fullmatch(f"{time} INFO regime-1 point 0 attempt 2: claimed", second)


def test_a_line_of_json_carries_the_fields_of_the_event(written):
    stream = written("json", worker="host-1")
    fields = {"event": "claimed", "study": "regime-1", "point": 0, "attempt": 2}
    LOG.info("%s: point %d claimed", "regime-1", 0, extra=fields)
    document = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("time"))
    assert document == {
        "level": "INFO",
        "logger": "rust_optuna.run.test",
        "worker": "host-1",
        "message": "regime-1: point 0 claimed",
        **fields,
    }


def test_an_event_about_another_worker_names_that_one(written):
    stream = written("json", worker="host-1")
    LOG.warning("died", extra={"worker": "host-2"})
    assert json.loads(stream.getvalue())["worker"] == "host-2"


@pytest.mark.parametrize("form", logs.FORMATS)
def test_no_path_of_a_film_is_logged_however_its_error_is(written, form):
    stream = written(form)
    error = FilmError("ab" * 32, "cannot be read", PATH)
    LOG.error("given back: %s", error, extra={"reason": error})
    LOG.error(error)
    try:
        try:
            raise error
        except FilmError as cause:
            raise ValueError("no such luck") from cause
    except ValueError:
        LOG.exception("failed")
    said = stream.getvalue()
    assert "abababababab cannot be read" in said
    assert "no such luck" in said
    assert "jane-doe" not in said


def test_a_traceback_is_one_line_of_json(written):
    stream = written("json")
    try:
        raise ValueError("no such luck")
    except ValueError:
        LOG.exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: no such luck" in json.loads(line)["traceback"]


def test_other_libraries_are_heard_when_they_warn(written):
    stream = written("text")
    logging.getLogger("another").info("hello")
    logging.getLogger("another").warning("beware")
    assert "hello" not in stream.getvalue()
    assert "beware" in stream.getvalue()
