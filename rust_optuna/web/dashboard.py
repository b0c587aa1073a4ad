"""optuna-dashboard over the same storage and artifacts, for reading only.

optuna-dashboard has no authentication and no read-only mode: whoever reaches it can delete studies and complete waiting
trials. So requests that could change anything never reach it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from threading import Lock
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from rust_optuna.errors import StudyError
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import load_studies
from rust_optuna.storage.artifacts import ArtifactStore
from rust_optuna.storage.database import Database
from rust_optuna.storage.outages import denies

log = logging.getLogger(__name__)

NOTES_SECONDS = 30.0
"""How old the notes of the studies may be."""

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def application(database: Database, store: ArtifactStore) -> Application:
    """Return optuna-dashboard's WSGI application behind the filter."""
    import optuna_dashboard

    shown = optuna_dashboard.wsgi(database.storage, artifact_store=store)
    return reading_only(_with_fresh_notes(shown, database))


def _with_fresh_notes(inner: Application, database: Database) -> Application:
    """Bring the studies' notes up to date as the page asks, at most every `NOTES_SECONDS`.

    Somebody else's trial may have come after the last worker ended; nobody but the reader is there then to look.
    """
    lock = Lock()
    looked = [-math.inf]
    may_write = [not database.read_only]

    def refresh() -> None:
        for study in load_studies(database):
            try:
                with suppress(StudyError, KeyError):  # deleted meanwhile, or not created to the end
                    Mirror(database, study).write_note()
            # Whatever it is, the page is shown: a note is the least of what a reader comes for.
            except Exception as error:
                if denies(error) or (error.__cause__ and denies(error.__cause__)):
                    may_write[0] = False  # a server's user who only reads
                    return
                log.warning("the note of %s could not be brought up to date", study.name, exc_info=True)

    def refreshed(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if lock.acquire(blocking=False):
            try:
                if may_write[0] and time.monotonic() - looked[0] >= NOTES_SECONDS:
                    # First, so that a failure is not repeated by every request.
                    looked[0] = time.monotonic()
                    refresh()
            except Exception:
                log.warning("the studies' notes could not be brought up to date", exc_info=True)
            finally:
                lock.release()
        return inner(environment, start_response)

    return refreshed


def reading_only(inner: Application) -> Application:
    """Let only GET and HEAD through to ``inner``; everything else is answered 405."""

    def filtered(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environment.get("REQUEST_METHOD") in ("GET", "HEAD"):
            return inner(environment, start_response)
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Allow", "GET, HEAD")]
        start_response("405 Method Not Allowed", headers)
        return [b"This dashboard is for reading only.\n"]

    return filtered


class _QuietHandler(WSGIRequestHandler):
    """Logs no line per request: the page asks every few seconds."""

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the base class's name)
        """Say nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread of its own.

    A connection on which nothing is asked holds up no other. And the main thread only waits for requests: wsgiref takes
    an interrupt for an error of the request that it comes in, and goes on.
    """

    daemon_threads = True


def serve(database: Database, store: ArtifactStore, port: int, host: str) -> WSGIServer:
    """Return a server on one address of this machine; ``serve_forever`` runs it. Port 0 picks a free one."""
    return make_server(host, port, application(database, store), _Server, _QuietHandler)
