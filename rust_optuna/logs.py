"""The log of workers and supervisors: one line an event, for people or for programs.

Events are logged with their fields beside the message::

    log.info("claimed", extra={"event": "claimed", "study": "regime-1", "point": 3, "attempt": 1})

No path of a film stands in a log: an error of this project is written as its public message.
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
"""What a line of JSON carries of a record's ``extra``, in this order, beside time, level and message."""


def configure(form: str, *, worker: str | None = None, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Let this process log this project's events, and what other libraries warn of.

    Args:
        form: ``text`` or ``json``.
        worker: stands on every line that names no other worker.
        level: of this project's events.
        stream: where to; None for stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_Discretion(worker))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("rust_optuna").setLevel(level)


class TextFormatter(logging.Formatter):
    """A line for people: time (UTC), level, the point it is about, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the line, with the study, point and attempt that the record is about before its message."""
        about = record.__dict__
        where = [str(about["study"])] if "study" in about else []
        where += [f"{name} {about[name]}" for name in ("point", "attempt") if name in about]
        if where:
            record.message = f"{' '.join(where)}: {record.message}"
        return super().formatMessage(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (logging's name)
        """Return the record's time, ISO 8601, in UTC."""
        return _time(record)

    def formatException(self, ei: object) -> str:  # noqa: N802 (logging's name)
        """Return the traceback, without the path of a film."""
        return _traceback(ei[1]) if isinstance(ei, tuple) and isinstance(ei[1], BaseException) else ""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, message, those of `FIELDS` that the record has, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        document = {"time": _time(record), "level": record.levelname, "logger": record.name}
        document |= {name: record.__dict__[name] for name in FIELDS if record.__dict__.get(name) is not None}
        document["message"] = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            document["traceback"] = _traceback(record.exc_info[1])
        return json.dumps(document, default=str)


class _Discretion(logging.Filter):
    """Names the worker, and writes errors as their public message."""

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
    for each in _chain(error):
        if isinstance(each, RustOptunaError):
            text = text.replace(str(each), each.public)
    return text


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
