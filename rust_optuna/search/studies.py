"""Reading studies and their development sets back from the database, without Optuna or TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from rust_optuna.config import (
    HYPERPARAMETERS,
    UNSEARCHED,
    BackboneConfiguration,
    StudyConfiguration,
    StudyKind,
    TrialConfiguration,
    Value,
    misfit,
)
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.errors import StudyError
from rust_optuna.paths import Home
from rust_optuna.search import design
from rust_optuna.search.fingerprint import Fingerprint
from rust_optuna.search.inheritance import Inheritance
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import PointState, StudyState
from rust_optuna.storage.tables import StudyKey
from rust_optuna.study_file import parse_study


@dataclass(frozen=True)
class Study:
    """A study as its database holds it.

    Args:
        id: its row in the ledger.
        name: its unique name.
        state: ``drawing`` (its creation is not finished yet), ``open`` or ``done``.
        configuration: the validated study file, without the manifest's path.
        fingerprint: everything that the study's numbers depend on, fixed at creation.
        runtime: the libraries and the objective of its first worker; None before the first worker served it.
        source: what it took from the best point of another study, or None.
        notes: the warnings of its creation.
        created_at: when it was created, by the database's clock.
    """

    id: int
    name: str
    state: StudyState
    configuration: StudyConfiguration
    fingerprint: Fingerprint
    runtime: Mapping[str, Any] | None
    source: Inheritance | None
    notes: Sequence[str]
    created_at: float

    @property
    def key(self) -> StudyKey:
        """The key that distinguishes this study from a later one with the same name or in the same row."""
        return StudyKey(self.id, self.created_at)

    @property
    def is_search(self) -> bool:
        """Whether its points are trials to choose from, not the folds of one model."""
        return self.configuration.kind == StudyKind.SEARCH

    @property
    def end_to_end(self) -> bool:
        """Whether its points train every layer, and not only a head on a frozen backbone's features."""
        return bool(self.configuration.values({}, self.inherited)["train"] == "all")

    @property
    def objective(self) -> str | None:
        """The objective that computed this study's values; None before the first worker served it."""
        return None if self.runtime is None else self.runtime["objective"]

    @property
    def stand_in(self) -> str | None:
        """The stand-in objective that computed this study's values; None for the real one."""
        return self.objective if self.objective and self.objective.startswith("STAND-IN") else None

    @property
    def inherited(self) -> Mapping[str, Value]:
        """The values inherited from the study that ``from_best_of`` names."""
        return self.source.values if self.source else {}

    @property
    def own_values(self) -> Mapping[str, Value]:
        """The values that the study neither searches, fixes nor inherits: those of its model, defaults included.

        Keys that mean nothing for the model are left out. That a head is trained goes without saying, as it did in
        studies that are older than that key.
        """
        configuration = self.configuration
        values = configuration.values({}, self.inherited)
        others = {*configuration.search_space, *configuration.fixed, *self.inherited}
        if not self.end_to_end:
            others |= {*UNSEARCHED}
        means_nothing = {name for name in values if misfit(name, values["architecture"], values["train"])}
        return {name: value for name, value in values.items() if name not in others | means_nothing}

    @property
    def constant_hyperparameters(self) -> Mapping[str, Value]:
        """The hyperparameters that the study does not search, each with its one value for all points."""
        values = self.configuration.values({}, self.inherited)
        return {name: values[name] for name in HYPERPARAMETERS if name not in self.configuration.search_space}

    def trial_configuration(self, parameters: Mapping[str, Any], home: Home) -> TrialConfiguration:
        """Return the configuration that a point is trained with; the path of a weights file becomes absolute."""
        return trial_configuration(self.configuration, parameters, self.inherited, home)


def trial_configuration(
    configuration: StudyConfiguration, parameters: Mapping[str, Any], inherited: Mapping[str, Any], home: Home
) -> TrialConfiguration:
    """Merge a point with what its study fixes and inherits; the path of a weights file becomes absolute."""
    values = configuration.values(parameters, inherited)
    if values["weights"] not in ("imagenet", "random"):
        values["weights"] = str(home.resolve(values["weights"]))
    return TrialConfiguration.from_values(values)


def cached_backbones(
    configuration: StudyConfiguration,
    design: Sequence[Mapping[str, Any]],
    inherited: Mapping[str, Any],
    home: Home,
) -> list[BackboneConfiguration]:
    """Return each backbone whose cached features the points of a design use, once."""
    # Some hyperparameters may have no value yet, but no backbone depends on them.
    placeholders = dict.fromkeys(HYPERPARAMETERS, 1)
    trials = (trial_configuration(configuration, {**placeholders, **point}, inherited, home) for point in design)
    return list(dict.fromkeys(trial.backbone for trial in trials if trial.cached))


def find_study(database: Database, name: str) -> Study | None:
    """Return the study of that name, or None."""
    # MariaDB ignores the case of a name.
    return next((study for study in _read(database, tables.study.c.name == name) if study.name == name), None)


def load_study(database: Database, name: str) -> Study:
    """Return the study of that name.

    Raises:
        StudyError: there is no such study; the message lists the existing ones.
    """
    study = find_study(database, name)
    if study is None:
        names = ", ".join(other.name for other in load_studies(database)) or "none yet"
        raise StudyError(f"No study {name!r} in {database}; there are: {names}")
    return study


