"""Forecasting what a search will take on this machine by timing one step of each kind, for ``search --dry-run``.

The steps are timed in as many processes side by side as there will be workers, with the same environment, because the
workers share the machine's memory bandwidth. Only the film index and downloaded weights are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rust_optuna.config import BackboneConfiguration, StudyConfiguration, TrialConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.errors import NoDatabaseError
from rust_optuna.fleet.devices import Device, DeviceChoice
from rust_optuna.learn.end_to_end_timing import EndToEndTimer
from rust_optuna.learn.extraction import FLIPS, MICRO_BATCH
from rust_optuna.learn.features import FeatureCache
from rust_optuna.learn.timing import (
    ExtractionTimer,
    ExtractionTimes,
    TrainingTimer,
    TrainingTimes,
    makespan,
    timed_sizes,
)
from rust_optuna.paths import Home
from rust_optuna.run.side_by_side import side_by_side
from rust_optuna.search.design import choices_of_features
from rust_optuna.search.preparation import PreparedStudy, compare, prepare
from rust_optuna.search.studies import expected_parameters
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import UNFINISHED, StudyState

Progress = Callable[[int, int], None]
FLOAT = np.dtype(np.float32).itemsize


@dataclass(frozen=True)
class StudyForecast:
    """The forecast of one study.

    Args:
        name: the study's name.
        points: the number of points of the whole design.
        left: the number of unfinished points.
        folds: the number of folds of the cross-validation.
        epochs: the number of epochs of the first unfinished trial.
        films: the number of films of the development set.
        by_batch_size: (batch size, seconds of a trial) for trials like the first unfinished one. The batch sizes go
            from the smallest to the largest with which an unfinished trial trains, at most the films of a training
            fold.
        largest_batch: the largest batch size that an unfinished trial asks for.
        trial_seconds: the mean seconds of a trial over the unfinished points.
        seconds: the seconds until all points are finished, with the start-up of the workers.
        open_source: the study that its inherited values will come from, if that study is not done yet; else None. The
            times are then means over the values that it may bring.
        end_to_end: whether its trials train every layer.
        sampler: the adaptive sampler that will draw its points, for which random points stand here; else None.
        prunes: whether trials may end early, which is not taken into account.
    """

    name: str
    points: int
    left: int
    folds: int
    epochs: int
    films: int
    by_batch_size: Sequence[tuple[int, float]]
    largest_batch: int
    trial_seconds: float
    seconds: float
    open_source: str | None
    end_to_end: bool = False
    sampler: str | None = None
    prunes: bool = False


@dataclass(frozen=True)
class ExtractionForecast:
    """The forecast of computing all backbones' missing features.

    Args:
        films: the number of films, each in four flips.
        seconds: the seconds to read the films and compute their features.
        startup: the seconds to load TensorFlow and the backbones.
        disk_bytes: the size of the features on disk.
    """

    films: int = 0
    seconds: float = 0.0
    startup: float = 0.0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Forecast:
    """The forecast of a whole search.

    Args:
        devices: the device of each worker.
        extraction: the computing of features, which comes first.
        studies: the studies, in order.
        artifact_bytes: the size on disk of the scores of all unfinished trials.
        worker_bytes: the memory of one worker.
    """

    devices: Sequence[Device]
    extraction: ExtractionForecast
    studies: Sequence[StudyForecast]
    artifact_bytes: int
    worker_bytes: int

    @property
    def seconds(self) -> float:
        """The seconds from the start of the command to the end of the last trial."""
        return self.extraction.startup + self.extraction.seconds + sum(study.seconds for study in self.studies)


def forecast(
    configurations: Sequence[StudyConfiguration],
    home: Home,
    open_database: Callable[[], Database],
    *,
    choice: DeviceChoice = DeviceChoice(),  # noqa: B008 (frozen)
    data_root: Path | None = None,
    progress: Progress | None = None,
) -> Forecast:
    """Return what a search of these studies would take.

    Args:
        configurations: the studies, in order.
        home: the root of relative paths.
        open_database: opens the database for reading; points that are finished there are not counted.
        choice: the devices of the search.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.
        progress: called while films are hashed.

    Raises:
        RustOptunaError: any error with which the search itself would refuse these studies.
    """
    devices = choice.devices()
    plans = _plans(configurations, home, open_database, progress, data_root)
    clock = _Clock(home, devices, [size for plan in plans for size in plan.batch_sizes])
    extraction = _extraction(plans, clock)
    studies = [_study(plan, clock) for plan in plans]
    artifact_bytes = sum(len(plan.trials) * clock.artifact_bytes(plan) for plan in plans)
    return Forecast(devices, extraction, studies, artifact_bytes, clock.worker_bytes)


@dataclass(frozen=True)
class _Plan:
    """A study and its unfinished trials, before anything is timed.

    Args:
        study: the study.
        fingerprint: the fingerprint of its development set, by which its timings are kept.
        trials: for each unfinished point, the configurations that it may be trained with. There is one, or one for each
            point of the source study that may become its best.
    """

    study: PreparedStudy
    fingerprint: str
    trials: Sequence[Sequence[TrialConfiguration]]

    @property
    def development(self) -> DevelopmentSet:
        """The study's films and folds."""
        return self.study.development

    @property
    def every_trial(self) -> list[TrialConfiguration]:
        """All configurations that may be trained."""
        return [trial for alternatives in self.trials for trial in alternatives]

    @property
    def prepared_for(self) -> list[TrialConfiguration]:
        """Configurations that use all features which are computed before the trials."""
        configuration = self.study.configuration
        if not (self.trials and configuration.adaptive):
            return self.every_trial
        choices = self.study.trials(choices_of_features(configuration))
        return [trial for alternatives in choices for trial in alternatives]

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes of all configurations that may be trained."""
        return [trial.batch_size for trial in self.every_trial]

    @property
    def training_films(self) -> list[int]:
        """The number of films on which each fold trains."""
        folds = self.development.folds
        return [int((folds != fold).sum()) for fold in np.unique(folds)]


def _plans(
    configurations: Sequence[StudyConfiguration],
    home: Home,
    open_database: Callable[[], Database],
    progress: Progress | None,
    data_root: Path | None,
) -> list[_Plan]:
    try:
        database = open_database()
    except NoDatabaseError:
        # The search would make the database.
        return _plans_in(None, configurations, home, progress, data_root)
    with database:
        return _plans_in(database, configurations, home, progress, data_root)


def _plans_in(
    database: Database | None,
    configurations: Sequence[StudyConfiguration],
    home: Home,
    progress: Progress | None,
    data_root: Path | None,
) -> list[_Plan]:
    plans: list[_Plan] = []
    earlier: dict[str, PreparedStudy] = {}
    for configuration in configurations:
        prepared = prepare(configuration, home, database, progress=progress, earlier=earlier, data_root=data_root)
        known, left = prepared.known, prepared.points
        if database is not None and known is not None:
            compare(database, prepared, known)
            left = expected_parameters(database, known, states=UNFINISHED)
        if known is None or known.state != StudyState.DONE:
            earlier[configuration.name] = prepared
        plans.append(_Plan(prepared, prepared.development.fingerprint(), prepared.trials(left)))
    return plans


def _extraction(plans: Sequence[_Plan], clock: _Clock) -> ExtractionForecast:
    total = ExtractionForecast()
    known: set[tuple[str, BackboneConfiguration]] = set()
    for plan in plans:
        contents = plan.development.content
        backbones = dict.fromkeys(trial.backbone for trial in plan.prepared_for if trial.cached)
        for backbone in backbones:
            missing = {(content, backbone) for content in clock.cache(backbone, contents).missing(contents)}
            missing -= known
            if not missing:
                continue
            known |= missing
            times, startup = clock.extraction(backbone, contents)
            total = ExtractionForecast(
                total.films + len(missing),
                total.seconds + len(missing) * times.film,
                total.startup + startup,
                total.disk_bytes + len(missing) * FLIPS * times.width * FLOAT,
            )
    return total


def _kind(trial: TrialConfiguration) -> TrialConfiguration:
    """Return a trial whose settings that affect its speed not at all, or in a known way, are set to fixed values."""
    backbone = BackboneConfiguration("random")
    if trial.end_to_end:
        kept = trial.backbone
        backbone = replace(backbone, output=kept.output, pooling=kept.pooling, image_size=kept.image_size)
    return replace(
        trial,
        batch_size=1,
        dropout_rate=0.25,
        learning_rate=1e-3,
        epsilon=1e-7,
        epochs=1,
        flips="both",
        backbone=backbone,
        features="cached",
    )


class _Clock:
    """A clock that times each kind of step once, however many studies need it.

    Args:
        home: the folder of the feature cache and the film index.
        devices: the device of each worker.
        batch_sizes: the batch sizes of all studies' trials.
    """

    def __init__(self, home: Home, devices: Sequence[Device], batch_sizes: Sequence[int]) -> None:
        self.devices = devices
        self._batch_sizes = tuple(sorted(set(batch_sizes)))
        self.startup = 0.0
        self._home = home
        self._extraction: dict[BackboneConfiguration, tuple[ExtractionTimes, float]] = {}
        self._live: dict[BackboneConfiguration, ExtractionTimes] = {}
        self._caches: dict[BackboneConfiguration, FeatureCache] = {}
        self._widths: dict[BackboneConfiguration, int] = {}
        self._training: dict[tuple[str, int, TrialConfiguration], TrainingTimes] = {}
        self._live_bytes = 0

    def extraction(self, backbone: BackboneConfiguration, contents: Sequence[str]) -> tuple[ExtractionTimes, float]:
        """Return the times of extraction in one process with all cores, as in the search, and its start-up seconds."""
        if backbone not in self._extraction:
            times, startup = side_by_side([self.devices[0].alone], self._extraction_task(backbone, contents))
            self._extraction[backbone] = (times[0], startup)
        return self._extraction[backbone]

    def cache(self, backbone: BackboneConfiguration, contents: Sequence[str]) -> FeatureCache:
        """Return the cache that the workers' devices share.

        Which cache that is depends on the kind of arithmetic. If it is not known yet, extraction is timed to learn it.
        """
        if backbone not in self._caches:
            folder = self._home.features
            known = FeatureCache.without_tensorflow(folder, backbone) if self.devices[0].on_processor else None
            self._caches[backbone] = known or FeatureCache(
                folder, backbone, self.extraction(backbone, contents)[0].kind
            )
        return self._caches[backbone]

    def seconds(self, plan: _Plan, trial: TrialConfiguration) -> float:
        """Return the seconds that a trial takes while the other workers run theirs."""
        training = plan.training_films
        spent = self.training(plan, trial).trial(training, trial.batch_size, trial.epochs)
        if trial.features == "live" and not trial.end_to_end:
            # In each epoch the backbone runs on every film once for each fold: to score it in one, to train on it in
            # the others.
            films = trial.epochs * len(training) * len(plan.development.content)
            spent += films * self._live_times(plan, trial.backbone).flip
        return spent

    def training(self, plan: _Plan, trial: TrialConfiguration) -> TrainingTimes:
        """Return the times of a trial's parts, as medians over one process for each worker."""
        key = (plan.fingerprint, self._width(plan, trial), _kind(trial))
        if key not in self._training:
            environments = [device.environment for device in self.devices]
            task: _TrainingTask | _EndToEndTask
            if trial.end_to_end:
                task = _EndToEndTask(plan.development, key[2])
            else:
                task = _TrainingTask(plan.development, *key[1:], self._batch_sizes)
            times, self.startup = side_by_side(environments, task)
            self._training[key] = _median(times)
        return self._training[key]

    def artifact_bytes(self, plan: _Plan) -> int:
        """Return the size of one trial's stored scores in bytes."""
        return self.training(plan, plan.trials[0][0]).artifact_bytes if plan.trials else 0

    @property
    def worker_bytes(self) -> int:
        """The memory of the largest worker in bytes."""
        return self._live_bytes + max((times.memory_bytes for times in self._training.values()), default=0)

    def _width(self, plan: _Plan, trial: TrialConfiguration) -> int:
        """Return the number of features of a film; 0 if the trial has no features."""
        if trial.end_to_end:
            return 0
        if trial.features == "live":
            return self._live_times(plan, trial.backbone).width
        backbone, contents = trial.backbone, plan.development.content
        if backbone not in self._widths:
            cached = self.cache(backbone, contents).width()
            self._widths[backbone] = cached or self.extraction(backbone, contents)[0].width
        return self._widths[backbone]

    def _live_times(self, plan: _Plan, backbone: BackboneConfiguration) -> ExtractionTimes:
        """Return the times of the backbone when each worker runs it, on its own device or its share of the cores."""
        if backbone not in self._live:
            contents = plan.development.content
            environments = [device.environment for device in self.devices]
            measured, _ = side_by_side(environments, self._extraction_task(backbone, contents))
            self._live[backbone] = max(measured, key=lambda times: times.flip)
            # Decoded films stay in memory.
            self._live_bytes = max(self._live_bytes, len(contents) * backbone.image_size**2 * FLOAT)
        return self._live[backbone]

    def _extraction_task(self, backbone: BackboneConfiguration, contents: Sequence[str]) -> _ExtractionTask:
        return _ExtractionTask(backbone, tuple(contents[:MICRO_BATCH]), self._home.film_index)


