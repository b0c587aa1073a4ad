"""What happens in a round, and when: drawn from a seed, before anything runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 4.0
"""Seconds of disturbance."""
LEASE = 2
"""Seconds: the shortest lease that a study may have."""
ZONES = ("Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati")
PROCESSES = {"kill": 4, "kill all": 1, "stop": 6, "terminate": 3, "terminate twice": 1}
"""What happens to workers, and how often."""
SERVER = {"database kill": 2, "cut": 2, "refuse": 1, "stall": 1, "mute": 2}
DISK = {"fill": 2}
LONG = ("stop", "stall")
"""What outlasts a lease."""


@dataclass(frozen=True)
class Start:
    """How a worker is started.

    Args:
        command: by the command line, in a fresh interpreter; else forked.
        zone: its TZ, None for this machine's.
        shift: seconds by which its clock is wrong.
    """

    command: bool = False
    zone: str | None = None
    shift: int = 0


@dataclass(frozen=True)
class Step:
    """One disturbance.

    Args:
        at: seconds from the beginning.
        kind: one of those above, or ``start``.
        seconds: how long it lasts, where it lasts.
        which: chooses the worker among those alive: 0 the oldest, towards 1 the youngest.
        start: how a worker is started.
    """

    at: float
    kind: str
    seconds: float = 0.0
    which: float = 0.0
    start: Start = Start()


@dataclass(frozen=True)
class Script:
    """A round: its number of points, the workers at its beginning, and what happens to them, in order."""

    points: int
    workers: Sequence[Start]
    steps: Sequence[Step]


def draw(seed: int, *, server: bool, disk: bool) -> Script:
    """Draw a round; the same seed gives the same one.

    Args:
        seed: of everything random.
        server: whether there is a database server to kill, behind a proxy.
        disk: whether the disk can be filled.
    """
    dice = random.Random(seed)
    kinds = {**PROCESSES, **(SERVER if server else {}), **(DISK if disk else {})}
    command = dice.random() < 0.2
    workers = [_start(dice, command and index == 0) for index in range(4)]
    steps, at = [], 0.0
    while (at := at + dice.uniform(0.1, 0.4)) < WINDOW:
        kind = dice.choices(list(kinds), list(kinds.values()))[0]
        if at > WINDOW / 2 and kind in LONG:
            kind = "kill"  # a round must come to its end
        steps.append(Step(at, kind, _seconds(dice, kind), dice.random()))
        again = 4 if kind == "kill all" else 1 if kind in PROCESSES else 0
        steps += [
            Step(at + dice.uniform(0.05, 0.4), "start", start=_start(dice, command and dice.random() < 0.2))
            for _ in range(again)
        ]
    return Script(dice.randint(16, 24), workers, sorted(steps, key=lambda step: step.at))


def _seconds(dice: random.Random, kind: str) -> float:
    if kind == "stop":
        return LEASE + dice.uniform(0.2, 1.0)
    if kind == "stall":
        return dice.choice((dice.uniform(0.2, 1.0), LEASE + dice.uniform(0.2, 0.6)))
    return dice.uniform(0.02, 0.2) if kind == "mute" else dice.uniform(0.2, 1.2)


def _start(dice: random.Random, command: bool) -> Start:
    zone = dice.choice(ZONES) if dice.random() < 0.3 else None
    return Start(command, zone, dice.choice((-3600, 3600)) if dice.random() < 0.3 else 0)
