"""A supervisor and the studies it serves, on this machine."""

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
"""Between looks at the studies where nobody watches: each is a query, and there may be many supervisors."""


def check_writable(home: Home) -> None:
    """Refuse a home in which a supervisor may not keep its record or its workers' logs, before anything costly begins.

    Raises:
        RustOptunaError: it may not, with what helps.
    """
    for folder, what in ((home.logs, "logs"), (home.workers, "records")):
        if (words := lack(folder, write=True)) is not None:
            raise RustOptunaError(f"The workers' {what} cannot be kept: {words}")


@dataclass(frozen=True)
class Served:
    """What became of the studies that a supervisor served, and the signal that stopped it, if one did."""

    statuses: Sequence[Status]
    stopped_by: signal.Signals | None

    @property
    def holes(self) -> bool:
        """Whether a study has holes that nobody accepted: points whose attempts are used up."""
        return any(each.open_holes for each in self.statuses)


def start_workers(
    database: Database,
    site: Site,
    names: Sequence[str],
    workers: Workers,
    *,
    password_file: bool = True,
) -> Served:
    """Run workers of the named studies, or of all that are open, until these are done, or for ever.

    Args:
        database: opened for writing.
        site: where everything lies.
        names: the studies; none for those open now, or with workers that run for ever, whichever are open.
        workers: how they run.
        password_file: see `Site.environment`.

    Raises:
        RustOptunaError: logs cannot be written.
        StudyError: a named study does not exist, or its creation was never finished.
        RetiredError: every worker died, again and again.
        StorageError: the database was away for too long.
    """
    studies = studies_to_serve(database, names)
    serving = names if workers.forever else [study.name for study in studies if study.state == StudyState.OPEN]
    stopped_by = None
    if serving or workers.forever:
        check_writable(site.home)
        environment = site.environment(database, password_file=password_file)
        stopped_by = supervise(database, site.home, serving, workers, environment)
    left = (find_study(database, study.name) for study in studies)
    return Served([status(database, study) for study in left if study is not None], stopped_by)


def supervise(
    database: Database,
    home: Home,
    names: Sequence[str],
    workers: Workers,
    environment: Mapping[str, str],
    on_status: Callable[[Status], None] | None = None,
) -> signal.Signals | None:
    """Run worker processes until the studies are done, or for ever; return the signal that stopped it, if one did.

    Args:
        database: opened for writing.
        home: root of relative paths.
        names: the studies; none for all, those made later too, which only workers that run for ever can serve.
        workers: how they run.
        environment: from `Site.environment`.
        on_status: called with each study twice a second.

    Raises:
        RetiredError: every worker died, again and again.
        StorageError: the database was away for too long.
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
    # An impatient user's last signal must not end this while it puts Optuna's trials in order.
    with Signals() as signals, record:
        try:
            return supervisor.run(signals)
        finally:
            studies.settle()


class StudiesInDatabase:
    """The studies that a supervisor was told to serve, as a database has them: `supervisor.Studies`.

    Args:
        database: opened for writing.
        given: names; none for all studies, those made later too, which only workers that run for ever can serve.
        forever: they are never done.
        on_status: called with each study at every look.
    """

    def __init__(
        self,
        database: Database,
        given: Sequence[str],
        *,
        forever: bool,
        on_status: Callable[[Status], None] | None = None,
    ) -> None:
        self._database = database
        self._ledger = Ledger(database)
        self._given = given
        self._forever = forever
        self._on_status = on_status

    def names(self) -> Sequence[str]:
        """Return the given studies that are still there.

        Without a name a worker would serve all studies. So where those given were all deleted, they are returned: a
        worker that runs for ever waits for them, and another ends because they are not there.
        """
        left = [] if self._forever or not self._given else [study.name for study in self._there()]
        return left or self._given

    def is_done(self) -> bool:
        """Say whether all of them are done, and show how far each is."""
        studies = self._there()
        if self._on_status is not None:
            for study in studies:
                self._on_status(status(self._database, study, foreign=False))
        return not self._forever and all(study.state == StudyState.DONE for study in studies)

    def tend(self) -> None:
        """Give back the points whose leases have ended."""
        for name, study in self._ledger.open_studies().items():
            if not self._given or name in self._given:
                self._ledger.expire(study.id)

    def settle(self) -> None:
        """Leave Optuna told of everything, as far as it can be: how the search itself ended is what matters now.

        Studies that were named are few, and all settled. Of all there are, those that are over and told of are left
        alone. A database that does not answer is logged, not raised.
        """
        try:
            untold = self._ledger.untold()
            for study in self._there():
                if self._given or study.state == StudyState.OPEN or study.name in untold:
                    with suppress(StudyError):  # deleted meanwhile
                        Mirror(self._database, study).settle()
        except (StorageError, *database_errors()) as error:
            log.warning("Optuna could not be told of everything: %s. Any worker does it later", error)

    def _there(self) -> list[Study]:
        """Return them but for those that were deleted meanwhile."""
        if not self._given:
            return load_studies(self._database)
        found = [find_study(self._database, name) for name in self._given]
        return [study for study in found if study is not None]
