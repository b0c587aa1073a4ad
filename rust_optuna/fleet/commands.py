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
        grace: seconds in which a worker told to stop may finish its point.
        forever: serve whatever study is open, and never end by itself.
        log_format: ``text`` or ``json``.
        data_root: the folder of the films on this machine, None for where the film index says.
        objective: ``MODULE:FUNCTION`` of a stand-in.
    """

    grace: float = GRACE_SECONDS
    forever: bool = False
    log_format: str = "text"
    data_root: Path | None = None
    objective: str | None = None


def program(words: Sequence[str]) -> list[str]:
    """Return the command line that runs this program, with these words, in a new process."""
    return [sys.executable, "-m", "rust_optuna", *words]


def worker_run(names: Sequence[str], options: WorkerOptions) -> list[str]:
    """Return the words of a worker that serves these studies, or all open ones where there are none."""
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
    """Return the words of a supervisor in the background.

    Args:
        names: its studies; none for all open ones.
        options: of its workers.
        choice: on which devices they run.
        engine: ``local`` or ``ray``.
        address: of a Ray cluster, if one is named.
        detached: the name under which the supervisor registers.
    """
    words = ["worker", "start", "--gpus", choice.gpus, "--engine", engine, "--detached", detached]
    words += ["--per-gpu", str(choice.per_gpu)] if choice.per_gpu else []
    words += ["--workers", str(choice.workers)] if choice.workers else []
    words += ["--address", address] if address else []
    return [*words, *_shared(names, options)]


def features_build(study: str, data_root: Path | None) -> list[str]:
    """Return the words that compute the features of a study; None for films where the film index says."""
    return ["features", "build", study, *(["--data-root", str(data_root)] if data_root else [])]


def _shared(names: Sequence[str], options: WorkerOptions) -> list[str]:
    words = ["--grace", str(options.grace), "--log-format", options.log_format]
    words += ["--forever"] if options.forever else []
    words += ["--data-root", str(options.data_root)] if options.data_root else []
    words += ["--objective", options.objective] if options.objective else []
    return [*words, *(["--", *names] if names else [])]
