"""Output that commands share: JSON and progress bars, and the replacement of characters that cannot be shown."""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

PLAIN = {"–": "-", "×": "x", "±": "+/-", "…": "...", "≥": ">=", "≤": "<=", "→": "->", "─": "-", "’": "'"}
"""The replacement of each character that this program prints, for output that cannot show it. Any other character is
escaped as Python does."""
REPLACE = "rust_optuna.plain"
"""The name under which Python knows `_plain` as a handler of encoding errors."""


def replace_what_cannot_be_shown() -> None:
    """Let the standard streams replace characters that they cannot show, at the first of which Python would fail.

    A terminal may be Latin-1, a pipe ASCII, and a file's name not even Unicode.
    """
    codecs.register_error(REPLACE, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACE)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(character: str) -> str:
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, as in ``1 film`` and ``2,936 films``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def print_json(document: Any) -> None:
    """Print a document for programs."""
    click.echo(json.dumps(document, indent=2))


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that shows a bar with its rate on stderr, or a few lines in a log.

    Nothing is shown before the first call or after everything is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    rate = TextColumn("{task.fields[rate]}")
    bar = Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=console)
    task = bar.add_task(title, total=None, rate="")
    quarters = 0

    def show(done: int, total: int) -> None:
        nonlocal quarters
        if console.is_terminal:
            bar.start()
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "")
            if done >= total:
                bar.stop()
        elif done * 4 // max(total, 1) > quarters:
            quarters = done * 4 // total
            click.echo(f"{title}: {done:,} of {total:,}", err=True)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
