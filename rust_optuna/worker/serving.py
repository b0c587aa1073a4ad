"""The studies that a worker is ready for, each with its objective and its mirror in Optuna."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from rust_optuna.errors import FingerprintError, RustOptunaError, StorageError, StudyError
from rust_optuna.search.adaptive import refuse_missing_sampler
from rust_optuna.search.drawing import Drawing
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.pruning import Pruning
from rust_optuna.search.studies import Study, find_study, load_study, parameters_to_prepare
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import ArtifactStore, check_owner, check_writable
from rust_optuna.storage.database import Database
from rust_optuna.storage.tables import StudyKey
from rust_optuna.worker.objective import Objective

log = logging.getLogger(__name__)

REFUSED_SECONDS = 300.0
"""How long a worker waits before it tries again to serve a refused study, whose films may have arrived by then."""


@dataclass(frozen=True)
class Served:
    """A study that a worker is ready for.

    Args:
        study: the study.
        mirror: its mirror in Optuna.
        objective: what computes its values.
        drawing: what draws its points; None if they were drawn at its creation.
        pruning: what ends its trials early; None if nothing does.
    """

    study: Study
    mirror: Mirror
    objective: Objective
    drawing: Drawing | None = None
    pruning: Pruning | None = None


class Serving:
    """The studies that one worker is ready for, by their keys: a study that was deleted and created again is another.

    Args:
        database: the studies' database.
        store: the artifact store for their scores.
        make: a function that makes the objective of a study.
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
        """Return the study with this key, or None if the worker is not ready for it."""
        return self._served.get(key)

    def add(self, study: Study) -> None:
        """Make ready for a study, after checking that this worker would compute its numbers.

        Raises:
            FingerprintError: this worker would compute other numbers.
            StudyError: the study was deleted meanwhile.
            StorageError: the artifact store is not this storage's, or this process may not write to it.
            MissingExtraError: the study's sampler needs a package that is not installed.
            RustOptunaError: films or weights are missing on this machine.
        """
        check_owner(self._store, self._database)
        check_writable(self._store)
        refuse_missing_sampler(study.configuration)
        objective = self._make(study)
        runtime = objective.runtime()
        # The check comes before ``prepare``, which fills a shared cache; the pins come after it, because it may fail.
        check_runtime(study, runtime)
        objective.prepare(parameters_to_prepare(self._database, study))
        pin_runtime(self._database, study, runtime)
        objective.pin()
        mirror = Mirror(self._database, study)
        mirror.describe(runtime)
        pruner = study.configuration.pruner
        self._served[study.key] = Served(
            study,
            mirror,
            objective,
            drawing=Drawing(mirror) if study.configuration.adaptive else None,
            pruning=Pruning(self._database, study, pruner) if pruner else None,
        )

    def try_to_add(self, name: str, key: StudyKey) -> bool:
        """Make ready for a study unless the worker already is. A study that cannot be served does not stop the others.

        Returns:
            Whether the worker is ready for the study.

        Raises:
            StorageError: the database is away or the artifact store is another storage's, which no study causes.
        """
        if key in self._served:
            return True
        if self._clock() < self._refused.get(key, 0.0):
            return False
        try:
            study = load_study(self._database, name)
            if study.key != key:
                return False  # deleted and created again meanwhile; the next look finds the new study
            self.add(study)
        except StorageError:
            raise
        except RustOptunaError as error:
            self._refused[key] = self._clock() + REFUSED_SECONDS
            minutes = REFUSED_SECONDS / 60
            log.error("This worker cannot serve %s, and tries again in %.0f minutes: %s", name, minutes, error.public)
            return False
        return True

    def forget_all_but(self, keys: Collection[StudyKey]) -> None:
        """Forget all other studies, so that the memory they need is free."""
        for key in [key for key in self._served if key not in keys]:
            self._settle(self._served.pop(key))
        self._refused = {key: until for key, until in self._refused.items() if key in keys}

    def settle(self) -> None:
        """Show in Optuna everything that the ledger holds about the served studies."""
        for served in self._served.values():
            self._settle(served)

    def _settle(self, served: Served) -> None:
        # Optuna's rows may belong to a new study by now, which must not be taken for the deleted one.
        study = find_study(self._database, served.study.name)
        if study is not None and study.key == served.study.key:
            served.mirror.settle()


def check_runtime(study: Study, runtime: Mapping[str, Any]) -> None:
    """Compare this worker's runtime with that of the study's first worker, if there has been one.

    Raises:
        FingerprintError: the runtimes differ (the message names the differences), or real scores would build on a
            stand-in's.
    """
    inherited = study.source.objective if study.source else runtime["objective"]
    if inherited != runtime["objective"]:
        raise FingerprintError(
            f"{study.name} takes its fixed parameters from a study whose objective is {inherited}, but this worker "
            f"runs {runtime['objective']}: use the same --objective, or none, for both"
        )
    pinned = study.runtime
    if pinned is None:
        return
    differing = [key for key in sorted({*pinned, *runtime}) if pinned.get(key) != runtime.get(key)]
    versions = [(pinned.get(key, 0), runtime.get(key, 0)) for key in ("numerics", "preprocessing") if key in differing]
    if versions and pinned["objective"] == runtime["objective"]:
        which = "an earlier" if all(first < own for first, own in versions) else "another"
        raise FingerprintError(
            f"{study.name} was begun by {which} version of rust_optuna, which computes other numbers than this one: "
            "finish it with that version, or give its file another name and search again. Its results so far stay "
            f"readable: rust-optuna best {study.name}, rust-optuna study export {study.name} DIRECTORY"
        )
    if differing:
        differences = "; ".join(
            f"{key} is {runtime.get(key)} here, but {pinned.get(key)} for its first worker" for key in differing
        )
        raise FingerprintError(f"This worker would not compute the numbers of {study.name}: {differences}")


def pin_runtime(database: Database, study: Study, runtime: Mapping[str, Any]) -> None:
    """Compare this worker's runtime with that of the study's first worker; store it if this worker is the first.

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
