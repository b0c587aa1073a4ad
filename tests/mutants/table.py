"""What is mutated, and which tests belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COPIED = ("rust_optuna", "tests", "benchmarks", "docs", "studies", "pyproject.toml", "README.md")
"""What a copy of the working tree holds: all that these tests read."""
DATABASES = ("RUST_OPTUNA_TEST_POSTGRESQL", "RUST_OPTUNA_TEST_MARIADB")
"""Where these are set, tests run on those databases too, and may catch what SQLite alone does not."""

MUTATED = (
    "rust_optuna/learn/*.py",
    "rust_optuna/data/folds.py",
    "rust_optuna/data/metrics.py",
    "rust_optuna/data/scores.py",
    "rust_optuna/data/split.py",
    "rust_optuna/search/ledger.py",
    "rust_optuna/worker/objective.py",
)
"""Every module that matches has a row in `TESTS`, unless it holds nothing but a docstring."""

TESTS: dict[str, tuple[str, ...]] = {
    "rust_optuna/data/folds.py": ("tests/data/test_folds.py", "tests/data/test_split.py"),
    "rust_optuna/data/metrics.py": ("tests/data/test_metrics.py",),
    "rust_optuna/data/scores.py": ("tests/data/test_scores.py",),
    "rust_optuna/data/split.py": ("tests/data/test_split.py", "tests/data/test_patients.py"),
    "rust_optuna/learn/arithmetic.py": ("tests/learn/test_arithmetic.py",),
    "rust_optuna/learn/backbone.py": ("tests/learn/test_backbone.py", "tests/learn/test_extraction.py"),
    "rust_optuna/learn/cross_validation.py": (
        "tests/learn/test_cross_validation.py",
        "tests/learn/test_lift.py",
        "tests/learn/test_reference.py",
    ),
    "rust_optuna/learn/end_to_end.py": ("tests/learn/test_end_to_end.py", "tests/worker/test_end_to_end.py"),
    "rust_optuna/learn/end_to_end_program.py": ("tests/learn/test_end_to_end.py",),
    "rust_optuna/learn/end_to_end_timing.py": ("tests/learn/test_end_to_end_timing.py",),
    "rust_optuna/learn/extraction.py": (
        "tests/learn/test_extraction.py",
        "tests/learn/test_feature_cache.py",
        "tests/learn/test_live_equals_cached.py",
    ),
    "rust_optuna/learn/features.py": (
        "tests/learn/test_feature_cache.py",
        "tests/learn/test_live_equals_cached.py",
    ),
    "rust_optuna/learn/fitting.py": ("tests/learn/test_fitting.py", "tests/worker/test_end_to_end.py"),
    "rust_optuna/learn/fold_report.py": ("tests/learn/test_fold_report.py",),
    "rust_optuna/learn/head.py": (
        "tests/learn/test_head.py",
        "tests/learn/test_training.py",
        "tests/learn/test_reference.py",
        "tests/learn/test_cross_validation.py",
    ),
    "rust_optuna/learn/inception.py": ("tests/learn/test_end_to_end.py",),
    "rust_optuna/learn/lenet.py": ("tests/learn/test_end_to_end.py",),
    "rust_optuna/learn/network.py": ("tests/learn/test_end_to_end.py",),
    "rust_optuna/learn/pipeline.py": ("tests/learn/test_pixels.py", "tests/learn/test_end_to_end.py"),
    "rust_optuna/learn/pixels.py": ("tests/learn/test_pixels.py",),
    "rust_optuna/learn/program.py": (
        "tests/learn/test_training.py",
        "tests/learn/test_dropout_masks.py",
        "tests/learn/test_micro_batches.py",
        "tests/learn/test_reference.py",
    ),
    "rust_optuna/learn/pruned_report.py": ("tests/learn/test_pruned_report.py",),
    "rust_optuna/learn/runtime.py": (
        "tests/learn/test_runtime.py",
        "tests/learn/test_backbone.py",
        "tests/learn/test_extraction.py",
    ),
    "rust_optuna/learn/sources.py": (
        "tests/learn/test_training.py",
        "tests/learn/test_cross_validation.py",
        "tests/learn/test_live_equals_cached.py",
    ),
    "rust_optuna/learn/threads.py": ("tests/learn/test_threads.py", "tests/learn/test_cross_validation.py"),
    "rust_optuna/learn/timing.py": ("tests/learn/test_timing.py", "tests/run/test_forecast.py"),
    "rust_optuna/learn/trainers.py": ("tests/worker/test_end_to_end.py", "tests/learn/test_cross_validation.py"),
    "rust_optuna/learn/training.py": (
        "tests/learn/test_training.py",
        "tests/learn/test_cross_validation.py",
        "tests/learn/test_micro_batches.py",
        "tests/learn/test_leaks.py",
        "tests/learn/test_reference.py",
        "tests/worker/test_trained_values.py",
    ),
    "rust_optuna/learn/trial_report.py": ("tests/learn/test_trial_report.py",),
    "rust_optuna/learn/weights.py": ("tests/learn/test_backbone.py",),
    "rust_optuna/search/ledger.py": ("tests/search/test_ledger.py", "tests/search/test_mirror.py"),
    "rust_optuna/worker/objective.py": (
        "tests/worker/test_objective.py",
        "tests/search/test_pins.py",
        "tests/worker/test_worker.py::test_other_weights_than_the_studys_are_refused",
        "tests/worker/test_changed_weights.py",
        "tests/worker/test_trained_values.py",
        "tests/worker/test_memory.py::test_an_objective_out_of_memory_completes_in_micro_batches_and_says_so",
    ),
}
"""The tests of each module, the quickest first: a mutant's tests end at the first that fails."""


@dataclass(frozen=True)
class Subject:
    """What is mutated.

    Args:
        root: the working tree; never written to.
        tests: the test files of each module, both as paths below the root.
        copied: the files and folders that a copy of the working tree needs.
    """

    root: Path
    tests: Mapping[str, Sequence[str]]
    copied: Sequence[str]


def this_project() -> Subject:
    """Return this working tree with the tables above."""
    return Subject(Path(__file__).resolve().parents[2], TESTS, COPIED)


def modules_to_mutate(root: Path) -> list[str]:
    """Return the modules that `MUTATED` names, but for packages' empty ``__init__.py``."""
    found = [path for pattern in MUTATED for path in root.glob(pattern)]
    return sorted(path.relative_to(root).as_posix() for path in found if path.name != "__init__.py")
