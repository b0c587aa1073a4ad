"""Running a supervisor on this machine for studies in a database."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rust_optuna.errors import RustOptunaError, StorageError, StudyError
from rust_optuna.fleet import records
from rust_optuna.fleet.supervisor import POLL_SECONDS, Supervisor
from rust_optuna.fleet.workers import Workers
from rust_optuna.paths import Home
from rust_optuna.permissions import lack
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import Status, status
from rust_optuna.search.studies import Study, find_study, load_studies, studies_to_serve
from rust_optuna.signals import Signals
from rust_optuna.storage.database import Database
from rust_optuna.storage.outages import database_errors
from rust_optuna.storage.site import Site
from rust_optuna.storage.states import StudyState

log = logging.getLogger(__name__)

OBSERVE_SECONDS = 2.0
"""How long to wait between checks of the studies when nobody watches. Each check is a query, and there may be many
supervisors."""


def check_writable(home: Home) -> None:
    """Refuse a home that a supervisor may not write its record or its workers' logs to, before anything costly begins.

    Raises:
        RustOptunaError: a folder cannot be written to; the message says what helps.
    """
    for folder, contents in ((home.logs, "logs"), (home.workers, "records")):
        if (reason := lack(folder, write=True)) is not None:
            raise RustOptunaError(f"The workers' {contents} cannot be kept: {reason}")


@dataclass(frozen=True)
class Served:
    """How the service of a supervisor ended.

    Args:
        statuses: the final status of each study that it served.
        stopped_by: the signal that stopped it, if one did.
    """

    statuses: Sequence[Status]
    stopped_by: signal.Signals | None

    @property
    def holes(self) -> bool:
        """Whether a study has holes that nobody accepted: points whose attempts are used up."""
        return any(status.open_holes for status in self.statuses)


def start_workers(
    database: Database,
    site: Site,
    names: Sequence[str],
    workers: Workers,
    *,
    password_file: bool = True,
) -> Served:
    """Run workers of the named studies, or of all open ones, until these are done, or forever.

    Args:
        database: the database, opened for writing.
        site: the database, home and artifact store.
        names: the studies. If there are none, workers serve the studies that are open now, or, if they run forever,
            every study that is open at any time.
        workers: how the workers run.
        password_file: see `Site.environment`.

    Raises:
        RustOptunaError: logs cannot be written.
        StudyError: a named study does not exist, or its creation was never finished.
        CannotServeError: no worker can serve the studies here.
        RetiredError: every worker died again and again.
        StorageError: the database was unreachable for too long.
    """
    studies = studies_to_serve(database, names)
    serving = names if workers.forever else [study.name for study in studies if study.state == StudyState.OPEN]
    stopped_by = None
    if serving or workers.forever:
        check_writable(site.home)
        environment = site.environment(database, password_file=password_file)
        stopped_by = supervise(database, site.home, serving, workers, environment)
    remaining = (find_study(database, study.name) for study in studies)
    return Served([status(database, study) for study in remaining if study is not None], stopped_by)


def supervise(
    database: Database,
    home: Home,
    names: Sequence[str],
    workers: Workers,
    environment: Mapping[str, str],
    on_status: Callable[[Status], None] | None = None,
) -> signal.Signals | None:
    """Run worker processes until the studies are done, or forever; return the signal that stopped them, if one did.

    Args:
        database: the database, opened for writing.
        home: the root of relative paths.
        names: the studies; none for all studies, including later ones, which only workers that run forever can serve.
        workers: how the workers run.
        environment: the variables that lead workers to the database, from `Site.environment`.
        on_status: called twice a second with the status of each study.

    Raises:
        CannotServeError: no worker can serve the studies here.
        RetiredError: every worker died again and again.
        StorageError: the database was unreachable for too long.
    """
    name = workers.name or records.new_name()
    studies = StudiesInDatabase(database, names, forever=workers.forever, on_status=on_status)
    supervisor = Supervisor(
        Ledger(database),
        studies,
        workers,
        logs=lambda slot: home.log(name, slot),
        environment=environment,
        observe_seconds=OBSERVE_SECONDS if on_status is None else POLL_SECONDS,
    )
    record = records.registered(home, name, daemon=workers.daemon, studies=names, grace=workers.grace)
    # A last signal of an impatient user must not end this process while it brings Optuna's trials up to date.
    with Signals() as signals, record:
        try:
            return supervisor.run(signals)
        finally:
            studies.settle()


class StudiesInDatabase:
    """The studies in a database that a supervisor serves. It implements `supervisor.Studies`.

    Args:
        database: the database, opened for writing.
        names: the studies; none for all studies, including later ones, which only workers that run forever can serve.
        forever: whether the workers run forever, so that the studies never count as done.
        on_status: called with the status of each study at every check.
    """

    def __init__(
        self,
        database: Database,
        names: Sequence[str],
        *,
        forever: bool,
        on_status: Callable[[Status], None] | None = None,
    ) -> None:
        self._database = database
        self._ledger = Ledger(database)
        self._names = names
        self._forever = forever
        self._on_status = on_status

    def names(self) -> Sequence[str]:
        """Return the named studies that still exist, or all names if none of them does.

        If no name were left, a worker would serve all studies. With the names of deleted studies, a worker that runs
        forever waits for them, and any other worker ends because they do not exist.
        """
        remaining = [] if self._forever or not self._names else [study.name for study in self._existing()]
        return remaining or self._names

    def is_done(self) -> bool:
        """Return whether all studies are done, and report the status of each."""
        studies = self._existing()
        if self._on_status is not None:
            for study in studies:
                self._on_status(status(self._database, study, foreign=False))
        return not self._forever and all(study.state == StudyState.DONE for study in studies)

    def tend(self) -> None:
        """Requeue the points whose leases have ended."""
        for name, study in self._ledger.open_studies().items():
            if not self._names or name in self._names:
                self._ledger.expire(study.id)

    def settle(self) -> None:
        """Bring Optuna's studies up to date, as far as that is possible.

        Named studies are few, so all of them are settled. If none is named, studies that are done and that Optuna shows
        in full are left alone. If the database does not answer, this is only logged, so that it does not hide how the
        search ended.
        """
        try:
            untold = self._ledger.untold()
            for study in self._existing():
                if self._names or study.state == StudyState.OPEN or study.name in untold:
                    with suppress(StudyError):  # the study was deleted in the meantime
                        Mirror(self._database, study).settle()
        except (StorageError, *database_errors()) as error:
            log.warning("Optuna does not show the ends of all attempts yet; a worker tries again later: %s", error)

    def _existing(self) -> list[Study]:
        """Return the named studies that still exist, or all studies if none is named."""
        if not self._names:
            return load_studies(self._database)
        studies = [find_study(self._database, name) for name in self._names]
        return [study for study in studies if study is not None]
