"""Run as a script: a process whose memory ends at 60 MB more than it takes, and a trial that needs more.

Started without oneDNN, some of whose kernels use buffers without asking whether they got them: where those do not fit,
the process dies, and its point is another worker's.
"""

import resource
from dataclasses import replace

import numpy as np
import tensorflow  # noqa: F401 (before rust_optuna, which switches oneDNN on for what is not loaded yet)

from rust_optuna.config import TrialConfiguration
from rust_optuna.learn.cross_validation import cross_validate
from rust_optuna.learn.features import Features
from rust_optuna.learn.sources import CachedFeatures
from rust_optuna.worker.memory import MicroBatch
from tests.learn.material import BACKBONE, hashes, make_development

FILMS, UNITS, SPARE = 9000, 4096, 60 * 2**20
"""A batch of 6,000 films takes 98 MB for each of several tensors of a step."""


def main():
    """Print the trial's micro-batch and how many epochs its curve has."""
    development = make_development(hashes(FILMS))
    table = np.random.default_rng(0).standard_normal((FILMS, 4, 64)).astype(np.float32)
    source = CachedFeatures(Features(table, "made up"))
    trial = TrialConfiguration(
        batch_size=6144,
        dropout_rate=0.3,
        learning_rate=1e-3,
        epsilon=1e-7,
        backbone=BACKBONE,
        epochs=2,
        hidden_units=(UNITS,),
    )

    def run(micro_batch, trial=trial):
        return cross_validate(
            development, source, trial, seed=1, point=0, on_epoch=lambda *_: None, micro_batch=micro_batch
        )

    # TensorFlow's own memory, and that of its programs, is taken before the limit is set.
    for micro_batch in (None, 8):
        run(micro_batch, replace(trial, batch_size=16, epochs=1))
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE, resource.RLIM_INFINITY))
    report = MicroBatch().run(run, 6000).report
    print(report.micro_batch, len(report.curve))


if __name__ == "__main__":
    main()
