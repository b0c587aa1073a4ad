"""A read-only optuna-dashboard of the storage and its artifacts.

optuna-dashboard has no authentication and no read-only mode: anybody who reaches it can delete studies and complete
waiting trials. So requests that could change anything never reach it.
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
from rust_optuna.storage.outages import denies_statement

log = logging.getLogger(__name__)

NOTES_SECONDS = 30.0
"""How old the notes of the studies may be before they are updated."""

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def application(database: Database, store: ArtifactStore) -> Application:
    """Return optuna-dashboard's WSGI application, behind the filter that lets only reading requests through."""
    import optuna_dashboard

    dashboard = optuna_dashboard.wsgi(database.storage, artifact_store=store)
    return reading_only(_with_fresh_notes(dashboard, database))


def _with_fresh_notes(inner: Application, database: Database) -> Application:
    """Update the studies' notes when the page asks for something, at most every `NOTES_SECONDS`.

    Somebody else may add a trial after the last worker has ended, and then only the dashboard can update the note.
    """
    lock = Lock()
    refreshed_at = [-math.inf]
    may_write = [not database.read_only]

    def refresh() -> None:
        for study in load_studies(database):
            try:
                with suppress(StudyError, KeyError):  # deleted meanwhile, or its creation was never finished
                    Mirror(database, study).write_note()
            # The page must be shown whatever fails here.
            except Exception as error:
                if denies_statement(error) or (error.__cause__ and denies_statement(error.__cause__)):
                    may_write[0] = False  # the server lets this user only read
                    return
                log.warning("The note of %s was not updated; the page shows the old one", study.name, exc_info=True)

    def refreshed(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if lock.acquire(blocking=False):
            try:
                if may_write[0] and time.monotonic() - refreshed_at[0] >= NOTES_SECONDS:
                    # The time is set first, so that a failure does not recur at every request.
                    refreshed_at[0] = time.monotonic()
                    refresh()
            except Exception:
                log.warning("The studies' notes were not updated; the pages show the old ones", exc_info=True)
            finally:
                lock.release()
        return inner(environment, start_response)

    return refreshed


def reading_only(inner: Application) -> Application:
    """Return an application that passes GET and HEAD on to ``inner`` and answers every other method with 405."""

    def filtered(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environment.get("REQUEST_METHOD") in ("GET", "HEAD"):
            return inner(environment, start_response)
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Allow", "GET, HEAD")]
        start_response("405 Method Not Allowed", headers)
        return [b"This dashboard is read-only.\n"]

    return filtered


class _QuietHandler(WSGIRequestHandler):
    """A request handler without a log line per request, because the page asks every few seconds."""

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the base class's name)
        """Log nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    """A server that answers each request in a separate thread.

    So an idle connection holds up no other, and the main thread only waits for requests. That matters for Ctrl-C:
    wsgiref would take an interrupt during a request for the request's error, and go on.
    """

    daemon_threads = True


def serve(database: Database, store: ArtifactStore, port: int, host: str) -> WSGIServer:
    """Return a server on an address of this machine, to be run by ``serve_forever``. Port 0 picks a free port."""
    return make_server(host, port, application(database, store), _Server, _QuietHandler)
