"""A supervisor and the studies it serves, on this machine."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rust_optuna.errors import RustOptunaError, StorageError, StudyError
from rust_optuna.fleet import records
from rust_optuna.fleet.devices import Device
from rust_optuna.fleet.slot import Slot
from rust_optuna.fleet.supervisor import POLL_SECONDS, Supervisor
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


@dataclass(frozen=True)
class Workers:
    """How the workers of a supervisor run.

    Args:
        devices: one for each of them.
        grace: seconds in which a worker told to stop may finish its point.
        forever: serve whatever study is open, and never end by itself.
        log_format: ``text`` or ``json``.
        data_root: the folder of the films on this machine, None for where the film index says.
        objective: ``MODULE:FUNCTION`` of a stand-in.
        echo: where what the workers log is written too.
        daemon: the supervisor runs in the background.
        name: the supervisor's, None for a new one.
        make_slot: makes a slot; the default is on this machine.
        on_serving: called once, when a first worker is ready.
    """

    devices: Sequence[Device]
    grace: float = 0.0
    forever: bool = False
    log_format: str = "text"
    data_root: Path | None = None
    objective: str | None = None
    echo: TextIO | None = None
    daemon: bool = False
    name: str | None = None
    make_slot: Callable[[int, Device, Path], Slot] = Slot
    on_serving: Callable[[], None] | None = None

    def show(self, slot: Slot) -> None:
        """Write what a worker logged since the last call."""
        if self.echo is not None:
            slot.show(self.echo, f"[{slot.number}] " if self.log_format == "text" else "")

    def arguments(self, names: Sequence[str]) -> list[str]:
        """Return the words after ``worker run`` of a worker that serves these studies."""
        words = ["--grace", f"{self.grace:g}", "--log-format", self.log_format]
        words += ["--forever"] if self.forever else []
        words += ["--data-root", str(self.data_root)] if self.data_root else []
        words += ["--objective", self.objective] if self.objective else []
        return [*words, *(["--", *names] if names else [])]


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
    ledger = Ledger(database)
    name = workers.name or records.new_name()

    def there() -> list[Study]:
        found = [find_study(database, each) for each in names] if names else load_studies(database)
        return [study for study in found if study is not None]  # one that is not there was deleted meanwhile

    def wanted() -> Sequence[str]:
        # Without a name a worker would serve all studies. So where those named were all deleted, one that runs for ever
        # waits for them, and another ends because they are not there.
        left = [] if workers.forever or not names else [study.name for study in there()]
        return left or names

    def is_done() -> bool:
        studies = there()
        if on_status is not None:
            for study in studies:
                on_status(status(database, study, foreign=False))
        return not workers.forever and all(study.state == StudyState.DONE for study in studies)

    def tend() -> None:
        for each, study in ledger.open_studies().items():
            if not names or each in names:
                ledger.expire(study.id)

    supervisor = Supervisor(
        ledger,
        workers.devices,
        logs=lambda slot: home.log(name, slot),
        environment=environment,
        arguments=lambda: workers.arguments(wanted()),
        is_done=is_done,
        tend=tend,
        show=workers.show,
        grace=workers.grace,
        patience=None if workers.forever else Supervisor.patience,
        make_slot=workers.make_slot,
        on_serving=workers.on_serving,
        observe_seconds=OBSERVE_SECONDS if on_status is None else POLL_SECONDS,
    )
    record = records.registered(home, name, daemon=workers.daemon, studies=names, grace=workers.grace)
    # An impatient user's last signal must not end this while it puts Optuna's trials in order.
    with Signals() as signals, record:
        try:
            return supervisor.run(signals)
        finally:
            _settle(database, there, named=bool(names))


def _settle(database: Database, there: Callable[[], Sequence[Study]], *, named: bool) -> None:
    """Leave Optuna told of everything, as far as it can be: how the search itself ended is what matters now.

    Named studies are few, and all settled. Of all there are, those that are over and told of are left alone.
    """
    try:
        untold = Ledger(database).untold()
        for study in there():
            if named or study.state == StudyState.OPEN or study.name in untold:
                with suppress(StudyError):  # deleted meanwhile
                    Mirror(database, study).settle()
    except (StorageError, *database_errors()) as error:
        log.warning("Optuna could not be told of everything: %s. Any worker does it later", error)
