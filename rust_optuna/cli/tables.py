"""How a table looks that a person reads: a header, a rule below it, and no other lines.

Text stands left and numbers stand right. Nothing is cut off, left out or read as markup:

- On a terminal, a table is no wider than the terminal (``COLUMNS``, where that is set). Where it would be, its columns
  move together; then text goes on on the next line, sentences before names. Text takes no fewer than `NARROWEST`
  characters and numbers stay on one line: a terminal too narrow for that wraps the lines itself.
- In a pipe, a file or a log, a table is as wide as it needs to be, so that each row is one line.

Only a terminal is sent escape codes, for the bold header. What the output cannot show is replaced as everywhere
(`rust_optuna.cli.output`).
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from rich.table import Table

Side = Literal["left", "right"]

GAPS = (2, 1)
"""How many spaces stand between columns: two, or one where two do not fit."""
NARROWEST = 8
"""How many characters of text stand on a line, at least."""


def print_table(columns: Mapping[str, Side], rows: Sequence[Sequence[str]], *, indent: int = 0) -> None:
    """Print a table on standard output.

    Args:
        columns: each column's title, and the side on which its cells stand: text left, numbers right.
        rows: the cells of each row, one for each column.
        indent: how many spaces stand before each line.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns - indent if terminal else sys.maxsize
    drawn = io.StringIO()
    Console(file=drawn, width=sys.maxsize, force_terminal=terminal).print(layout(columns, rows, width))
    for line in drawn.getvalue().removesuffix("\n").split("\n"):
        click.echo(f"{'':{indent}}{line}".rstrip())


def layout(columns: Mapping[str, Side], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Return a table whose lines have no more characters than ``width``, as far as that is possible.

    Args:
        columns: each column's title, and the side on which its cells stand.
        rows: the cells of each row, one for each column.
        width: of what it is shown on.
    """
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = list(zip(columns, *rows, strict=True))
    whole = [max(map(cell_len, column)) for column in cells]
    words = [max(cell_len(word) for text in column for word in (text.split() or [""])) for column in cells]
    right = [side == "right" for side in columns.values()]
    unfolded = [all_ if number else word for all_, word, number in zip(whole, words, right, strict=True)]
    folded = [all_ if number else min(all_, NARROWEST) for all_, number in zip(whole, right, strict=True)]

    between = len(columns) - 1
    gap = next((gap for gap in GAPS if sum(whole) + gap * between <= width), min(GAPS))
    room = width - gap * between
    widths = _narrowed(whole, unfolded if sum(unfolded) <= room else folded, room)

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for (title, side), characters in zip(columns.items(), widths, strict=True):
        table.add_column(Text(title), justify=side, width=characters, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Return the widths of columns with the widest ones narrowed, none below its least, until all fit the room."""
    narrowed = list(widths)
    while sum(narrowed) > room:
        wide = [column for column, width in enumerate(narrowed) if width > least[column]]
        if not wide:
            break
        narrowed[max(wide, key=narrowed.__getitem__)] -= 1
    return narrowed
