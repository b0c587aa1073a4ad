"""What a search will take on this machine, from timing one step of each kind: ``search --dry-run``.

The steps are timed in as many processes side by side as there will be workers, with the same environment, because
they share the machine's memory bandwidth. Nothing is written but the index of films (and downloaded weights).
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import BackboneConfiguration, StudyConfiguration, TrialConfiguration
from rust_optuna.data.development import DevelopmentSet, development_set
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.manifest import read_manifest
from rust_optuna.errors import RustOptunaError, StorageError
from rust_optuna.learn.extraction import FLIPS, MICRO_BATCH
from rust_optuna.learn.features import FeatureCache
from rust_optuna.learn.timing import ExtractionTimes, TrainingTimer, TrainingTimes, time_extraction
from rust_optuna.paths import Home
from rust_optuna.run.devices import Slot, slots
from rust_optuna.search import design
from rust_optuna.search.creation import best_of_source, inherited_parameters
from rust_optuna.search.database import Database
from rust_optuna.search.studies import find_study, load_parameters, trial_configuration
from rust_optuna.study_file import read_study_file

Progress = Callable[[int, int], None]
UNFINISHED = ("waiting", "running")


@dataclass(frozen=True)
class StudyForecast:
    """One study of the plan.

    Args:
        name: its name.
        points: of the whole design.
        left: points that are not finished yet.
        folds: of the cross-validation.
        epochs: of most of its trials.
        films: of the development set.
        by_batch_size: (batch size, seconds of a trial) at the measured sizes, for its first kind of trial.
        trial_seconds: mean seconds of a trial, over the points that are left.
        seconds: until all are done, start-up of the workers included.
        open_source: the study that its inherited parameters will come from, where that is not done yet: the times
            are then means over what it may bring.
    """

    name: str
    points: int
    left: int
    folds: int
    epochs: int
    films: int
    by_batch_size: Sequence[tuple[int, float]]
    trial_seconds: float
    seconds: float
    open_source: str | None


@dataclass(frozen=True)
class Forecast:
    """The whole plan.

    Args:
        slots: where the workers will run.
        missing_films: films whose features must be computed first, summed over backbones.
        extraction_seconds: that this takes.
        studies: in order.
        feature_bytes: disk for the features that are missing.
        artifact_bytes: disk for the scores of all trials left.
        worker_bytes: memory of one worker.
    """

    slots: Sequence[Slot]
    missing_films: int
    extraction_seconds: float
    studies: Sequence[StudyForecast]
    feature_bytes: int
    artifact_bytes: int
    worker_bytes: int

    @property
    def seconds(self) -> float:
        """From the command to the last trial."""
        return self.extraction_seconds + sum(study.seconds for study in self.studies)


@dataclass(frozen=True)
class _Development:
    """A development set and its fingerprint, which takes a while."""

    films: DevelopmentSet
    fingerprint: str


@dataclass(frozen=True)
class _Plan:
    """A study before anything is timed.

    Args:
        trials: for each point left, what it may be trained with: one configuration, or one for each that a study
            which is not done yet may hand down.
    """

    configuration: StudyConfiguration
    development: _Development
    points: int
    trials: Sequence[Sequence[TrialConfiguration]]
    open_source: str | None


def forecast(
    files: Sequence[Path],
    home: Home,
    open_database: Callable[[], Database],
    *,
    workers: int | None = None,
    gpus: str = "all",
    progress: Progress | None = None,
) -> Forecast:
    """Say what a search of these files would take.

    Args:
        files: study files, in order.
        home: root of relative paths.
        open_database: opens the storage for reading; points that are finished there are not counted again.
        workers: as for the search.
        gpus: as for the search.
        progress: called while films are hashed.

    Raises:
        RustOptunaError: whatever the search itself would refuse.
    """
    where = slots(gpus, workers)
    plans = _plans([read_study_file(path) for path in files], home, open_database, progress)
    index = FilmIndex(home.film_index)
    extraction: dict[BackboneConfiguration, ExtractionTimes] = {}
    missing_films, extraction_seconds, feature_bytes = 0, 0.0, 0
    known: set[tuple[str, BackboneConfiguration]] = set()
    for plan in plans:
        contents = plan.development.films.content
        for backbone in dict.fromkeys(trial.backbone for either in plan.trials for trial in either):
            if backbone not in extraction:
                extraction[backbone] = _time_extraction(backbone, contents, index)
            absent = FeatureCache(home.features, backbone).missing(contents) if _cached(plan, backbone) else []
            new = [content for content in absent if (content, backbone) not in known]
            known.update((content, backbone) for content in new)
            missing_films += len(new)
            extraction_seconds += len(new) * extraction[backbone].film
            feature_bytes += len(new) * FLIPS * extraction[backbone].width * np.dtype(np.float32).itemsize
    clock = _Clock(extraction, where)
    studies = [_study(plan, clock) for plan in plans]
    artifact_bytes = sum(len(plan.trials) * clock.artifact_bytes(plan) for plan in plans)
    return Forecast(
        where, missing_films, extraction_seconds, studies, feature_bytes, artifact_bytes, clock.worker_bytes
    )


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last of some jobs ends if each of some workers takes the next as soon as it is free."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def _plans(
    configurations: Sequence[StudyConfiguration],
    home: Home,
    open_database: Callable[[], Database],
    progress: Progress | None,
) -> list[_Plan]:
    try:
        database = open_database()
    except StorageError:
        # The search would make it.
        return _plans_in(None, configurations, home, progress)
    with database:
        return _plans_in(database, configurations, home, progress)


def _plans_in(
    database: Database | None, configurations: Sequence[StudyConfiguration], home: Home, progress: Progress | None
) -> list[_Plan]:
    index = FilmIndex(home.film_index)
    plans: list[_Plan] = []
    earlier: dict[str, Sequence[Mapping[str, Any]]] = {}
    for configuration in configurations:
        manifest = read_manifest(home.resolve(configuration.manifest or ""), require_split=True)
        films = development_set(manifest, index, folds=configuration.folds, seed=configuration.seed, progress=progress)
        development = _Development(films, films.fingerprint())
        study = find_study(database, configuration.name) if database else None
        points = design.draw(configuration)
        left: Sequence[Mapping[str, Any]] = points
        open_source = None
        inherited: list[dict[str, Any]] = [{}]
        if study is not None and database is not None:
            left = load_parameters(database, study.id, states=UNFINISHED)
            inherited = [dict(study.inherited)]
        elif configuration.from_best_of in earlier:
            open_source = configuration.from_best_of
            inherited = [inherited_parameters(configuration, point) for point in earlier[str(open_source)]]
        elif configuration.from_best_of is not None:
            inherited = [(_best_of_source(database, configuration) or {}).get("params", {})]
        if study is None or study.state != "done":
            earlier[configuration.name] = [{**inherited[0], **configuration.fixed, **point} for point in points]
        trials = [[trial_configuration(configuration, point, each, home) for each in inherited] for point in left]
        plans.append(_Plan(configuration, development, len(points), trials, open_source))
    return plans


def _best_of_source(database: Database | None, configuration: StudyConfiguration) -> dict[str, Any] | None:
    if database is None:
        raise StorageError(
            f"{configuration.name} takes the best of {configuration.from_best_of}, and there is no database yet: name "
            "that study's file before this one's"
        )
    return best_of_source(database, configuration)


def _cached(plan: _Plan, backbone: BackboneConfiguration) -> bool:
    return any(trial.backbone == backbone and trial.features == "cached" for either in plan.trials for trial in either)


def _kind(trial: TrialConfiguration) -> TrialConfiguration:
    """Return a trial with all that its speed does not depend on, or depends on in a known way, set to one value."""
    return replace(trial, batch_size=1, dropout_rate=0.25, learning_rate=1e-3, epsilon=1e-7, epochs=1, flips="both")


class _Clock:
    """Times each kind of trial once, in one process a worker, however many studies run it.

    Args:
        extraction: what was timed of each backbone.
        where: where the workers will run.
    """

    def __init__(self, extraction: Mapping[BackboneConfiguration, ExtractionTimes], where: Sequence[Slot]) -> None:
        self.where = where
        self.startup = 0.0
        self._extraction = extraction
        self._times: dict[tuple[str, TrialConfiguration], TrainingTimes] = {}

    def times(self, plan: _Plan, trial: TrialConfiguration) -> TrainingTimes:
        """Return how long the parts of a trial take: medians over the processes."""
        key = (plan.development.fingerprint, _kind(trial))
        if key not in self._times:
            task = _TrainingTask(plan.development.films, self._extraction[trial.backbone].width, key[1])
            found, self.startup = _side_by_side([slot.environment for slot in self.where], task)
            self._times[key] = _median(found)
        return self._times[key]

    def seconds(self, plan: _Plan, trial: TrialConfiguration) -> float:
        """Return how long a trial takes while the other workers run theirs."""
        folds = plan.development.films.folds
        training = [int((folds != fold).sum()) for fold in np.unique(folds)]
        spent = self.times(plan, trial).trial(training, trial.batch_size, trial.epochs)
        if trial.features == "live":
            # Each epoch runs the backbone on every film: to train on it in all folds but one, to score it in that one.
            flip = self._extraction[trial.backbone].flip
            spent += trial.epochs * len(training) * len(folds) * flip * len(self.where)
        return spent

    def artifact_bytes(self, plan: _Plan) -> int:
        """Return the size of one trial's stored scores."""
        return self.times(plan, plan.trials[0][0]).artifact_bytes if plan.trials else 0

    @property
    def worker_bytes(self) -> int:
        """The memory of the largest worker."""
        return max((times.memory_bytes for times in self._times.values()), default=0)


