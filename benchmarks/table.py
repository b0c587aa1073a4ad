"""The rows of the benchmark's table, and the file they go to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Row:
    """One line.

    Args:
        name: what was measured.
        target: what it is to be, in words with its comparison (``≥ 85``, ``≤ 1.5``), or ``–`` for information.
        measured: the median.
        unit: of target and measured.
        spread: lowest and highest of the repetitions.
        note: how it was measured, where the name does not say.
    """

    name: str
    target: str
    measured: float
    unit: str
    spread: tuple[float, float] | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        sign, _, number = self.target.partition(" ")
        if sign == "≥":
            return self.measured >= float(number)
        return self.measured <= float(number) if sign == "≤" else None


def row(name: str, target: str, samples: Sequence[float], unit: str, note: str = "") -> Row:
    """Return a row of the samples' median with their spread."""
    spread = (round(min(samples), 4), round(max(samples), 4)) if len(samples) > 1 else None
    return Row(name, target, round(statistics.median(samples), 4), unit, spread, note)


def as_text(rows: Sequence[Row]) -> str:
    """Return the table as text."""
    width = max(len(each.name) for each in rows) + 2
    lines = ["".ljust(width) + "target".rjust(10) + "measured".rjust(12) + "  unit"]
    for each in rows:
        met = {True: "met", False: "NOT MET", None: ""}[each.met]
        spread = f" ({each.spread[0]:g} to {each.spread[1]:g})" if each.spread else ""
        lines.append(
            f"{each.name.ljust(width)}{each.target.rjust(10)}{each.measured:>12g}  {each.unit}{spread}  {met}".rstrip()
        )
    return "\n".join(lines)


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table for a page."""
    lines = ["| what | target | measured (lowest to highest) | |", "| --- | --- | --- | --- |"]
    for each in rows:
        met = {True: "met", False: "**not met**", None: ""}[each.met]
        spread = f" ({each.spread[0]:.3g} to {each.spread[1]:.3g})" if each.spread else ""
        note = f" <br> {each.note}" if each.note else ""
        target = "" if each.met is None else f"{each.target} {each.unit}"
        lines.append(f"| {each.name}{note} | {target} | {_number(each.measured)} {each.unit}{spread} | {met} |")
    return "\n".join(lines)


def put_into(page: Path, table: str, command: str = "make bench") -> None:
    """Replace the table of a page that a command writes, and that stands between two comments."""
    begin, end = f"<!-- written by {command} -->", "<!-- to here -->"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    page.write_text(f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    documents = [{**asdict(each), "met": each.met} for each in rows]
    path.write_text(json.dumps(documents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