def load_studies(database: Database) -> list[Study]:
    """Return all studies, oldest first."""
    return _read(database, sa.true())


def studies_to_serve(database: Database, names: Sequence[str]) -> list[Study]:
    """Return the named studies, or all open ones.

    Raises:
        StudyError: a named study does not exist, or its creation was never finished.
    """
    if not names:
        return [study for study in load_studies(database) if study.state == StudyState.OPEN]
    studies = [load_study(database, name) for name in dict.fromkeys(names)]
    for study in studies:
        if study.state == StudyState.DRAWING:
            raise StudyError(f"The creation of {study.name} was not finished: run the same study create command again")
    return studies


def _read(database: Database, condition: sa.ColumnElement[bool]) -> list[Study]:
    query = sa.select(tables.study).where(condition).order_by(tables.study.c.id)
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [
        Study(
            id=row.id,
            name=row.name,
            state=row.state,
            configuration=parse_study(json.loads(row.configuration), f"study {row.name}", stored=True),
            fingerprint=Fingerprint.from_json(json.loads(row.fingerprint)),
            runtime=json.loads(row.runtime) if row.runtime else None,
            source=Inheritance.from_json(json.loads(row.source)) if row.source else None,
            notes=json.loads(row.notes),
            created_at=row.created_at,
        )
        for row in rows
    ]


def load_parameters(database: Database, study_id: int, states: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the parameters of a study's points in order, either of all points or of those in the given states.

    The empty slots of an adaptive design are left out.
    """
    return [parameters for _, parameters in _parameters(database, study_id, states) if parameters is not None]


def expected_parameters(database: Database, study: Study, states: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return what `load_parameters` returns, with a random point in place of each empty slot."""
    found = _parameters(database, study.id, states)
    estimated = design.estimate(study.configuration) if any(parameters is None for _, parameters in found) else []
    return [estimated[number] if parameters is None else parameters for number, parameters in found]


def parameters_to_prepare(database: Database, study: Study) -> list[dict[str, Any]]:
    """Return parameters that use all the features that a study's points may need.

    For a fixed design, these are its points. For an adaptive one, whose points are drawn after the features are
    computed, they are all combinations of the searched values that decide about features.
    """
    if study.configuration.adaptive:
        return design.choices_of_features(study.configuration)
    return load_parameters(database, study.id)


def count_points(database: Database, study: Study) -> int:
    """Return the number of points of a study, empty slots included."""
    query = sa.select(sa.func.count()).where(tables.point.c.study_id == study.id)
    return database.transact(lambda connection: int(connection.execute(query).scalar_one()))


def _parameters(
    database: Database, study_id: int, states: Sequence[str] | None
) -> list[tuple[int, dict[str, Any] | None]]:
    query = sa.select(tables.point.c.number, tables.point.c.parameters).where(tables.point.c.study_id == study_id)
    if states is not None:
        query = query.where(tables.point.c.state.in_(states))
    rows = database.transact(lambda c: c.execute(query.order_by(tables.point.c.number)).all())
    return [(row.number, json.loads(row.parameters)) for row in rows]


def complete_rows(study: Study) -> sa.Select[Any]:
    """Return the query of a study's complete points, each with the attempt that completed it."""
    point, attempt = tables.point, tables.attempt
    columns = (attempt.c.result, attempt.c.artifact, attempt.c.started_at, attempt.c.ended_at, attempt.c.worker)
    newest = sa.and_(attempt.c.point_id == point.c.id, attempt.c.number == point.c.attempt)
    query = sa.select(point.c.number, point.c.trial, point.c.parameters, point.c.value, *columns).join(attempt, newest)
    return query.where(point.c.study_id == study.id, point.c.state == PointState.COMPLETE)


def count_films(database: Database, study: Study) -> dict[str, int]:
    """Return how many development films and patients a study has."""
    film = tables.film
    query = sa.select(sa.func.count(), sa.func.count(film.c.patient.distinct())).where(film.c.study_id == study.id)
    films, patients = database.transact(lambda connection: connection.execute(query).one())
    return {"films": films, "patients": patients}


def load_development(database: Database, study: Study) -> DevelopmentSet:
    """Return a study's development films, labels and folds as stored at its creation.

    Raises:
        StudyError: the rows do not fit the study's fingerprint.
        DataError: a patient is in two folds.
    """
    film = tables.film
    query = sa.select(film).where(film.c.study_id == study.id).order_by(film.c.content)
    rows = database.transact(lambda connection: connection.execute(query).all())
    development = DevelopmentSet(
        content=tuple(row.content for row in rows),
        patients=tuple(row.patient for row in rows),
        views=tuple(row.view for row in rows),
        labels=np.array([[int(digit) for digit in row.label] for row in rows], dtype=np.uint8).reshape(len(rows), -1),
        folds=np.array([row.fold for row in rows], dtype=np.int64),
    )
    if development.fingerprint() != study.fingerprint.films:
        raise StudyError(
            f"The films of {study.name} in {database} were changed after its creation: restore a backup of the "
            f"database, or delete the study (rust-optuna study delete {study.name})"
        )
    return development
