"""What an undisturbed run makes of a point: a function of its parameters alone, so that a crash cannot change it.

It imports nothing of this program: the check takes its expectations from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Truth:
    """The end that a point must come to.

    Args:
        end: ``complete``, ``pruned`` or ``hole``.
        value: of a complete point, None for the others.
        may_fail: whether an attempt at it may fail by an error of the objective's own.
        seconds: how long an undisturbed attempt sleeps, 0.05 to 0.5.
        epochs: how many values it reports.
    """

    end: str
    value: float | None
    may_fail: bool
    seconds: float
    epochs: int


def truth_of(parameters: Mapping[str, Any]) -> Truth:
    """Return what becomes of a point: three in four complete, the others are pruned, fail once, or fail always."""
    digest = hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).digest()
    kind, first, second, third = digest[0], digest[1] / 255, digest[2] / 255, digest[3]
    seconds, epochs = 0.05 + 0.45 * first, 2 + third % 4
    if kind < 8:  # one point in 32
        return Truth("hole", None, True, 0.05, 1)
    if kind < 24:
        return Truth("pruned", None, False, seconds, epochs)
    return Truth("complete", (first + second) / 3, kind < 48, seconds, epochs)
