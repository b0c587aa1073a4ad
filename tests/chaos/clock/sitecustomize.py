"""Puts the clock of a process wrong by CHAOS_CLOCK_SHIFT seconds; Python imports it before anything else."""

import os
import time

SECONDS = float(os.environ.get("CHAOS_CLOCK_SHIFT", "0"))
_time, _time_ns = time.time, time.time_ns


def _shifted() -> float:
    return _time() + SECONDS


def _shifted_ns() -> int:
    return _time_ns() + int(SECONDS * 1e9)


time.time, time.time_ns = _shifted, _shifted_ns
