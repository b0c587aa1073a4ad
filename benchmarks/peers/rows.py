"""What is reported of a peer, and how trials are counted: the same way for all."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

Point = Mapping[str, float]


@dataclass(frozen=True)
class Tally:
    """What a peer did to the design. ``trials_run`` is the sum of ``distinct``, ``duplicates`` and ``unfinished``.

    Args:
        trials_run: trainings begun for the design.
        distinct: design points that have a value.
        duplicates: trainings that gave a point that had a value already another one.
        lost: design points without a value when the peer said it was done.
        unfinished: trainings begun that gave no value.
        stuck_running: those among them that the peer's own records still call running.
        best: the highest value.
        note: anything else worth a line.
    """

    trials_run: int | None = None
    distinct: int | None = None
    duplicates: int | None = None
    lost: int | None = None
    unfinished: int | None = None
    stuck_running: int | None = None
    best: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Row(Tally):
    """A line of the table.

    Args:
        name: the peer.
        seconds: the whole run as a process, imports included.
        peak_processes: most processes at once, the peer's first included.
        error: why there are no numbers; None where there are.
    """

    name: str = ""
    seconds: float | None = None
    peak_processes: int | None = None
    error: str | None = None


def tally(
    design: Sequence[Point],
    completed: Sequence[tuple[Point, float]],
    *,
    unfinished: int = 0,
    stuck_running: int = 0,
    note: str = "",
) -> Tally:
    """Count a peer's trials.

    Args:
        design: the points that were to be done.
        completed: each training that gave a value, with its point.
        unfinished: trainings begun that gave none.
        stuck_running: those of them still marked as running.
        note: for the table.

    Raises:
        ValueError: a training was of a point outside the design.
    """
    numbers = [_number(design, point) for point, _ in completed]
    distinct = len(set(numbers))
    return Tally(
        trials_run=len(completed) + unfinished,
        distinct=distinct,
        duplicates=len(completed) - distinct,
        lost=len(design) - distinct,
        unfinished=unfinished,
        stuck_running=stuck_running,
        best=max((value for _, value in completed), default=None),
        note=note,
    )


def _number(design: Sequence[Point], point: Point) -> int:
    """Return which point of the design this is."""
    for number, wanted in enumerate(design):
        if all(point[key] == value for key, value in wanted.items()):
            return number
    raise ValueError(f"{dict(point)} is no point of the design")


def report(done: Tally) -> None:
    """Print a peer's last line, which `runner` reads."""
    print(json.dumps(asdict(done)), flush=True)


def require(module: str, package: str) -> None:
    """End the process with an ``error`` as its last line unless ``module`` is installed."""
    if importlib.util.find_spec(module) is None:
        print(json.dumps({"error": f"{package} is not installed: pip install '.[bench]'"}), flush=True)
        sys.exit(1)


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    columns = ("seconds", "trials_run", "distinct", "duplicates", "lost", "unfinished", "stuck_running")
    heads = ("seconds", "trials", "points", "repeated", "lost", "unfinished", "stuck", "best", "processes")
    width = max(len(row.name) for row in rows) + 2
    lines = ["peer".ljust(width) + "".join(head.rjust(12) for head in heads)]
    for row in rows:
        if row.error:
            lines.append(f"{row.name.ljust(width)}  {row.error}")
            continue
        cells = [_cell(getattr(row, column)) for column in columns]
        cells += ["–" if row.best is None else f"{row.best:.4f}", _cell(row.peak_processes)]
        lines.append(row.name.ljust(width) + "".join(cell.rjust(12) for cell in cells))
    lines += [f"  {row.name}: {row.note}" for row in rows if row.note]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
