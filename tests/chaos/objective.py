"""The stand-in objective of a round: sleeps, reports, stores an artifact, and returns what ``truth`` says."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from rust_optuna.search.ledger import Claim
from rust_optuna.worker.objective import OnEpoch, Outcome
from tests.chaos.truth import Truth, truth_of
from tests.reports import report

NAME = "tests.chaos.objective:run"
ARTIFACTS = "CHAOS_ARTIFACTS"
"""Environment variable: the folder of the artifacts."""


class NoLuckError(Exception):
    """An error of the objective's own."""


def run(trial: optuna.Trial) -> float:
    """Run a point as a function of its Optuna trial: what the command line takes as ``--objective``."""
    return _run(trial, trial.report)[0]


class ChaosObjective:
    """The same with all that the real objective does: epochs that may end it, a result, and a named artifact."""

    @classmethod
    def load(cls, name: str) -> ChaosObjective:
        """Stand where the program imports ``NAME``."""
        return cls()

    def runtime(self) -> dict[str, Any]:
        """Return what the program says of ``NAME``: workers of both kinds serve the same study."""
        return {"objective": f"STAND-IN {NAME}"}

    def prepare(self, design: Sequence[Mapping[str, Any]]) -> None:
        """Nothing is needed."""

    def pin(self) -> None:
        """Nothing was prepared."""

    def __call__(self, claim: Claim, trial: optuna.Trial, on_epoch: OnEpoch, *_: Callable[[], None]) -> Outcome:
        """Run the point."""
        value, artifact = _run(trial, lambda value, epoch: on_epoch(epoch, value))
        return Outcome(value, report(artifact=artifact), artifact)


def _run(trial: optuna.Trial, on_epoch: Callable[[float, int], None]) -> tuple[float, str]:
    distributions = trial.distributions
    truth = truth_of({name: value for name, value in trial.params.items() if not distributions[name].single()})
    point, attempt = trial.user_attrs["point"], trial.user_attrs["attempt"]
    if truth.may_fail and (truth.end == "hole" or attempt == 1):
        # A letter: a worker takes errors that differ in their numbers only for the same, and stops at the third.
        raise NoLuckError(f"at point {chr(ord('A') + point)}")
    _train(truth, on_epoch)
    if truth.value is None:
        raise optuna.TrialPruned
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"point-{point}-attempt-{attempt}.txt"
        path.write_text(f"{truth.value}\n" * 50)
        store = FileSystemArtifactStore(os.environ[ARTIFACTS])
        return truth.value, upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)


def _train(truth: Truth, report: Callable[[float, int], None]) -> None:
    """Let the time of the training pass: that is what crashes are to fall into."""
    for epoch in range(1, truth.epochs + 1):
        time.sleep(truth.seconds / truth.epochs)
        report(epoch / 10, epoch)
