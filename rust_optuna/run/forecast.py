"""What a search will take on this machine, from timing one step of each kind: ``search --dry-run``.

The steps are timed in as many processes side by side as there will be workers, with the same environment, because
they share the machine's memory bandwidth. Nothing is written but the index of films (and downloaded weights).
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
from rust_optuna.search.preparation import PreparedStudy, compare, prepare
from rust_optuna.search.studies import load_parameters
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import UNFINISHED, StudyState

Progress = Callable[[int, int], None]
FLOAT = np.dtype(np.float32).itemsize


@dataclass(frozen=True)
class StudyForecast:
    """One study of the plan.

    Args:
        name: its name.
        points: of the whole design.
        left: points that are not finished yet.
        folds: of the cross-validation.
        epochs: of its first trial that is left.
        films: of the development set.
        by_batch_size: (batch size, seconds of a trial) from the smallest to the largest that a trial left trains
            with, which is no more than the films that a fold trains on; for its first trial's kind.
        largest_batch: the largest batch size that a trial left asks for.
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
    largest_batch: int
    trial_seconds: float
    seconds: float
    open_source: str | None


@dataclass(frozen=True)
class ExtractionForecast:
    """The features that are missing, of all backbones.

    Args:
        films: how many films, each in four flips.
        seconds: to read them and compute their features.
        startup: seconds before the first, TensorFlow and the backbones.
        disk_bytes: what the features take.
    """

    films: int = 0
    seconds: float = 0.0
    startup: float = 0.0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Forecast:
    """The whole plan.

    Args:
        devices: one for each worker.
        extraction: what comes first.
        studies: in order.
        artifact_bytes: disk for the scores of all trials left.
        worker_bytes: memory of one worker.
    """

    devices: Sequence[Device]
    extraction: ExtractionForecast
    studies: Sequence[StudyForecast]
    artifact_bytes: int
    worker_bytes: int

    @property
    def seconds(self) -> float:
        """From the command to the last trial."""
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
    """Say what a search of these studies would take.

    Args:
        configurations: the studies, in order.
        home: root of relative paths.
        open_database: opens the storage for reading; points that are finished there are not counted again.
        choice: as for the search.
        data_root: as for the search.
        progress: called while films are hashed.

    Raises:
        RustOptunaError: whatever the search itself would refuse.
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
    """A study before anything is timed.

    Args:
        study: the study.
        fingerprint: of its development set, which it stands for in what was timed.
        trials: for each point left, what it may be trained with: one configuration, or one for each that a study
            which is not done yet may hand down.
    """

    study: PreparedStudy
    fingerprint: str
    trials: Sequence[Sequence[TrialConfiguration]]

    @property
    def development(self) -> DevelopmentSet:
        """Its films and folds."""
        return self.study.development

    @property
    def every_trial(self) -> list[TrialConfiguration]:
        """All configurations that may be trained."""
        return [trial for either in self.trials for trial in either]

    @property
    def batch_sizes(self) -> list[int]:
        """Those of all configurations that may be trained."""
        return [trial.batch_size for trial in self.every_trial]

    @property
    def training_films(self) -> list[int]:
        """How many films each fold trains on."""
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
        # The search would make it.
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
            left = load_parameters(database, known.id, states=UNFINISHED)
        if known is None or known.state != StudyState.DONE:
            earlier[configuration.name] = prepared
        plans.append(_Plan(prepared, prepared.development.fingerprint(), prepared.trials(left)))
    return plans


def _extraction(plans: Sequence[_Plan], clock: _Clock) -> ExtractionForecast:
    found = ExtractionForecast()
    known: set[tuple[str, BackboneConfiguration]] = set()
    for plan in plans:
        contents = plan.development.content
        backbones = dict.fromkeys(trial.backbone for trial in plan.every_trial if trial.features == "cached")
        for backbone in backbones:
            missing = {(content, backbone) for content in clock.cache(backbone, contents).missing(contents)}
            missing -= known
            if not missing:
                continue
            known |= missing
            times, startup = clock.extraction(backbone, contents)
            found = ExtractionForecast(
                found.films + len(missing),
                found.seconds + len(missing) * times.film,
                found.startup + startup,
                found.disk_bytes + len(missing) * FLIPS * times.width * FLOAT,
            )
    return found


def _kind(trial: TrialConfiguration) -> TrialConfiguration:
    """Return a trial with all that its speed does not depend on, or depends on in a known way, set to one value."""
    return replace(
        trial,
        batch_size=1,
        dropout_rate=0.25,
        learning_rate=1e-3,
        epsilon=1e-7,
        epochs=1,
        flips="both",
        backbone=BackboneConfiguration("random"),
        features="cached",
    )


class _Clock:
    """Times each kind of step once, however many studies take it.

    Args:
        home: where features lie.
        devices: one for each worker.
        batch_sizes: of all trials, whichever study they are of.
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
        """Time extraction in one process that has all cores, as it is done; return its start-up as well."""
        if backbone not in self._extraction:
            found, startup = side_by_side([self.devices[0].alone], self._extraction_task(backbone, contents))
            self._extraction[backbone] = (found[0], startup)
        return self._extraction[backbone]

    def cache(self, backbone: BackboneConfiguration, contents: Sequence[str]) -> FeatureCache:
        """Return the cache that the workers' devices share; which that is, the timed extraction says at the latest."""
        if backbone not in self._caches:
            folder = self._home.features
            known = FeatureCache.without_tensorflow(folder, backbone) if self.devices[0].on_processor else None
            self._caches[backbone] = known or FeatureCache(
                folder, backbone, self.extraction(backbone, contents)[0].kind
            )
        return self._caches[backbone]

    def seconds(self, plan: _Plan, trial: TrialConfiguration) -> float:
        """Return how long a trial takes while the other workers run theirs."""
        training = plan.training_films
        spent = self.training(plan, trial).trial(training, trial.batch_size, trial.epochs)
        if trial.features == "live":
            # Each epoch runs the backbone on every film: to train on it in all folds but one, to score it in that one.
            films = trial.epochs * len(training) * len(plan.development.content)
            spent += films * self._live_times(plan, trial.backbone).flip
        return spent

    def training(self, plan: _Plan, trial: TrialConfiguration) -> TrainingTimes:
        """Return how long the parts of a trial take: medians over one process a worker."""
        key = (plan.fingerprint, self._width(plan, trial), _kind(trial))
        if key not in self._training:
            environments = [device.environment for device in self.devices]
            task = _TrainingTask(plan.development, *key[1:], self._batch_sizes)
            found, self.startup = side_by_side(environments, task)
            self._training[key] = _median(found)
        return self._training[key]

    def artifact_bytes(self, plan: _Plan) -> int:
        """Return the size of one trial's stored scores."""
        return self.training(plan, plan.trials[0][0]).artifact_bytes if plan.trials else 0

    @property
    def worker_bytes(self) -> int:
        """The memory of the largest worker."""
        return self._live_bytes + max((times.memory_bytes for times in self._training.values()), default=0)

    def _width(self, plan: _Plan, trial: TrialConfiguration) -> int:
        if trial.features == "live":
            return self._live_times(plan, trial.backbone).width
        backbone, contents = trial.backbone, plan.development.content
        if backbone not in self._widths:
            cached = self.cache(backbone, contents).width()
            self._widths[backbone] = cached or self.extraction(backbone, contents)[0].width
        return self._widths[backbone]

    def _live_times(self, plan: _Plan, backbone: BackboneConfiguration) -> ExtractionTimes:
        """Time the backbone as workers run it: each on its own device, or its share of the cores."""
        if backbone not in self._live:
            contents = plan.development.content
            environments = [device.environment for device in self.devices]
            found, _ = side_by_side(environments, self._extraction_task(backbone, contents))
            self._live[backbone] = max(found, key=lambda times: times.flip)
            # Decoded films stay in memory.
            self._live_bytes = max(self._live_bytes, len(contents) * backbone.image_size**2 * FLOAT)
        return self._live[backbone]

    def _extraction_task(self, backbone: BackboneConfiguration, contents: Sequence[str]) -> _ExtractionTask:
        return _ExtractionTask(backbone, tuple(contents[:MICRO_BATCH]), self._home.film_index)


