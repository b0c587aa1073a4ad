"""A picture of learning curves side by side, as SVG.

It is a few lines, which need no library: a program that draws is a large dependency for one picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLUMNS = 4
"""How many panels stand beside each other."""
WIDTH, HEIGHT = 230, 180
"""The size of a panel's plot, in pixels."""
LEFT, TOP, GAP, BELOW = 52, 46, 24, 40
NARROWEST = 540
"""The least width of the picture, for the words below the panels."""
"""The margins around plots: for the numbers of the vertical axis, titles, between panels, and horizontal axes."""
FOLD, MEAN, BASELINE, GRID, TEXT = "#9dbbd8", "#123f6d", "#b4532a", "#e4e4e4", "#333333"
LEGEND = 66
"""The height of what stands below all panels."""
LONGEST_TITLE = 30
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""The distances that lines of the grid may have."""


@dataclass(frozen=True)
class Panel:
    """The curves of one configuration.

    Args:
        title: its name.
        folds: each fold's curve, one value an epoch.
        mean: the mean over the folds.
        epoch: the epoch, from 1, that counts.
        deviation: over the folds' values at that epoch; None if there is only one.
        baseline: the value of a model that sees only the view.
    """

    title: str
    folds: Sequence[Sequence[float]]
    mean: Sequence[float]
    epoch: int
    deviation: float | None
    baseline: float


def curves_svg(panels: Sequence[Panel], quantity: str) -> str:
    """Return a picture with one panel for each configuration, all on the same vertical scale.

    Args:
        panels: the configurations, in order.
        quantity: what the curves show, for the line below the picture.
    """
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / COLUMNS)
    width = max(LEFT + columns * (WIDTH + GAP), NARROWEST)
    height = rows * (TOP + HEIGHT + BELOW) + LEGEND
    ticks = _ticks([value for panel in panels for curve in (*panel.folds, [panel.baseline]) for value in curve])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11">',
        f"<title>{escape(quantity)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        left = LEFT + number % COLUMNS * (WIDTH + GAP)
        top = TOP + number // COLUMNS * (TOP + HEIGHT + BELOW)
        lines += _panel(panel, left, top, ticks, numbered=number % COLUMNS == 0)
    lines += _legend(quantity, height - LEGEND + 14)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, top: float, ticks: Sequence[float], *, numbered: bool) -> Iterator[str]:
    epochs = len(panel.mean)

    def x(epoch: float) -> float:
        return left + WIDTH * (epoch - 1) / max(epochs - 1, 1)

    def y(value: float) -> float:
        return top + HEIGHT * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    def curve(values: Sequence[float], style: str) -> str:
        points = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in enumerate(values, 1))
        return f'<polyline points="{points}" fill="none" {style}/>'

    value = panel.mean[panel.epoch - 1]
    spread = "" if panel.deviation is None else f" ± {panel.deviation:.3f}"
    yield _text(left, top - 24, _shortened(panel.title), 'font-size="13" font-weight="bold"')
    yield _text(left, top - 9, f"{value:.3f}{spread} at epoch {panel.epoch}")
    for tick in ticks:
        yield _line(left, y(tick), left + WIDTH, y(tick), f'stroke="{GRID}"')
        if numbered:
            yield _text(left - 6, y(tick) + 4, f"{tick:.2f}", 'text-anchor="end"')
    for epoch in sorted({1, epochs}):
        yield _text(x(epoch), top + HEIGHT + 15, str(epoch), 'text-anchor="middle"')
    yield _text(left + WIDTH / 2, top + HEIGHT + 15, "epoch", 'text-anchor="middle"')
    for values in panel.folds:
        yield curve(values, f'stroke="{FOLD}"')
    baseline = f'stroke="{BASELINE}" stroke-width="1.5" stroke-dasharray="6 4"'
    yield _line(left, y(panel.baseline), left + WIDTH, y(panel.baseline), baseline)
    yield curve(panel.mean, f'stroke="{MEAN}" stroke-width="2.5" stroke-linejoin="round"')
    yield f'<circle cx="{x(panel.epoch):.1f}" cy="{y(value):.1f}" r="4.5" fill="{MEAN}" stroke="white"/>'


def _legend(quantity: str, top: float) -> Iterator[str]:
    """Yield what the lines mean, below the panels."""
    yield _text(LEFT, top, quantity)
    samples = (
        (f'stroke="{MEAN}" stroke-width="2.5"', "mean over the folds", 130),
        (f'stroke="{FOLD}"', "a fold", 70),
        (f'stroke="{BASELINE}" stroke-width="1.5" stroke-dasharray="6 4"', "a model that sees only the view", 0),
    )
    left = LEFT
    for style, words, width in samples:
        yield _line(left, top + 15, left + 24, top + 15, style)
        yield _text(left + 30, top + 19, words)
        left += 30 + width
    yield f'<circle cx="{LEFT + 12}" cy="{top + 33}" r="4.5" fill="{MEAN}"/>'
    yield _text(LEFT + 30, top + 37, "the best epoch of the mean: a selection score, chosen on the same films")


def _ticks(values: Sequence[float]) -> list[float]:
    """Return the lines of a grid that covers all values: few enough to be read, at round numbers."""
    low, high = min(values), max(values)
    step = next((step for step in STEPS if (high - low) / step <= 6), STEPS[-1])
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 2) for number in range(first, max(last, first + 1) + 1)]


def _shortened(title: str) -> str:
    return title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1]}…"


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{TEXT}"{f" {style}" if style else ""}>{escape(words)}</text>'
