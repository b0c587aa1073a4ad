"""The log of workers and supervisors: one line per event, for people or for programs.

Events are logged with their fields beside the message::

    log.info("claimed", extra={"event": "claimed", "study": "regime-1", "point": 3, "attempt": 1})

A log never holds the path of a film: an error of this project is logged as its public message.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

from rust_optuna.errors import RustOptunaError

FORMATS = ("text", "json")
FIELDS = (
    *("event", "worker", "supervisor", "study", "point", "attempt", "outcome", "value", "seconds"),
    *("host", "node", "device", "pid", "exit_code", "deaths", "reason", "parameters", "count"),
)
"""The fields of a record's ``extra`` that a line of JSON carries, in this order, beside time, level and message."""


def configure(form: str, *, worker: str | None = None, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Make this process log this project's events and the warnings of other libraries.

    Args:
        form: ``text`` or ``json``.
        worker: the worker named on every line that names no other worker.
        level: the lowest level of this project's events that is logged.
        stream: the stream to write to; None for stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_Discretion(worker))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("rust_optuna").setLevel(level)


class TextFormatter(logging.Formatter):
    """A formatter of lines for people: time (UTC), level, the point that the event is about, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the line, with the study, point and attempt that the record is about before its message."""
        fields = record.__dict__
        subject = [str(fields["study"])] if "study" in fields else []
        subject += [f"{name} {fields[name]}" for name in ("point", "attempt") if name in fields]
        if subject:
            record.message = f"{' '.join(subject)}: {record.message}"
        return super().formatMessage(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (logging's name)
        """Return the record's time in ISO 8601, UTC."""
        return _time(record)

    def formatException(self, ei: object) -> str:  # noqa: N802 (logging's name)
        """Return the traceback, without the path of a film."""
        return _traceback(ei[1]) if isinstance(ei, tuple) and isinstance(ei[1], BaseException) else ""


class JsonFormatter(logging.Formatter):
    """A formatter of one JSON object per line: time (UTC), level, message, the record's `FIELDS`, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        document = {"time": _time(record), "level": record.levelname, "logger": record.name}
        document |= {name: record.__dict__[name] for name in FIELDS if record.__dict__.get(name) is not None}
        document["message"] = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            document["traceback"] = _traceback(record.exc_info[1])
        return json.dumps(document, default=str)


class _Discretion(logging.Filter):
    """A filter that adds the worker's name and replaces errors by their public messages."""

    def __init__(self, worker: str | None) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        if self._worker is not None and not hasattr(record, "worker"):
            record.worker = self._worker
        if isinstance(record.args, tuple):
            record.args = tuple(_public(argument) for argument in record.args)
        record.msg = _public(record.msg)
        for name in FIELDS:
            if isinstance(record.__dict__.get(name), RustOptunaError):
                record.__dict__[name] = _public(record.__dict__[name])
        return True


def _public(value: object) -> object:
    return value.public if isinstance(value, RustOptunaError) else value


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)).rstrip()
    for cause in _chain(error):
        if isinstance(cause, RustOptunaError):
            text = text.replace(str(cause), cause.public)
    return text


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
