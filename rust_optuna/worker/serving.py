"""The studies that a worker is ready for: what computes each one's values, and what shows them in Optuna."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from rust_optuna.errors import FingerprintError, RustOptunaError, StorageError, StudyError
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import Study, find_study, load_parameters, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import ArtifactStore, check_owner, check_writable
from rust_optuna.storage.database import Database
from rust_optuna.storage.tables import StudyKey
from rust_optuna.worker.objective import Objective

log = logging.getLogger(__name__)

REFUSED_SECONDS = 300.0
"""After which a study that could not be served here is tried again: its films may be there by now."""


@dataclass(frozen=True)
class Served:
    """A study that a worker is ready for."""

    study: Study
    mirror: Mirror
    objective: Objective


class Serving:
    """The studies that one worker is ready for, each by its key: a study made anew is another one.

    Args:
        database: theirs.
        store: takes their artifacts.
        make: makes the objective of a study.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        make: Callable[[Study], Objective],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._store = store
        self._make = make
        self._clock = clock
        self._served: dict[StudyKey, Served] = {}
        self._refused: dict[StudyKey, float] = {}

    def get(self, key: StudyKey) -> Served | None:
        """Return a study that is served, else None."""
        return self._served.get(key)

    def add(self, study: Study) -> None:
        """Make ready for a study: check that this worker computes its numbers.

        Raises:
            FingerprintError: it would not.
            StudyError: the study was deleted meanwhile.
            StorageError: the artifact store is not this storage's, or may not be written to.
            RustOptunaError: films or weights are missing here.
        """
        check_owner(self._store, self._database)
        check_writable(self._store)
        objective = self._make(study)
        runtime = objective.runtime()
        # Looked at first, for preparing fills a cache that others share; noted last, for it may find films missing.
        check_runtime(study, runtime)
        objective.prepare(load_parameters(self._database, study.id))
        pin_runtime(self._database, study, runtime)
        objective.pin()
        mirror = Mirror(self._database, study)
        mirror.describe(runtime)
        self._served[study.key] = Served(study, mirror, objective)

    def try_to_add(self, name: str, key: StudyKey) -> bool:
        """Make ready for a study unless that is done; one that cannot be served here must not stop the others.

        Returns:
            Whether it is served.

        Raises:
            StorageError: no database, or another's artifact store: that is no study's fault.
        """
        if key in self._served:
            return True
        if self._clock() < self._refused.get(key, 0.0):
            return False
        try:
            study = load_study(self._database, name)
            if study.key != key:
                return False  # deleted and made anew since it was looked at: the next look finds the new one
            self.add(study)
        except StorageError:
            raise
        except RustOptunaError as error:
            self._refused[key] = self._clock() + REFUSED_SECONDS
            log.error("%s is not served here: %s", name, error.public)
            return False
        return True

    def forget_all_but(self, keys: Collection[StudyKey]) -> None:
        """Forget all other studies: what a study needs is memory that others can use."""
        for key in [key for key in self._served if key not in keys]:
            self._settle(self._served.pop(key))
        self._refused = {key: until for key, until in self._refused.items() if key in keys}

    def settle(self) -> None:
        """Leave every study with Optuna told of everything."""
        for served in self._served.values():
            self._settle(served)

    def _settle(self, served: Served) -> None:
        # Optuna's rows are given to the next study, too: what is in them must not be taken for the deleted one's.
        there = find_study(self._database, served.study.name)
        if there is not None and there.key == served.study.key:
            served.mirror.settle()


def check_runtime(study: Study, runtime: Mapping[str, Any]) -> None:
    """Compare this worker with the study's first one, as far as there has been one.

    Raises:
        FingerprintError: they differ, and in what; or real scores were to build on a stand-in's.
    """
    inherited = study.source.objective if study.source else runtime["objective"]
    if inherited != runtime["objective"]:
        raise FingerprintError(
            f"{study.name} takes its fixed parameters from {inherited}, this worker runs {runtime['objective']}"
        )
    pinned = study.runtime
    if pinned is None:
        return
    differing = [key for key in sorted({*pinned, *runtime}) if pinned.get(key) != runtime.get(key)]
    versions = [(pinned.get(key, 0), runtime.get(key, 0)) for key in ("numerics", "preprocessing") if key in differing]
    if versions and pinned["objective"] == runtime["objective"]:
        which = "an earlier" if all(there < here for there, here in versions) else "another"
        raise FingerprintError(
            f"{study.name} was begun by {which} version of rust_optuna, which computes other numbers than this one: "
            "finish it with that version, or give its file another name and search it anew. What it has found stays "
            f"readable: rust-optuna best {study.name}, rust-optuna study export {study.name} DIRECTORY"
        )
    if differing:
        what = "; ".join(f"{key} is {runtime.get(key)} here and {pinned.get(key)} there" for key in differing)
        raise FingerprintError(f"This worker would not compute the numbers of {study.name}: {what}")


def pin_runtime(database: Database, study: Study, runtime: Mapping[str, Any]) -> None:
    """Compare this worker with the study's first one, or be it.

    Raises:
        FingerprintError: as `check_runtime`.
        StudyError: the study was deleted meanwhile.
    """
    table = tables.study

    def pin(connection: sa.Connection) -> str | None:
        first = table.update().where(table.c.id == study.id, table.c.runtime.is_(None))
        connection.execute(first.values(runtime=json.dumps(runtime)))
        pinned: str | None = connection.execute(sa.select(table.c.runtime).where(table.c.id == study.id)).scalar()
        return pinned

    check_runtime(study, runtime)
    text = database.transact(pin)
    if text is None:
        raise StudyError(f"{study.name} was deleted")
    check_runtime(replace(study, runtime=json.loads(text)), runtime)
