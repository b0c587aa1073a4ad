"""Creating, extending and deleting studies. Each is resumable: killed anywhere, the same call finishes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import sqlalchemy as sa
from sqlalchemy.engine import URL

from rust_optuna.config import StudyConfiguration
from rust_optuna.errors import NoDatabaseError, StudyError
from rust_optuna.paths import Home
from rust_optuna.search import design
from rust_optuna.search.ledger import add_points
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.preparation import PreparedStudy, compare, prepare
from rust_optuna.search.studies import Study, find_study, load_parameters, load_studies, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import ArtifactStore, adopt, artifacts_of, open_store, refuse_owned, remove
from rust_optuna.storage.database import Database, open_database
from rust_optuna.storage.states import PointState, StudyState
from rust_optuna.study_file import to_document

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Creation:
    """What ``create_study`` did: the study, and whether it was there already."""

    study: Study
    resumed: bool


def refuse_before_database(
    url: URL,
    configuration: StudyConfiguration,
    home: Home,
    artifacts: str,
    progress: Progress | None = None,
    data_root: Path | None = None,
) -> None:
    """Refuse what the first study of a storage would be refused for, so that no empty database is left behind.

    Where a database exists, ``create_study`` says the same, and nothing is looked at here.

    Args:
        url: where the study will be.
        configuration: the study file.
        home: where relative paths begin.
        artifacts: the artifact store.
        progress: called while films are hashed.
        data_root: the folder in which films are looked for that are not where the manifest says; None for nowhere.

    Raises:
        RustOptunaError: any that ``create_study`` raises.
    """
    try:
        open_database(url, read_only=True).close()
    except NoDatabaseError:
        prepare(configuration, home, None, progress=progress, data_root=data_root).weights()
        refuse_owned(open_store(artifacts, home), url.render_as_string())


def create_study(
    database: Database,
    configuration: StudyConfiguration,
    home: Home,
    progress: Progress | None = None,
    artifacts: str | None = None,
    data_root: Path | None = None,
) -> Creation:
    """Create a study with its films, folds and whole design, or find the one that the same file created.

    The first study of a storage makes the artifact store this storage's.

    Args:
        database: where; its tables exist.
        configuration: the study file.
        home: where relative paths begin.
        progress: called while films are hashed.
        artifacts: the artifact store; None for where the database says.
        data_root: where films are looked for that are not where the manifest says; None for nowhere.

    Raises:
        ManifestError: the manifest breaks its rules, is not split yet, or ``data check`` finds problems in it.
        ConfigurationError: a file that it names is not there, there are too few patients for its folds, or a
            hyperparameter has no value.
        WeightsError: a weights file that it inherits is not there, or ImageNet weights could not be had.
        StudyError: ``from_best_of`` names a study that is not there, not done, or has holes that nobody accepted.
        FingerprintError: a study of this name exists with other contents.
        StorageError: the artifact store is another storage's, or does not answer.
    """
    if not load_studies(database):
        adopt(open_store(artifacts or database.artifacts(), home), database)
    prepared = prepare(configuration, home, database, progress=progress, data_root=data_root)
    # Before the lock, for a file is hashed, or downloaded; and only where all else agrees.
    if prepared.known is not None:
        compare(database, prepared, prepared.known)
    else:
        prepared.weights()
    with database.exclusive(_lock(configuration.name)):
        known = find_study(database, configuration.name)
        if known is not None:
            compare(database, prepared, known)
        elif prepared.known is not None:
            raise StudyError(f"{configuration.name} was deleted meanwhile: create it again")
        else:
            _refuse_twin(database, configuration.name)
            _insert(database, prepared)
        study = _open(database, configuration.name)
    return Creation(study, resumed=known is not None and known.state != StudyState.DRAWING)


def extend_study(database: Database, name: str, n_trials: int) -> Study:
    """Give a random study more points: the next ones of the same stream.

    Raises:
        StudyError: no such study, a grid, or no more points than it has.
    """
    with database.exclusive(_lock(name)):
        study = load_study(database, name)
        if study.configuration.sampler != "random":
            raise StudyError(f"{name} is a grid, which runs each of its cells once: it cannot be extended")
        there = load_parameters(database, study.id)
        if n_trials < len(there):
            raise StudyError(f"{name} has {len(there)} points already: a study is never shortened")
        longer = study.configuration.with_trials(n_trials)
        drawn = design.draw(longer)
        if drawn[: len(there)] != there:
            raise StudyError(
                f"{name} cannot be extended here: its sampler draws another stream with these versions of Optuna and "
                "NumPy than when it was created"
            )
        new = drawn[len(there) :]

        def extend(connection: sa.Connection) -> None:
            count = sa.select(sa.func.count()).where(tables.point.c.study_id == study.id)
            if connection.execute(count).scalar() != len(there):
                return  # it was committed, and the answer was lost
            values = {"configuration": json.dumps(to_document(longer)), "state": StudyState.DRAWING}
            connection.execute(tables.study.update().where(tables.study.c.id == study.id).values(**values))
            add_points(connection, study.id, new, first=len(there))

        # Nothing to add means that an earlier call was killed before it opened the study again, or a no-op.
        if new:
            database.transact(extend)
        return _open(database, name)


def delete_study(database: Database, name: str, store: ArtifactStore, *, force: bool = False) -> int:
    """Delete a study with its trials and artifacts; return the number of artifacts. Killed anywhere, call it again.

    Raises:
        StudyError: no such study, or workers are running points of it and ``force`` is not set.
    """
    with database.exclusive(_lock(name)):
        study = load_study(database, name)
        if not force:
            refuse_running(database, study)
        # Files first, names last: what is left of an interrupted deletion can still be found by the study's name.
        artifacts = artifacts_of(database.storage, name)
        remove(store, artifacts)
        with suppress(KeyError):
            optuna.delete_study(study_name=name, storage=database.storage)
        database.transact(lambda c: _delete_rows(c, study.id))
    return len(artifacts)


def refuse_running(database: Database, study: Study) -> None:
    """Refuse to delete a study of which workers run points.

    Raises:
        StudyError: they do.
    """
    point = tables.point
    running = sa.select(sa.func.count()).where(point.c.study_id == study.id, point.c.state == PointState.RUNNING)
    if busy := database.transact(lambda c: c.execute(running).scalar_one()):
        points = "1 running point" if busy == 1 else f"{busy} running points"
        raise StudyError(f"{study.name} has {points}: stop its workers first, or use --force")


def _lock(name: str) -> str:
    """Return the lock under which a study is made or changed: one for all ways to write its name."""
    return f"study:{name.lower()}"


def _refuse_twin(database: Database, name: str) -> None:
    for study in load_studies(database):
        if study.name.lower() == name.lower():
            raise StudyError(f"{name} differs from the study {study.name} in capitals only: give it another name")


def _delete_rows(connection: sa.Connection, study_id: int) -> None:
    points = sa.select(tables.point.c.id).where(tables.point.c.study_id == study_id)
    connection.execute(tables.attempt.delete().where(tables.attempt.c.point_id.in_(points)))
    for table in (tables.point, tables.film, tables.features):
        connection.execute(table.delete().where(table.c.study_id == study_id))
    connection.execute(tables.study.delete().where(tables.study.c.id == study_id))


def _insert(database: Database, prepared: PreparedStudy) -> None:
    """Enter the study, its films and all its points in one transaction."""
    configuration, development = prepared.configuration, prepared.development
    source, fingerprint, notes = prepared.inheritance, prepared.fingerprint(), prepared.notes()

    def enter(connection: sa.Connection) -> None:
        mine = sa.select(tables.study.c.id).where(tables.study.c.name == configuration.name)
        if connection.execute(mine).first() is not None:
            return  # it was committed, and the answer was lost: the caller holds the lock, so it is ours
        row = tables.study.insert().values(
            name=configuration.name,
            state=StudyState.DRAWING,
            configuration=json.dumps(to_document(configuration)),
            fingerprint=json.dumps(fingerprint),
            source=None if source is None else json.dumps(source.as_json()),
            notes=json.dumps(notes),
            lease_seconds=configuration.lease_seconds,
            created_at=tables.database_now(),
        )
        study_id = connection.execute(row).inserted_primary_key[0]  # type: ignore[index]
        labels = ("".join(map(str, label)) for label in development.labels.tolist())
        columns = zip(
            development.content,
            development.patients,
            development.views,
            labels,
            development.folds.tolist(),
            strict=True,
        )
        names = ("content", "patient", "view", "label", "fold")
        films = [{"study_id": study_id, **dict(zip(names, film, strict=True))} for film in columns]
        connection.execute(tables.film.insert(), films)
        add_points(connection, study_id, prepared.points, first=0)

    database.transact(enter)


def _open(database: Database, name: str) -> Study:
    """Show every point in Optuna, then let workers at the study."""
    study = load_study(database, name)
    mirror = Mirror(database, study, create=True)
    mirror.describe_study()
    mirror.enqueue()
    if study.state == StudyState.DRAWING:
        opened = tables.study.update().where(tables.study.c.id == study.id, tables.study.c.state == StudyState.DRAWING)
        database.transact(lambda connection: connection.execute(opened.values(state=StudyState.OPEN)))
        study = replace(study, state=StudyState.OPEN)
    return study
