"""The objective of a study whose points are folds: from a fold's number to its trained head."""

from __future__ import annotations

import functools
import platform
import time

import optuna

from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.cross_validation import fold_seed
from rust_optuna.learn.fitting import EndToEndFold, FittedFold, fit_fold, fit_fold_end_to_end, save_fold
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.learn.pixels import Pixels
from rust_optuna.learn.runtime import describe_device, versions
from rust_optuna.learn.trainers import computed_at_a_time
from rust_optuna.learn.weights import trial_weights_identity
from rust_optuna.search.ledger import Claim
from rust_optuna.worker.objective import CrossValidationObjective, OnAdvance, OnEpoch, Outcome


class FoldObjective(CrossValidationObjective):
    """One fold of a final model: its value is the average precision on the films left out, after the last epoch.

    Films, features and weights are made ready as for a search.
    """

    def __call__(self, claim: Claim, trial: optuna.Trial, on_epoch: OnEpoch, on_advance: OnAdvance) -> Outcome:
        """Train the fold's head, and store it with the scores of the films that it did not see.

        Out of memory, it begins anew in micro-batches, as a trial of a search does. Of a network that is trained end to
        end only the scores are stored.
        """
        started = time.monotonic()
        configuration = self.study.trial_configuration(claim.parameters, self.home)
        source = self.source(configuration)
        fold, repeat = int(claim.parameters["fold"]), int(claim.parameters["repeat"])
        seed = fold_seed(self.study.configuration.seed, repeat, fold)
        used: list[int | None] = []

        def run(micro_batch: int | None) -> FittedFold | EndToEndFold:
            used.append(computed_at_a_time(configuration, micro_batch))
            if isinstance(source, Pixels):
                return fit_fold_end_to_end(
                    self.development,
                    source,
                    configuration,
                    fold=fold,
                    seed=seed,
                    on_epoch=on_epoch,
                    on_advance=on_advance,
                )
            return fit_fold(
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
        fitted = self.within_memory(run, configuration, trained)
        artifact = self._upload(functools.partial(save_fold, result=fitted), claim, trial)
        report = FoldReport(
            epoch=configuration.epochs,
            value=fitted.value,
            curve=fitted.curve,
            seed=seed,
            head_sha256=fitted.sha256,
            features_sha256=source.sha256,
            arithmetic=arithmetic(configuration.training_precision),
            device=describe_device(),
            host=platform.node(),
            versions=versions(),
            seconds=round(time.monotonic() - started, 3),
            weights=trial_weights_identity(configuration),
            artifact=artifact,
            micro_batch=used[-1],
        )
        return Outcome(fitted.value, report, artifact)
