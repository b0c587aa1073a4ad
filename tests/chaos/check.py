"""Checks that every point of a study ended exactly once, from what its database says and from nothing else.

It reads with SQL through plain drivers and shares no line with the program: a fault in the program's own reading cannot
hide a fault in its writing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.records import Records, Trial, read
from tests.chaos.truth import Truth, truth_of

LOST, TWICE, RUNNING, HOLE, WRONG = "lost", "twice", "left running", "hole", "wrong"
MAX_FAILURES, MAX_LOSSES = 3, 20
"""What makes a hole: so many failed attempts, or so many that were lost or released."""
CLOCK = 0.002
"""Seconds by which two readings of a database's clock may stand in the wrong order: SQLite's has milliseconds."""
SHOWN = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "lost": "FAIL", "released": "FAIL"}
"""How Optuna shows the outcome of an attempt."""


@dataclass(frozen=True)
class Finding:
    """A broken rule: of which kind, and in words."""

    kind: str
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"


def check(
    connection: Any,
    name: str,
    count: int,
    artifacts: Path | None = None,
    truth: Callable[[Mapping[str, Any]], Truth] = truth_of,
) -> list[Finding]:
    """Return every rule of "exactly once" that a study breaks, at rest after its last worker has ended.

    Args:
        connection: from ``records.connect``, or any DB-API connection.
        name: the study's.
        count: how many points it has.
        artifacts: the folder of the artifacts, where every complete attempt wrote one.
        truth: from a point's parameters to what an undisturbed run makes of it.
    """
    records = read(connection, name)
    if records.study is None:
        return [Finding(LOST, f"there is no study {name}")]
    found: list[Finding] = []
    if records.study["state"] != "done":
        found.append(Finding(LOST, f"the study is {records.study['state']}, not done"))
    numbers = [point["number"] for point in records.points]
    if numbers != list(range(count)):
        found.append(Finding(LOST, f"the points are {numbers}, not 0 to {count - 1}"))
    for point in records.points:
        found += _point(point, truth(point["parameters"]))
        found += _attempts(point)
    found += _trials(records)
    if artifacts is not None:
        found += _artifacts(records, artifacts)
    return found


def _point(point: Mapping[str, Any], truth: Truth) -> Iterator[Finding]:
    """A point came to its end once, to the right one, with the right value."""
    which, state = f"point {point['number']}", point["state"]
    outcomes = Counter(attempt["outcome"] for attempt in point["attempts"])
    if state in ("waiting", "running"):
        yield Finding(RUNNING if state == "running" else LOST, f"{which} is {state} at the end")
        return
    ends = outcomes["complete"] + outcomes["pruned"]
    if ends > 1:
        yield Finding(TWICE, f"{which} ended {ends} times: {dict(outcomes)}")
    if state == "hole":
        yield from _hole(point, outcomes, truth)
        return
    if outcomes[state] != 1:
        yield Finding(LOST, f"{which} is {state}, but {outcomes[state]} attempts are")
    elif point["attempts"][-1]["outcome"] != state:
        yield Finding(TWICE, f"{which} was tried again after it was {state}")
    if state != truth.end:
        yield Finding(WRONG, f"{which} is {state}, undisturbed it is {truth.end}")
    if state == "complete" and not _same(point["value"], truth.value):
        yield Finding(WRONG, f"{which} has the value {point['value']}, undisturbed {truth.value}")
    if outcomes["failed"] and not truth.may_fail:
        reasons = [attempt["reason"] for attempt in point["attempts"] if attempt["outcome"] == "failed"]
        yield Finding(WRONG, f"{which} is blamed for what its objective did not do: {reasons}")


def _hole(point: Mapping[str, Any], outcomes: Counter[str], truth: Truth) -> Iterator[Finding]:
    """A hole has used up its attempts, holds no value, and was not dug by a fault of the machine."""
    which = f"point {point['number']}"
    losses = outcomes["lost"] + outcomes["released"]
    if outcomes["failed"] < MAX_FAILURES and losses < MAX_LOSSES:
        yield Finding(HOLE, f"{which} is a hole after only {dict(outcomes)}")
    if outcomes["complete"] or outcomes["pruned"]:
        yield Finding(HOLE, f"{which} is a hole though an attempt ended well: {dict(outcomes)}")
    if truth.end != "hole" and losses < MAX_LOSSES:
        yield Finding(HOLE, f"{which} is a hole, undisturbed it is {truth.end}")


def _attempts(point: Mapping[str, Any]) -> Iterator[Finding]:
    """Attempts are numbered without a gap, one begins after the last has ended, and each says why it ended."""
    which, attempts = f"point {point['number']}", point["attempts"]
    numbers = [attempt["number"] for attempt in attempts]
    if numbers != list(range(1, point["attempt"] + 1)):
        yield Finding(LOST, f"the attempts at {which} are {numbers}, its newest {point['attempt']}")
    before = -math.inf
    for attempt in attempts:
        this = f"attempt {attempt['number']} at {which}"
        if attempt["outcome"] == "running" or attempt["ended_at"] is None:
            yield Finding(RUNNING, f"{this} is running at the end")
            continue
        if attempt["started_at"] < before - CLOCK:
            yield Finding(TWICE, f"{this} began {before - attempt['started_at']:.3f} s before the last had ended")
        if attempt["ended_at"] < attempt["started_at"] - CLOCK:
            yield Finding(WRONG, f"{this} ended before it began")
        if SHOWN[attempt["outcome"]] == "FAIL" and not attempt["reason"]:
            yield Finding(HOLE, f"{this} was {attempt['outcome']} without a reason")
        before = attempt["ended_at"]


def _trials(records: Records) -> Iterator[Finding]:
    """Optuna shows each attempt as the ledger has it, by one trial, and nothing else."""
    attempts = {
        (point["number"], attempt["number"]): (point, attempt)
        for point in records.points
        for attempt in point["attempts"]
    }
    shown: Counter[tuple[int, int]] = Counter()
    for trial in records.trials:
        key = (trial.point, trial.attempt)
        if trial.state in ("RUNNING", "WAITING"):
            yield Finding(RUNNING, f"{_words(trial)} is {trial.state} at the end")
        elif key not in attempts:
            yield Finding(WRONG, f"{_words(trial)} is {trial.state}, and shows no attempt")
        else:
            shown[key] += 1
            yield from _trial(trial, *attempts[key])
    for key, number in shown.items():
        if number > 1:
            yield Finding(WRONG, f"attempt {key[1]} at point {key[0]} is shown by {number} trials")
    for key, (_, attempt) in attempts.items():
        if SHOWN.get(attempt["outcome"]) in ("COMPLETE", "PRUNED") and not shown[key]:
            yield Finding(LOST, f"attempt {key[1]} at point {key[0]} was {attempt['outcome']}, Optuna does not show it")


def _trial(trial: Trial, point: Mapping[str, Any], attempt: Mapping[str, Any]) -> Iterator[Finding]:
    """One trial agrees with its attempt."""
    what = f"{_words(trial)} is {trial.state}"
    if attempt["outcome"] != "running" and trial.state != SHOWN[attempt["outcome"]]:
        kind = TWICE if trial.state in ("COMPLETE", "PRUNED") else WRONG
        yield Finding(kind, f"{what}, its attempt was {attempt['outcome']}")
    elif trial.state in ("COMPLETE", "PRUNED"):
        if not trial.number == attempt["trial"] == point["trial"]:
            yield Finding(WRONG, f"{what}, the ledger names {attempt['trial']} and {point['trial']}")
        if not _same(trial.value, point["value"]):
            yield Finding(WRONG, f"{what} with {trial.value}, the ledger has {point['value']}")
    elif attempt["trial"] not in (None, trial.number):
        yield Finding(WRONG, f"{what}, its attempt was shown by trial {attempt['trial']}")
    # It shows what the study fixes, too.
    if not point["parameters"].items() <= trial.parameters.items():
        yield Finding(WRONG, f"{_words(trial)} has {dict(trial.parameters)}, the ledger {point['parameters']}")


def _artifacts(records: Records, folder: Path) -> Iterator[Finding]:
    """Complete implies present: whatever the complete attempts and trials name is in the folder."""
    for point in records.points:
        for attempt in point["attempts"]:
            named = attempt["artifact"]
            if attempt["outcome"] == "complete" and named and not (folder / named).is_file():
                yield Finding(LOST, f"artifact {named} of point {point['number']} is not in the store")
    for trial in records.trials:
        if trial.state != "COMPLETE":
            continue
        if not trial.artifacts:
            yield Finding(LOST, f"{_words(trial)} is COMPLETE without an artifact")
        for named in trial.artifacts:
            if not (folder / named).is_file():
                yield Finding(LOST, f"artifact {named} of {_words(trial)} is not in the store")


def _words(trial: Trial) -> str:
    return f"trial {trial.number} (point {trial.point}, attempt {trial.attempt})"


def _same(one: float | None, other: float | None) -> bool:
    """Equal to the last bit, and finite; or both absent."""
    if one is None or other is None:
        return one is other
    return math.isfinite(one) and one == other
