"""Creating, extending and deleting studies. Each is resumable: killed anywhere, the same call finishes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa

from rust_optuna.config import HYPERPARAMETERS, StudyConfiguration
from rust_optuna.data.development import DevelopmentSet, development_set
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.folds import labels_missing
from rust_optuna.data.manifest import read_manifest
from rust_optuna.errors import ConfigurationError, FingerprintError, Problem, StudyError
from rust_optuna.learn.weights import weights_scheme
from rust_optuna.paths import Home
from rust_optuna.search import design, tables
from rust_optuna.search.artifacts import ArtifactStore, adopt, artifacts_of, open_store, remove
from rust_optuna.search.database import Database
from rust_optuna.search.ledger import add_points
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.results import best_point
from rust_optuna.search.studies import (
    Study,
    find_study,
    load_parameters,
    load_studies,
    load_study,
    trial_configuration,
)
from rust_optuna.study_file import to_document

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Creation:
    """What ``create_study`` did: the study, and whether it was there already."""

    study: Study
    resumed: bool


def create_study(
    database: Database,
    configuration: StudyConfiguration,
    home: Home,
    progress: Progress | None = None,
    artifacts: str | None = None,
) -> Creation:
    """Create a study with its films, folds and whole design, or find the one that the same file created.

    The first study of a storage makes the artifact store this storage's.

    Args:
        database: where; its tables exist.
        configuration: the study file.
        home: where relative paths begin.
        progress: called while films are hashed.
        artifacts: the artifact store; None for where the database says.

    Raises:
        ManifestError: the manifest breaks its rules or is not split yet.
        DataError: films cannot be read, or there are too few patients for the folds.
        WeightsError: the weights file is missing.
        StudyError: ``from_best_of`` names a study that is not there or not done.
        FingerprintError: a study of this name exists with other contents.
        StorageError: the artifact store is another storage's, or does not answer.
    """
    if not load_studies(database):
        adopt(open_store(artifacts or database.artifacts(), home), database)
    manifest = read_manifest(home.resolve(configuration.manifest or ""), require_split=True)
    index = FilmIndex(home.film_index)
    development = development_set(
        manifest, index, folds=configuration.folds, seed=configuration.seed, progress=progress
    )
    known = find_study(database, configuration.name)
    source = known.source if known else best_of_source(database, configuration)
    parameters = design.draw(configuration)
    fingerprint = fingerprint_of(configuration, development, source, home)
    with database.exclusive(_lock(configuration.name)):
        known = find_study(database, configuration.name)
        if known is None:
            _refuse_twin(database, configuration.name)
            notes = _notes(configuration, development, parameters, source, home)
            _insert(database, configuration, development, parameters, fingerprint, source, notes)
        else:
            compare(database, known, configuration, fingerprint)
        study = _open(database, configuration.name)
    return Creation(study, resumed=known is not None and known.state != "drawing")


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
            values = {"configuration": json.dumps(to_document(longer)), "state": "drawing"}
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
        point = tables.point
        running = sa.select(sa.func.count()).where(point.c.study_id == study.id, point.c.state == "running")
        busy = database.transact(lambda c: c.execute(running).scalar_one())
        if busy and not force:
            raise StudyError(f"{name} has {busy} running points: stop its workers first, or use --force")
        # Files first, names last: what is left of an interrupted deletion can still be found by the study's name.
        artifacts = artifacts_of(database.storage, name)
        remove(store, artifacts)
        with suppress(KeyError):
            optuna.delete_study(study_name=name, storage=database.storage)
        database.transact(lambda c: _delete_rows(c, study.id))
    return len(artifacts)


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


def best_of_source(database: Database, configuration: StudyConfiguration) -> dict[str, Any] | None:
    """Return the best point of the study that ``from_best_of`` names; ties go to the lowest point."""
    name = configuration.from_best_of
    if name is None:
        return None
    study = find_study(database, name)
    if study is None:
        there = ", ".join(other.name for other in load_studies(database)) or "none yet"
        raise StudyError(
            f"{configuration.name} takes the best of {name}, which is not in {database} (there are: {there}): "
            "search that study first"
        )
    best = best_point(database, study)
    if study.state != "done" or best is None:
        raise StudyError(
            f"{configuration.name} takes the best of {name}, which is not done: "
            f"run rust-optuna worker run {name} until it is"
        )
    params = inherited_parameters(configuration, {**study.inherited, **study.configuration.fixed, **best.parameters})
    taken = {"study": name, "number": best.trial, "point": best.number, "value": best.value, "params": params}
    return {**taken, "objective": (study.runtime or {}).get("objective")}


def fingerprint_of(
    configuration: StudyConfiguration, development: DevelopmentSet, source: Mapping[str, Any] | None, home: Home
) -> dict[str, Any]:
    """Return all that a study's numbers depend on.

    Raises:
        WeightsError: the weights file is missing.
    """
    return {
        "settings": _settings(configuration, source),
        "films": development.fingerprint(),
        "weights": _weights(configuration, source, home),
    }


def inherited_parameters(configuration: StudyConfiguration, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a study takes of another's parameters: those that it says nothing about itself.

    Raises:
        ConfigurationError: a hyperparameter still has no value.
    """
    ours = {*configuration.search_space, *configuration.fixed, *configuration.model}
    params = {key: value for key, value in theirs.items() if key not in ours}
    if open_keys := configuration.open_hyperparameters(params):
        what = f"has no value: neither here nor in {configuration.from_best_of}"
        raise ConfigurationError(f"study {configuration.name}", [Problem(key, what) for key in open_keys])
    return params


