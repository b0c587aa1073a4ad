"""What a complete trial reports, as the database and Optuna's trial keep it. TensorFlow is not needed to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rust_optuna.data.scores import AveragePrecisions, Scores


@dataclass(frozen=True)
class BatchSizes:
    """The batch size of a trial.

    Args:
        asked: by the design point.
        trained: in each fold; a training fold that is smaller than what was asked is one batch.
    """

    asked: int
    trained: tuple[int, ...]


@dataclass(frozen=True)
class Seeds:
    """What decided a trial's random numbers.

    Args:
        study: the study's seed.
        point: the design point's number.
        folds: each fold's seed, a hash of the study's seed, the point and the fold.
    """

    study: int
    point: int
    folds: tuple[int, ...]


@dataclass(frozen=True)
class Threads:
    """How many threads a trial was computed on; no number depends on it.

    Args:
        operation: threads of one operation.
        folds: folds that trained at once.
    """

    operation: int
    folds: int


@dataclass(frozen=True)
class TrialReport:
    """Every number that is kept of a complete trial, a few kilobytes of JSON.

    Args:
        epoch: the epoch, from 1, of the curve's highest point; the first of equals.
        value: the curve's highest point. It is a selection score, because it chose the epoch.
        curve: after each epoch, the mean over the folds of average precision.
        fold_values: each fold's average precision at ``epoch``.
        diverged_folds: the folds whose loss, scores or weights stopped being finite.
        scores: of the out-of-fold scores at ``epoch``.
        baseline: the same of a model that sees nothing but a film's view.
        labels_left_out: for each fold, the labels without a positive film, which its averages leave out.
        batch_size: asked for and trained with.
        seeds: of the study, the point and the folds.
        features_sha256: of the features that it trained on, or of the films of networks trained end to end.
        device: what computed it.
        host: the name of the machine.
        versions: of Python and the libraries, by package.
        seconds: how long it took.
        untied_baseline: average precision of the baseline, with its ties broken at random.
        micro_batch: the most films that were computed at a time, where that was less than a batch; else None.
        arithmetic: the kind of arithmetic.
        threads: how many there were.
        weights: identify the backbone's weights; None until the objective adds them.
        artifact: the identifier of the stored out-of-fold scores; None until the objective has stored them.

    What has a default may also be None because the report is of an earlier version, which did not write it.
    """

    epoch: int
    value: float
    curve: tuple[float, ...]
    fold_values: tuple[float, ...]
    diverged_folds: tuple[int, ...]
    scores: Scores
    baseline: Scores
    labels_left_out: tuple[tuple[str, ...], ...]
    batch_size: BatchSizes
    seeds: Seeds
    features_sha256: str
    device: str
    host: str
    versions: Mapping[str, str]
    seconds: float
    untied_baseline: AveragePrecisions | None = None
    micro_batch: int | None = None
    arithmetic: str | None = None
    threads: Threads | None = None
    weights: str | None = None
    artifact: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether any fold diverged."""
        return bool(self.diverged_folds)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TrialReport:
        """Return what `to_json` wrote, in this version or in an earlier one."""
        sizes, seeds = document["batch_size"], document["seeds"]
        untied, threads = document.get("baseline_view_only_untied"), document.get("threads")
        return cls(
            epoch=document["epoch"],
            value=document["value"],
            curve=tuple(document["curve"]),
            fold_values=tuple(document["fold_values"]),
            diverged_folds=tuple(document["diverged_folds"]),
            scores=Scores.from_json(document),
            baseline=Scores.from_json(document["baseline_view_only"]),
            untied_baseline=None if untied is None else AveragePrecisions.from_json(untied),
            labels_left_out=tuple(tuple(labels) for labels in document["labels_left_out"]),
            batch_size=BatchSizes(sizes["asked"], tuple(sizes["trained"])),
            micro_batch=document.get("micro_batch"),
            seeds=Seeds(seeds["study"], seeds["point"], tuple(seeds["folds"])),
            features_sha256=document["features_sha256"],
            arithmetic=document.get("arithmetic"),
            threads=None if threads is None else Threads(threads["operation"], threads["folds"]),
            device=document["device"],
            host=document["host"],
            versions=document["versions"],
            seconds=document["seconds"],
            weights=document.get("weights"),
            artifact=document.get("artifact"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold: the document that the database and Optuna's trial keep."""
        untied, threads = self.untied_baseline, self.threads
        return {
            "epoch": self.epoch,
            "value": self.value,
            "curve": list(self.curve),
            "fold_values": list(self.fold_values),
            "diverged": self.diverged,
            "diverged_folds": list(self.diverged_folds),
            **self.scores.to_json(),
            "baseline_view_only": self.baseline.to_json(),
            "baseline_view_only_untied": None if untied is None else untied.to_json(),
            "labels_left_out": [list(labels) for labels in self.labels_left_out],
            "batch_size": {"asked": self.batch_size.asked, "trained": list(self.batch_size.trained)},
            "micro_batch": self.micro_batch,
            "seeds": {"study": self.seeds.study, "point": self.seeds.point, "folds": list(self.seeds.folds)},
            "features_sha256": self.features_sha256,
            "arithmetic": self.arithmetic,
            "threads": None if threads is None else {"operation": threads.operation, "folds": threads.folds},
            "device": self.device,
            "host": self.host,
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "weights": self.weights,
            "artifact": self.artifact,
        }
