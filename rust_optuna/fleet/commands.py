"""The command lines by which this program starts itself in new processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.processes import GRACE_SECONDS


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """The options that ``worker run`` and ``worker start`` have in common.

    Args:
        grace: seconds in which a stopping worker may finish its point.
        forever: whether to serve every study that is open, and never end without being stopped.
        log_format: ``text`` or ``json``.
        data_root: the folder in which to look for films that are not where the film index says; None to look nowhere.
        objective: ``MODULE:FUNCTION`` of a stand-in objective; None for the real one.
    """

    grace: float = GRACE_SECONDS
    forever: bool = False
    log_format: str = "text"
    data_root: Path | None = None
    objective: str | None = None


def program(words: Sequence[str]) -> list[str]:
    """Return the command line that runs this program with the given words in a new process."""
    return [sys.executable, "-m", "rust_optuna", *words]


def worker_run(names: Sequence[str], options: WorkerOptions) -> list[str]:
    """Return the words that run a worker of the named studies, or of all open studies if none is named."""
    return ["worker", "run", *_shared(names, options)]


def worker_start(
    names: Sequence[str],
    options: WorkerOptions,
    choice: DeviceChoice,
    *,
    engine: str,
    address: str | None,
    detached: str,
) -> list[str]:
    """Return the words that run a supervisor in the background.

    Args:
        names: the studies to serve; an empty sequence for all open ones.
        options: the options of its workers.
        choice: the devices on which the workers run.
        engine: ``local`` or ``ray``.
        address: the address of a Ray cluster, or None.
        detached: the name under which the supervisor registers.
    """
    words = ["worker", "start", "--gpus", choice.gpus, "--engine", engine, "--detached", detached]
    words += ["--per-gpu", str(choice.per_gpu)] if choice.per_gpu else []
    words += ["--workers", str(choice.workers)] if choice.workers else []
    words += ["--address", address] if address else []
    return [*words, *_shared(names, options)]


def features_build(study: str, data_root: Path | None) -> list[str]:
    """Return the words that compute the features of a study.

    Args:
        study: the name of the study.
        data_root: the folder in which to look for films that are not where the film index says; None to look nowhere.
    """
    return ["features", "build", study, *(["--data-root", str(data_root)] if data_root else [])]


def _shared(names: Sequence[str], options: WorkerOptions) -> list[str]:
    words = ["--grace", str(options.grace), "--log-format", options.log_format]
    words += ["--forever"] if options.forever else []
    words += ["--data-root", str(options.data_root)] if options.data_root else []
    words += ["--objective", options.objective] if options.objective else []
    return [*words, *(["--", *names] if names else [])]