def _settings(configuration: StudyConfiguration, source: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings that a study's numbers depend on: not the number of trials, paths or the lease."""
    document = to_document(configuration)
    values = configuration.values({}, (source or {}).get("params"))
    values.pop("weights")
    return {
        **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()},
        "sampler": configuration.sampler,
        "sampler_seed": configuration.sampler_seed,
        "search_space": {k: v for k, v in document["search_space"].items() if k != "weights"},
        "folds": configuration.folds,
        "seed": configuration.seed,
    }


def _weights(configuration: StudyConfiguration, source: Mapping[str, Any] | None, home: Home) -> list[str]:
    """Return what the weights are that the study's points may use, whatever points it has or will have."""
    axis = configuration.search_space.get("weights")
    inherited = (source or {}).get("params", {})
    some = dict.fromkeys(HYPERPARAMETERS, 1)
    choices = [{"weights": choice} for choice in axis.choices] if axis else [{}]
    trials = [trial_configuration(configuration, {**some, **choice}, inherited, home) for choice in choices]
    return sorted({weights_scheme(trial.backbone) for trial in trials})


def _notes(
    configuration: StudyConfiguration,
    development: DevelopmentSet,
    parameters: Sequence[Mapping[str, Any]],
    source: Mapping[str, Any] | None,
    home: Home,
) -> list[str]:
    """Return what a user should know about this design before it runs."""
    notes = []
    if missing := labels_missing(development.folds, development.labels):
        notes.append(
            f"some fold has no positive film of {', '.join(missing)}: "
            "these labels are scored in the folds that have one, alike for all trials"
        )
    sizes = [len(development.content) - count for count in np.bincount(development.folds)]
    inherited = (source or {}).get("params", {})
    batch_sizes = [trial_configuration(configuration, point, inherited, home).batch_size for point in parameters]
    large = sum(size > min(sizes) for size in batch_sizes)
    if large:
        notes.append(
            f"{large} of {len(parameters)} points ask for a batch larger than a training fold ({min(sizes):,} to "
            f"{max(sizes):,} films): there the whole fold is one batch; both sizes are stored with the trial"
        )
    return notes


def _insert(
    database: Database,
    configuration: StudyConfiguration,
    development: DevelopmentSet,
    parameters: Sequence[Mapping[str, Any]],
    fingerprint: Mapping[str, Any],
    source: Mapping[str, Any] | None,
    notes: Sequence[str],
) -> None:
    """Enter the study, its films and all its points in one transaction."""

    def enter(connection: sa.Connection) -> None:
        mine = sa.select(tables.study.c.id).where(tables.study.c.name == configuration.name)
        if connection.execute(mine).first() is not None:
            return  # it was committed, and the answer was lost: the caller holds the lock, so it is ours
        row = tables.study.insert().values(
            name=configuration.name,
            state="drawing",
            configuration=json.dumps(to_document(configuration)),
            fingerprint=json.dumps(fingerprint),
            source=None if source is None else json.dumps(source),
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
        add_points(connection, study_id, parameters, first=0)

    database.transact(enter)


def _open(database: Database, name: str) -> Study:
    """Show every point in Optuna, then let workers at the study."""
    study = load_study(database, name)
    Mirror(database, study, create=True).enqueue()
    if study.state == "drawing":
        opened = tables.study.update().where(tables.study.c.id == study.id, tables.study.c.state == "drawing")
        database.transact(lambda connection: connection.execute(opened.values(state="open")))
        study = replace(study, state="open")
    return study


def compare(
    database: Database, known: Study, configuration: StudyConfiguration, fingerprint: Mapping[str, Any]
) -> None:
    """Check that a study file would create this very study.

    Raises:
        FingerprintError: it would not; the message says in what they differ.
        StudyError: it asks for more points than the study has.
    """
    differences = []
    ours, theirs = fingerprint["settings"], known.fingerprint["settings"]
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            differences.append(f"{key} is {ours.get(key)!r} here and {theirs.get(key)!r} there")
    if fingerprint["films"] != known.fingerprint["films"]:
        what = "" if ours["folds"] == theirs["folds"] and ours["seed"] == theirs["seed"] else " or only their folds"
        differences.append(f"the development films, their labels or their patients{what} differ")
    if fingerprint["weights"] != known.fingerprint["weights"]:
        differences.append("the weights differ")
    if differences:
        raise FingerprintError(
            f"Study {known.name} in {database} was created otherwise: {'; '.join(differences)}. "
            f"Give the study another name, or delete that one: rust-optuna study delete {known.name}"
        )
    asked, has = configuration.n_trials, known.configuration.n_trials
    if asked is not None and has is not None and asked > has:
        raise StudyError(
            f"{known.name} has {has} points, its file asks for {asked}: "
            f"rust-optuna study extend {known.name} --trials {asked}"
        )
