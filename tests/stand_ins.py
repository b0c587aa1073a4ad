"""Stand-in objectives: what workers run in tests of everything around a trial."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import optuna

from rust_optuna.processes import ExitCode

GATE = "RUST_OPTUNA_TEST_GATE"
"""Environment variable: the folder in which `gated` says that it began, and waits for a file named `open`."""


def peak(trial: optuna.Trial) -> float:
    """Highest at dropout rate 0.2, or at learning rate 1e-2 and epsilon 1e-5."""
    parameters = trial.params
    if not trial.distributions["dropout_rate"].single():
        return 1 - abs(parameters["dropout_rate"] - 0.2)
    distance = abs(math.log10(parameters["learning_rate"]) + 2) + abs(math.log10(parameters["epsilon"]) + 5)
    return 1 / (1 + distance)


def level(trial: optuna.Trial) -> float:
    """The same everywhere."""
    return 0.5


def raising(trial: optuna.Trial) -> float:
    raise ValueError("no such luck")


def raising_in_any_script(trial: optuna.Trial) -> float:
    raise ValueError("no \N{MICROSCOPE} lück 日 \0 \ud800 \udcff –")


def raising_at_point_1(trial: optuna.Trial) -> float:
    if trial.user_attrs["point"] == 1:
        raise ValueError("no luck at this point")
    return peak(trial)


def raising_at_first(trial: optuna.Trial) -> float:
    """Fails the first attempt at a point, and succeeds at the second."""
    if trial.user_attrs["attempt"] == 1:
        raise ValueError("no luck at first")
    return peak(trial)


def not_a_number(trial: optuna.Trial) -> float:
    return math.nan


def infinite(trial: optuna.Trial) -> float:
    return math.inf


def pruned(trial: optuna.Trial) -> float:
    raise optuna.TrialPruned


def behind_at_point_3(trial: optuna.Trial) -> float:
    """Report ten epochs, low ones at point 3, and end early when the study's pruner says so."""
    level = 0.1 if trial.user_attrs["point"] == 3 else 0.5 + trial.user_attrs["point"] / 100
    for epoch in range(1, 11):
        trial.report(level, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return level


def gated(trial: optuna.Trial) -> float:
    """Say which point this process began, then wait until the gate is open."""
    gate = Path(os.environ[GATE])
    (gate / f"{os.getpid()}.began").write_text(str(trial.user_attrs["point"]))
    while not (gate / "open").exists():
        time.sleep(0.01)
    return peak(trial)


def reporting(trial: optuna.Trial) -> float:
    """Write this process's environment beside the gate, and wait until the gate is open."""
    (Path(os.environ[GATE]) / f"{os.getpid()}.environment").write_text(json.dumps(dict(os.environ)))
    return gated(trial)


def dying(trial: optuna.Trial) -> float:
    """End the process as an out-of-memory killer would, wherever it runs."""
    os._exit(9)


def dying_once(trial: optuna.Trial) -> float:
    """End the process at the first attempt at point 2."""
    if trial.user_attrs["point"] == 2 and trial.user_attrs["attempt"] == 1:
        os._exit(9)
    return peak(trial)


def dying_at_odd_points(trial: optuna.Trial) -> float:
    """End the process at the first attempt at each odd point."""
    if trial.user_attrs["point"] % 2 and trial.user_attrs["attempt"] == 1:
        os._exit(9)
    return peak(trial)


def breaking(trial: optuna.Trial) -> float:
    """End the process as a worker does that met the same error again and again."""
    os._exit(ExitCode.CIRCUIT_BREAKER)


def breaking_in_slot_0(trial: optuna.Trial) -> float:
    """Break in slot 0; elsewhere wait until the gate is open."""
    return breaking(trial) if os.environ["SLOT"] == "0" else gated(trial)