def _study(plan: _Plan, clock: _Clock) -> StudyForecast:
    def seconds(trial: TrialConfiguration) -> float:
        return clock.seconds(plan, trial)

    each = [float(np.mean([seconds(trial) for trial in either])) for either in plan.trials]
    by_batch_size: list[tuple[int, float]] = []
    if plan.trials:
        first = plan.trials[0][0]
        sizes = [size for size, _ in clock.times(plan, first).steps]
        by_batch_size = [(size, seconds(replace(first, batch_size=size))) for size in sizes]
    return StudyForecast(
        name=plan.configuration.name,
        points=plan.points,
        left=len(plan.trials),
        folds=plan.configuration.folds,
        epochs=plan.trials[0][0].epochs if plan.trials else 0,
        films=len(plan.development.films.content),
        by_batch_size=by_batch_size,
        trial_seconds=float(np.mean(each)) if each else 0.0,
        seconds=clock.startup + makespan(each, len(clock.where)) if each else 0.0,
        open_source=plan.open_source,
    )


def _time_extraction(backbone: BackboneConfiguration, contents: Sequence[str], index: FilmIndex) -> ExtractionTimes:
    """Time extraction in one process that has all cores, as it is done."""
    found: list[ExtractionTimes]
    found, _ = _side_by_side([{}], _ExtractionTask(backbone, tuple(contents[:MICRO_BATCH]), index.path))
    return found[0]


