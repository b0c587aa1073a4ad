"""The objective: it turns a design point into a value, and stores everything that is kept of the trial."""

from __future__ import annotations

import functools
import importlib
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna

from rust_optuna.config import BackboneConfiguration, TrialConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.errors import FingerprintError, InvalidValueError, MissingExtraError
from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.cross_validation import CrossValidation, cross_validate, save_out_of_fold
from rust_optuna.learn.end_to_end import END_TO_END_VERSION, check_start
from rust_optuna.learn.extraction import Extractor, extraction_identity, extraction_versions
from rust_optuna.learn.features import FeatureCache
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.learn.pixels import PixelFile, Pixels, pixels_identity
from rust_optuna.learn.pruned_report import PrunedReport
from rust_optuna.learn.runtime import training_versions
from rust_optuna.learn.sources import CachedFeatures, FeatureSource, LiveFeatures
from rust_optuna.learn.trainers import Source
from rust_optuna.learn.trial_report import TrialReport
from rust_optuna.learn.weights import trial_weights_identity, trial_weights_scheme, weights_scheme
from rust_optuna.paths import Home
from rust_optuna.search.ledger import Claim
from rust_optuna.search.pins import FeaturePins, PinnedFeatures, sampled
from rust_optuna.search.studies import Study
from rust_optuna.storage.artifacts import ArtifactStore
from rust_optuna.worker.building import check_sample, fill_cache
from rust_optuna.worker.memory import MicroBatch, Result, run_as_asked