def _study(plan: _Plan, clock: _Clock) -> StudyForecast:
    each = [float(np.mean([clock.seconds(plan, trial) for trial in either])) for either in plan.trials]
    by_batch_size: list[tuple[int, float]] = []
    if plan.trials:
        first = plan.trials[0][0]
        sizes = timed_sizes(plan.batch_sizes, max(plan.training_films))
        by_batch_size = [(size, clock.seconds(plan, replace(first, batch_size=size))) for size in sizes]
    return StudyForecast(
        name=plan.study.configuration.name,
        points=len(plan.study.points),
        left=len(plan.trials),
        folds=plan.study.configuration.folds,
        epochs=plan.trials[0][0].epochs if plan.trials else 0,
        films=len(plan.development.content),
        by_batch_size=by_batch_size,
        largest_batch=max(plan.batch_sizes, default=0),
        trial_seconds=float(np.mean(each)) if each else 0.0,
        seconds=clock.startup + makespan(each, len(clock.devices)) if each else 0.0,
        open_source=plan.study.open_source,
    )


def _median(found: Sequence[TrainingTimes]) -> TrainingTimes:
    sizes = [size for size, _ in found[0].steps]
    return replace(
        found[0],
        steps=tuple((size, float(np.median([t.steps[i][1] for t in found]))) for i, size in enumerate(sizes)),
        scoring=float(np.median([t.scoring for t in found])),
        around=float(np.median([t.around for t in found])),
        memory_bytes=max(t.memory_bytes for t in found),
    )


@dataclass(frozen=True)
class _ExtractionTask:
    """Runs in a process of its own."""

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
    """Runs in a process of its own."""

    development: DevelopmentSet
    width: int
    trial: TrialConfiguration
    batch_sizes: Sequence[int]

    def prepare(self) -> Callable[[], TrainingTimes]:
        return TrainingTimer(self.development, self.width, self.trial, self.batch_sizes).measure
