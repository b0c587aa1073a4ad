"""The objective of a study whose points are folds: from a fold's number to its trained head."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable
from typing import Any, ClassVar

import optuna

from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.cross_validation import FoldCurve, fold_seed, save_fold_curve, validate_fold
from rust_optuna.learn.fitting import fit_fold, save_fold
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.learn.runtime import describe_device, versions
from rust_optuna.learn.trainers import computed_at_a_time
from rust_optuna.learn.weights import trial_weights_identity
from rust_optuna.search.ledger import Claim
from rust_optuna.worker.objective import CrossValidationObjective, OnAdvance, OnEpoch, Outcome


class FoldObjective(CrossValidationObjective):
    """One fold of a final model: its value is the average precision on the films left out, after the last epoch.

    Films, features and weights are made ready as for a search.
    """

    train: ClassVar[Callable[..., Any]] = staticmethod(fit_fold)
    """What trains a fold, and what writes its result into a file."""
    save: ClassVar[Callable[..., None]] = staticmethod(save_fold)

    def __call__(self, claim: Claim, trial: optuna.Trial, on_epoch: OnEpoch, on_advance: OnAdvance) -> Outcome:
        """Train the fold's head, and store it with the scores of the films that it did not see.

        Out of memory, it begins anew in micro-batches, as a trial of a search does.
        """
        started = time.monotonic()
        configuration = self.study.trial_configuration(claim.parameters, self.home)
        source = self.source(configuration)
        fold, repeat = int(claim.parameters["fold"]), int(claim.parameters.get("repeat", 0))
        seed = fold_seed(self.study.configuration.seed, repeat, fold)
        used: list[int | None] = []

        def run(micro_batch: int | None) -> Any:
            used.append(computed_at_a_time(configuration, micro_batch))
            return self.train(
                self.development,
                source,
                configuration,
                fold=fold,
                seed=seed,
                on_epoch=on_epoch,
                on_advance=on_advance,
                micro_batch=micro_batch,
            )

        trained = int((self.development.folds != fold).sum())
        done = self.within_memory(run, configuration, trained)
        artifact = self._upload(functools.partial(self.save, result=done), claim, trial)
        report = FoldReport(
            epoch=configuration.epochs,
            value=done.value,
            curve=done.curve,
            seed=seed,
            features_sha256=source.sha256,
            arithmetic=arithmetic(configuration.training_precision),
            device=describe_device(),
            host=platform.node(),
            versions=versions(),
            seconds=round(time.monotonic() - started, 3),
            weights=trial_weights_identity(configuration),
            artifact=artifact,
            micro_batch=used[-1],
            **self.reported(done),
        )
        return Outcome(done.value, report, artifact)

    @staticmethod
    def reported(done: Any) -> dict[str, Any]:
        """Return the entries of the report that only this kind of study has."""
        return {"head_sha256": done.head.sha256}


class ComparedFoldObjective(FoldObjective):
    """One fold of a configuration that is compared with others, with its scores after every epoch.

    Its value is the average precision on the films left out after the last epoch: which epoch counts is decided by the
    mean over all folds.
    """

    train = staticmethod(validate_fold)
    save = staticmethod(save_fold_curve)

    @staticmethod
    def reported(done: FoldCurve) -> dict[str, Any]:
        """Return the entries of the report that only a comparison has."""
        return {"head_sha256": None, "curve_16": done.curve_16, "diverged": done.diverged}