def _study(plan: _Plan, clock: _Clock) -> StudyForecast:
    seconds = [float(np.mean([clock.seconds(plan, trial) for trial in alternatives])) for alternatives in plan.trials]
    by_batch_size: list[tuple[int, float]] = []
    if plan.trials:
        first = plan.trials[0][0]
        sizes = timed_sizes(plan.batch_sizes, max(plan.training_films))
        by_batch_size = [(size, clock.seconds(plan, replace(first, batch_size=size))) for size in sizes]
    configuration = plan.study.configuration
    return StudyForecast(
        name=configuration.name,
        points=len(plan.study.points),
        left=len(plan.trials),
        folds=configuration.folds,
        epochs=plan.trials[0][0].epochs if plan.trials else 0,
        films=len(plan.development.content),
        by_batch_size=by_batch_size,
        end_to_end=bool(plan.trials) and plan.trials[0][0].end_to_end,
        largest_batch=max(plan.batch_sizes, default=0),
        trial_seconds=float(np.mean(seconds)) if seconds else 0.0,
        seconds=clock.startup + makespan(seconds, len(clock.devices)) if seconds else 0.0,
        open_source=plan.study.open_source,
        sampler=configuration.sampler if configuration.adaptive else None,
        prunes=configuration.pruner is not None,
    )