Progress = Callable[[int, int], None]
OnEpoch = Callable[[int, float], None]
OnAdvance = Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an objective for one point.

    Args:
        value: a finite number; None only for a trial that was pruned before its first intermediate value.
        report: the report that is stored with the trial; None for a stand-in. A pruned trial's is its curve.
        artifact: the identifier of the stored out-of-fold scores; None for a stand-in.
    """

    value: float | None
    report: TrialReport | FoldReport | PrunedReport | None = None
    artifact: str | None = None


class Objective(Protocol):
    """The function from a claimed point to its value, with what a worker must do before the first point."""

    def runtime(self) -> dict[str, Any]:
        """Return the names and versions that must be equal for all workers of a study."""

    def prepare(self, design: Sequence[Mapping[str, Any]]) -> None:
        """Make sure that this machine can run the points of a design, before the worker claims one."""

    def pin(self) -> None:
        """Record in the database what was prepared. Call it once this worker is known to fit the study.

        Raises:
            FingerprintError: other workers of the study prepared something else.
        """

    def __call__(self, claim: Claim, trial: optuna.Trial, on_epoch: OnEpoch, on_advance: OnAdvance) -> Outcome:
        """Run the point.

        Args:
            claim: the claimed point.
            trial: the Optuna trial that shows the point.
            on_epoch: a callback for each intermediate value, which may raise to end the trial. A trial that ran out of
                memory starts again, and then calls it a second time for the same epochs.
            on_advance: a callback for signs of life within an epoch.

        Raises:
            OutOfMemoryError: memory does not suffice for the point.
        """


def cross_validation_runtime(*, end_to_end: bool = False) -> dict[str, Any]:
    """Return the versions that determine the real objective's numbers, as extraction and training declare them.

    Args:
        end_to_end: whether every layer is trained.

    Raises:
        MissingExtraError: TensorFlow or Keras is not installed.
    """
    versions = {**training_versions(), **extraction_versions()}
    if end_to_end:
        versions["end_to_end"] = END_TO_END_VERSION
    for package in ("tensorflow", "keras"):
        if package not in versions:
            raise MissingExtraError(package, "cpu")
    return {"objective": "cross-validation", **versions}


def check_weights(study: Study, backbone: BackboneConfiguration) -> None:
    """Compare a backbone's weights on this machine with those that the study was created with.

    Raises:
        FingerprintError: the weights differ.
        WeightsError: the weights are missing.
    """
    _check_weights(study, weights_scheme(backbone), backbone.weights)


def _check_weights(study: Study, scheme: str, weights: str) -> None:
    if scheme not in study.fingerprint.weights:
        raise FingerprintError(
            f"The weights {weights!r} on this machine are not those that {study.name} was created with: put the same "
            "file here"
        )


@dataclass
class CrossValidationObjective:
    """The real objective: the mean average precision of a cross-validation.

    Features, or films for training end to end, are loaded at first use and kept, and all points with the same backbone
    share them.

    Args:
        study: the study whose points are run.
        development: the study's films.
        home: the home with the feature cache and the film index.
        store: the artifact store for the out-of-fold scores.
        progress: a callback for each film whose features are computed.
        data_root: the folder that is searched for films that the film index lacks; None for no folder.
        patiently: a function that calls another, which uses the database, and retries while the database is away, so
            that a trial is not lost at its last step.
        pins: the features of the study's other workers; None to skip the comparison.
        on_hashed: a callback for each file in ``data_root`` that is hashed.
    """

    study: Study
    development: DevelopmentSet
    home: Home
    store: ArtifactStore
    progress: Progress | None = None
    data_root: Path | None = None
    patiently: Callable[[Callable[[], str]], str] = lambda function: function()
    pins: FeaturePins | None = None
    on_hashed: Progress | None = None
    _micro_batch: MicroBatch = field(default_factory=MicroBatch)
    _sources: dict[tuple[BackboneConfiguration, str], FeatureSource] = field(default_factory=dict)
    _films: dict[Path, tuple[BackboneConfiguration, Pixels]] = field(default_factory=dict)

    def runtime(self) -> dict[str, Any]:
        """Return `cross_validation_runtime`."""
        return cross_validation_runtime(end_to_end=self.study.end_to_end)

    def prepare(self, design: Sequence[Mapping[str, Any]]) -> None:
        """Compare the weights with those that the study was created with, and compute the features that are missing.

        If other workers have pinned features, a sample is compared before the shared cache is filled.

        Raises:
            FingerprintError: the weights or the features differ from the study's.
            DataError: films are not on this machine, or have changed.
            WeightsError: the weights are missing or do not fit.
        """
        trials = [self.study.trial_configuration(point, self.home) for point in design]
        # One of each kind: whatever else the points differ in, they are trained on the same.
        kinds = {(trial.backbone, trial.architecture, trial.train, trial.features): trial for trial in trials}
        for trial in kinds.values():
            _check_weights(self.study, trial_weights_scheme(trial), trial.backbone.weights)
        for trial in kinds.values():
            if trial.end_to_end:
                check_start(trial)
            self.source(trial)

    def __call__(self, claim: Claim, trial: optuna.Trial, on_epoch: OnEpoch, on_advance: OnAdvance) -> Outcome:
        """Cross-validate the point and store its out-of-fold scores.

        A trial that runs out of memory starts again in micro-batches, with the same training and the same seeds, unless
        it trains end to end. The result states the micro-batch size.
        """
        configuration = self.study.trial_configuration(claim.parameters, self.home)
        source = self.source(configuration)

        def run(micro_batch: int | None) -> CrossValidation:
            return cross_validate(
                self.development,
                source,
                configuration,
                seed=self.study.configuration.seed,
                point=claim.number,
                on_epoch=on_epoch,
                on_advance=on_advance,
                micro_batch=micro_batch,
            )

        _, validated = np.unique(self.development.folds, return_counts=True)
        trained = len(self.development.folds) - int(validated.min())
        validation = self.within_memory(run, configuration, trained)
        artifact = self._upload(functools.partial(save_out_of_fold, result=validation), claim, trial)
        weights = trial_weights_identity(configuration)
        report = replace(validation.report, weights=weights, artifact=artifact)
        return Outcome(report.value, report, artifact)

    def within_memory(self, run: Callable[[int | None], Result], trial: TrialConfiguration, films: int) -> Result:
        """Run a trial, which may run out of memory.

        Args:
            run: a function that runs it with a micro-batch size; None means that of the trial, or whole batches.
            trial: its configuration.
            films: the number of films that it trains on.

        Raises:
            OutOfMemoryError: memory does not suffice.
        """
        if trial.end_to_end:
            return run_as_asked(functools.partial(run, None), trial.micro_batch)
        return self._micro_batch.run(run, min(trial.batch_size, films))

    def _upload(self, save: Callable[[Path], None], claim: Claim, trial: optuna.Trial) -> str:
        """Store the file that ``save`` writes as an artifact of the Optuna trial; return the artifact's identifier."""
        # It imports boto3 wherever that is installed, so not before it is needed.
        from optuna.artifacts import upload_artifact

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"point-{claim.number}-attempt-{claim.attempt}.npz"
            save(path)
            return self.patiently(
                lambda: upload_artifact(artifact_store=self.store, file_path=str(path), study_or_trial=trial)
            )

    def pin(self) -> None:
        """Record which features this worker trains on, and compare them with those of other workers.

        Raises:
            FingerprintError: the features differ.
        """
        if self.pins is None:
            return
        for (backbone, _), source in self._sources.items():
            kind = arithmetic(backbone.extraction_precision)
            sample = source.table()[sampled(source.films)]
            self.pins.pin(extraction_identity(backbone), PinnedFeatures(kind, source.sha256, sample))
        for backbone, pixels in self._films.values():
            identity = {**pixels_identity(backbone), "precision": "float32"}
            films, _ = sampled(pixels.films)
            self.pins.pin(identity, PinnedFeatures(arithmetic("float32"), pixels.sha256, pixels.means(films)))

    def source(self, trial: TrialConfiguration) -> Source:
        """Return what a trial is trained on, which is computed or decoded at first use."""
        if not trial.end_to_end:
            return self._source(trial.backbone, trial.features)
        file = PixelFile(self.home.pixels, trial.backbone, self.development.content)
        if file.path not in self._films:
            index = FilmIndex(self.home.film_index)
            with index.naming():
                pixels = file.load() or self._decode(file, index)
            self._films[file.path] = (trial.backbone, pixels)
        return self._films[file.path][1]

    def _decode(self, file: PixelFile, index: FilmIndex) -> Pixels:
        contents = self.development.content
        if self.data_root is not None:
            index.scan(self.data_root, contents, self.on_hashed)
        index.require(contents)
        return file.build(index.read, self.progress)

    def _source(self, backbone: BackboneConfiguration, features: str) -> FeatureSource:
        key = (backbone, features)
        if key not in self._sources:
            index = FilmIndex(self.home.film_index)
            with index.naming():
                make = self._live if features == "live" else self._cached
                self._sources[key] = make(backbone, index)
        return self._sources[key]

    def _live(self, backbone: BackboneConfiguration, index: FilmIndex) -> LiveFeatures:
        contents = self.development.content
        if self.data_root is not None:
            index.scan(self.data_root, contents, self.on_hashed)
        index.require(contents)
        extractor = Extractor(backbone)
        check_sample(extractor, contents, index, self.pins)
        live = LiveFeatures(extractor, contents, index.read)
        # This happens before a point is claimed: during a trial it would look as if the trial did not advance.
        live.complete(self.progress)
        return live

    def _cached(self, backbone: BackboneConfiguration, index: FilmIndex) -> CachedFeatures:
        contents = self.development.content
        cache = FeatureCache(self.home.features, backbone)
        fill_cache(
            cache,
            contents,
            index,
            pins=self.pins,
            data_root=self.data_root,
            progress=self.progress,
            on_hashed=self.on_hashed,
        )
        return CachedFeatures(cache.load(contents))


