"""Creating, extending and deleting studies. Each is resumable: if it is killed anywhere, the same call finishes it."""

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
from rust_optuna.search.manifests import remember_manifest
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.preparation import PreparedStudy, compare, prepare
from rust_optuna.search.studies import Study, count_points, find_study, load_parameters, load_studies, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import ArtifactStore, adopt, artifacts_of, open_store, refuse_owned, remove
from rust_optuna.storage.database import Database, open_database
from rust_optuna.storage.states import PointState, StudyState
from rust_optuna.study_file import to_document

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Creation:
    """What ``create_study`` did.

    Args:
        study: the study.
        resumed: whether the study existed already.
    """

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
    """Check the first study of a storage before its database is made, so that a refusal leaves no empty database.

    If the database exists, this checks nothing: ``create_study`` refuses the same things.

    Args:
        url: the URL of the database.
        configuration: the study file.
        home: the folder in which relative paths begin.
        artifacts: the artifact store.
        progress: called while films are hashed.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.

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
    """Create a study with its films, folds and all its points, or find the study that the same file created.

    The points of an adaptive design are empty slots at first.

    The first study of a storage claims the artifact store for that storage.

    Args:
        database: the database to create it in, whose tables exist.
        configuration: the study file.
        home: the folder in which relative paths begin.
        progress: called while films are hashed.
        artifacts: the artifact store; None for the one that the database names.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.

    Raises:
        ManifestError: the manifest breaks its rules, is not split yet, or ``data check`` finds problems in it.
        ConfigurationError: a file that the study file names does not exist, there are fewer patients than folds, or a
            hyperparameter has no value.
        MissingExtraError: the study's sampler needs a package that is not installed.
        WeightsError: an inherited weights file does not exist, or the ImageNet weights cannot be had.
        StudyError: ``from_best_of`` names a study that does not exist, is not done, or has holes that nobody accepted.
        FingerprintError: a study of this name exists with other contents.
        StorageError: the artifact store belongs to another storage, or does not answer.
    """
    if not load_studies(database):
        adopt(open_store(artifacts or database.artifacts(), home), database)
    prepared = prepare(configuration, home, database, progress=progress, data_root=data_root)
    # This comes before the lock because weights are hashed or downloaded, and last because that takes long.
    if prepared.known is not None:
        compare(database, prepared, prepared.known)
    else:
        prepared.weights()
    with database.exclusive(_lock(configuration.name)):
        known = find_study(database, configuration.name)
        if known is not None:
            compare(database, prepared, known)
        elif prepared.known is not None:
            raise StudyError(f"{configuration.name} was deleted in the meantime: create it again")
        else:
            _refuse_twin(database, configuration.name)
            _insert(database, prepared)
        study = _open(database, configuration.name)
    remember_manifest(home, study.name, home.resolve(str(configuration.manifest)))
    return Creation(study, resumed=known is not None and known.state != StudyState.DRAWING)


def extend_study(database: Database, name: str, n_trials: int) -> Study:
    """Extend a random or adaptive study to ``n_trials`` points.

    New points of a random study continue its sampler's stream; those of an adaptive one are empty slots.

    Raises:
        StudyError: there is no such study, it is a grid, it has more points already, or this machine's versions of
            Optuna and NumPy draw another stream.
    """
    with database.exclusive(_lock(name)):
        study = load_study(database, name)
        if study.configuration.sampler == "grid":
            raise StudyError(f"{name} cannot be extended: it is a grid, which runs each of its cells once")
        existing = count_points(database, study)
        if n_trials < existing:
            raise StudyError(f"{name} has {existing} points already, and a study is never shortened")
        longer = study.configuration.with_trials(n_trials)
        slots = design.slots(longer)
        if not longer.adaptive and slots[:existing] != load_parameters(database, study.id):
            raise StudyError(
                f"{name} cannot be extended on this machine: with its versions of Optuna and NumPy, the sampler no "
                "longer draws the points that the study began with"
            )
        new = slots[existing:]

        def extend(connection: sa.Connection) -> None:
            count = sa.select(sa.func.count()).where(tables.point.c.study_id == study.id)
            if connection.execute(count).scalar() != existing:
                return  # an earlier try was committed, but its answer was lost
            values = {"configuration": json.dumps(to_document(longer)), "state": StudyState.DRAWING}
            connection.execute(tables.study.update().where(tables.study.c.id == study.id).values(**values))
            add_points(connection, study.id, new, first=existing)

        # If nothing is new, an earlier call may have been killed before it opened the study again.
        if new:
            database.transact(extend)
        return _open(database, name)


def delete_study(database: Database, name: str, store: ArtifactStore, *, force: bool = False) -> int:
    """Delete a study with its trials and artifacts, and return the number of artifacts.

    If it is killed anywhere, calling it again finishes the deletion.

    Raises:
        StudyError: there is no such study, or workers are running points of it and ``force`` is not set.
    """
    with database.exclusive(_lock(name)):
        study = load_study(database, name)
        if not force:
            refuse_running(database, study)
        # Files go first and rows last, so that an interrupted deletion can still be found by the study's name.
        artifacts = artifacts_of(database.storage, name)
        remove(store, artifacts)
        with suppress(KeyError):
            optuna.delete_study(study_name=name, storage=database.storage)
        database.transact(lambda c: _delete_rows(c, study.id))
    return len(artifacts)


def refuse_running(database: Database, study: Study) -> None:
    """Refuse to delete a study while workers run its points.

    Raises:
        StudyError: a point of the study is running.
    """
    point = tables.point
    running = sa.select(sa.func.count()).where(point.c.study_id == study.id, point.c.state == PointState.RUNNING)
    if busy := database.transact(lambda c: c.execute(running).scalar_one()):
        points = "1 running point" if busy == 1 else f"{busy} running points"
        raise StudyError(f"{study.name} has {points}: stop its workers first, or use --force")


def _lock(name: str) -> str:
    """Return the name of the lock under which a study is made or changed; the case of its name does not matter."""
    return f"study:{name.lower()}"


def _refuse_twin(database: Database, name: str) -> None:
    for study in load_studies(database):
        if study.name.lower() == name.lower():
            raise StudyError(f"{name} differs from the study {study.name} only in capital letters: choose another name")


def _delete_rows(connection: sa.Connection, study_id: int) -> None:
    points = sa.select(tables.point.c.id).where(tables.point.c.study_id == study_id)
    connection.execute(tables.attempt.delete().where(tables.attempt.c.point_id.in_(points)))
    for table in (tables.point, tables.film, tables.features):
        connection.execute(table.delete().where(table.c.study_id == study_id))
    connection.execute(tables.study.delete().where(tables.study.c.id == study_id))


def _insert(database: Database, prepared: PreparedStudy) -> None:
    """Insert the study, its films and all its points in one transaction."""
    configuration, development = prepared.configuration, prepared.development
    source, fingerprint, notes = prepared.inheritance, prepared.fingerprint(), prepared.notes()
    slots = design.slots(configuration) if configuration.adaptive else prepared.points

    def insert(connection: sa.Connection) -> None:
        inserted = sa.select(tables.study.c.id).where(tables.study.c.name == configuration.name)
        if connection.execute(inserted).first() is not None:
            return  # an earlier try was committed, but its answer was lost; the lock rules out another creator
        row = tables.study.insert().values(
            name=configuration.name,
            state=StudyState.DRAWING,
            configuration=json.dumps(to_document(configuration)),
            fingerprint=json.dumps(fingerprint.to_json()),
            source=None if source is None else json.dumps(source.to_json()),
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
        add_points(connection, study_id, slots, first=0)

    database.transact(insert)


def _open(database: Database, name: str) -> Study:
    """Show every point in Optuna but empty slots, then open the study to workers."""
    study = load_study(database, name)
    mirror = Mirror(database, study, create=True)
    mirror.describe_study()
    mirror.enqueue()
    if study.state == StudyState.DRAWING:
        opened = tables.study.update().where(tables.study.c.id == study.id, tables.study.c.state == StudyState.DRAWING)
        database.transact(lambda connection: connection.execute(opened.values(state=StudyState.OPEN)))
        study = replace(study, state=StudyState.OPEN)
    return study