def _median(times: Sequence[TrainingTimes]) -> TrainingTimes:
    sizes = [size for size, _ in times[0].steps]
    return replace(
        times[0],
        steps=tuple((size, float(np.median([t.steps[i][1] for t in times]))) for i, size in enumerate(sizes)),
        scoring=float(np.median([t.scoring for t in times])),
        overhead=float(np.median([t.overhead for t in times])),
        memory_bytes=max(t.memory_bytes for t in times),
    )


@dataclass(frozen=True)
class _ExtractionTask:
    """The task of timing extraction in a process of its own."""

    backbone: BackboneConfiguration
    contents: Sequence[str]
    film_index: Path

    def prepare(self) -> Callable[[], ExtractionTimes]:
        timer = ExtractionTimer(self.backbone)
        index = FilmIndex(self.film_index)

        def measure() -> ExtractionTimes:
            with index.naming():
                return timer.measure(self.contents, index.read)

        return measure


@dataclass(frozen=True)
class _TrainingTask:
    """The task of timing training in a process of its own."""

    development: DevelopmentSet
    width: int
    trial: TrialConfiguration
    batch_sizes: Sequence[int]

    def prepare(self) -> Callable[[], TrainingTimes]:
        return TrainingTimer(self.development, self.width, self.trial, self.batch_sizes).measure


@dataclass(frozen=True)
class _EndToEndTask:
    """The task of timing end-to-end training in a process of its own."""

    development: DevelopmentSet
    trial: TrialConfiguration

    def prepare(self) -> Callable[[], TrainingTimes]:
        return EndToEndTimer(self.development, self.trial).measure