def _median(found: Sequence[TrainingTimes]) -> TrainingTimes:
    sizes = [size for size, _ in found[0].steps]
    return TrainingTimes(
        steps=tuple((size, float(np.median([t.steps[i][1] for t in found]))) for i, size in enumerate(sizes)),
        scoring=float(np.median([t.scoring for t in found])),
        around=float(np.median([t.around for t in found])),
        artifact_bytes=found[0].artifact_bytes,
        memory_bytes=max(t.memory_bytes for t in found),
    )


@dataclass(frozen=True)
class _ExtractionTask:
    """Runs in a process of its own."""

    backbone: BackboneConfiguration
    contents: Sequence[str]
    index: Path

    def prepare(self) -> Callable[[], ExtractionTimes]:
        return lambda: time_extraction(self.backbone, self.contents, FilmIndex(self.index).read)


@dataclass(frozen=True)
class _TrainingTask:
    """Runs in a process of its own."""

    development: DevelopmentSet
    width: int
    trial: TrialConfiguration

    def prepare(self) -> Callable[[], TrainingTimes]:
        return TrainingTimer(self.development, self.width, self.trial).measure


def _side_by_side(environments: Sequence[Mapping[str, str]], task: Any) -> tuple[list[Any], float]:
    """Run a task in one process for each environment, all at the same time; TensorFlow is loaded there, not here.

    Returns:
        What the task returned in each, and the seconds from the start until the first was ready.
    """
    context = multiprocessing.get_context("spawn")
    children: list[tuple[Any, Connection]] = []
    began = time.perf_counter()
    try:
        for environment in environments:
            here, there = context.Pipe()
            process = context.Process(target=_child, args=(there, task), daemon=True)
            with _environment(environment):
                process.start()
            there.close()
            children.append((process, here))
        startup = 0.0
        for _, pipe in children:
            _received(pipe)
            startup = startup or time.perf_counter() - began
        for _, pipe in children:
            pipe.send("go")
        return [_received(pipe) for _, pipe in children], startup
    finally:
        for process, pipe in children:
            pipe.close()
            process.terminate()
            process.join()


def _received(pipe: Connection) -> Any:
    try:
        received = pipe.recv()
    except EOFError:
        raise RustOptunaError("A process that timed this machine died (out of memory?): try fewer --workers") from None
    if isinstance(received, RustOptunaError):
        raise received
    return received


def _child(pipe: Connection, task: Any) -> None:
    try:
        measure = task.prepare()
        pipe.send("ready")
        pipe.recv()
        pipe.send(measure())
    except RustOptunaError as error:
        pipe.send(RustOptunaError(str(error)))
    except (EOFError, KeyboardInterrupt):
        pass  # the parent has gone, or both were interrupted


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a process that starts in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