@dataclass(frozen=True)
class StandInObjective:
    """A replacement for the real objective, for tests and benchmarks of everything around it.

    Args:
        name: the function's name, ``MODULE:FUNCTION``.
        function: an Optuna objective, which takes an ``optuna.Trial`` and returns a number.
    """

    name: str
    function: Callable[[optuna.Trial], float]

    @classmethod
    def load(cls, name: str) -> StandInObjective:
        """Import a stand-in from the current directory or the installed packages.

        Raises:
            RustOptunaError: there is no such module or function.
        """
        module, _, function = name.partition(":")
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            return cls(name, getattr(importlib.import_module(module), function))
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidValueError(f"No objective {name!r}; name one as MODULE:FUNCTION: {error}") from error

    def runtime(self) -> dict[str, Any]:
        """Return the stand-in's name, which marks its values as unreal wherever they are shown."""
        return {"objective": f"STAND-IN {self.name}"}

    def prepare(self, design: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing, because a stand-in needs nothing."""

    def pin(self) -> None:
        """Do nothing, because nothing was prepared."""

    def __call__(self, claim: Claim, trial: optuna.Trial, on_epoch: OnEpoch, on_advance: OnAdvance) -> Outcome:
        """Call the function with the Optuna trial, to which it may report by itself."""
        value = float(self.function(trial))
        if not math.isfinite(value):
            raise ValueError(f"the objective returned {value!r}, which is not finite")
        return Outcome(value)
