"""The live table of a running search; in a log, a line whenever a point is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from rust_optuna.cli.output import counted
from rust_optuna.cli.tables import Side, layout
from rust_optuna.run.local import Listener
from rust_optuna.storage.states import PointState

if TYPE_CHECKING:
    from rich.table import Table

    from rust_optuna.fleet.devices import Device
    from rust_optuna.run.evaluation import EvaluationListener
    from rust_optuna.search.creation import Creation
    from rust_optuna.search.results import Status


COUNTED = {
    "waiting": PointState.WAITING,
    "running": PointState.RUNNING,
    "complete": PointState.COMPLETE,
    "pruned": PointState.PRUNED,
    "holes": PointState.HOLE,
}
"""The states of points that the table counts, by column; that of pruned points is shown if there are any."""


class LiveTable:
    """A live table that shows the studies of one search on stderr while the ``with`` block runs.

    Args:
        on_hashed: called while films are hashed.
    """

    def __init__(self, on_hashed: Callable[[int, int], None] | None = None) -> None:
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.listener = Listener(on_hashed=on_hashed, on_created=self.created, on_status=self.show)
        self._statuses: dict[str, Status] = {}
        self._began: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> LiveTable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def evaluation_listener(self, **callbacks: Callable[..., None]) -> EvaluationListener:
        """Return the callbacks by which an evaluation or a comparison shows its folds in this table.

        Args:
            callbacks: others, by their names in `EvaluationListener`.
        """
        from rust_optuna.run.evaluation import EvaluationListener

        return EvaluationListener(**vars(self.listener), on_trained=self.stop, **callbacks)

    def created(self, creation: Creation, devices: Sequence[Device]) -> None:
        """Print which study begins, and on which devices."""
        self.stop()
        name, verb = creation.study.name, "goes on" if creation.resumed else "is created"
        places = ", ".join(dict.fromkeys(device.name for device in devices))
        click.echo(f"{name} {verb}: {counted(len(devices), 'worker')} on {places}", err=True)
        for note in creation.study.notes:
            click.echo(f"Note: {note}.", err=True)

    def show(self, status: Status) -> None:
        """Show the newest state of one study."""
        name = status.study.name
        before = self._statuses.get(name)
        self._statuses[name] = status
        self._began.setdefault(name, (time.monotonic(), _ended(status)))
        if self.console.is_terminal:
            self.live.start()
            self.live.update(self._table(), refresh=True)
        elif before is None or _ended(before) != _ended(status):
            complete, pruned = (status.counts[state] for state in (PointState.COMPLETE, PointState.PRUNED))
            ended = f"{complete} of {status.points} complete" + (f", {pruned} pruned" if pruned else "")
            best = "" if status.best_value is None else f", best {status.best_value:.4f}"
            baseline = "" if status.best_baseline is None else f", view-only baseline {status.best_baseline:.4f}"
            remarks = "".join(f"; {words}" for words in _short_warnings(status))
            click.echo(f"{name}: {ended}{best}{baseline}{remarks}", err=True)

    def stop(self) -> None:
        """Remove the table from the terminal; the next status shows it again."""
        if self.live.is_started:
            self.live.stop()

    def _table(self) -> Table:
        rows = []
        pruned = any(status.counts[PointState.PRUNED] for status in self._statuses.values())
        counted = {name: state for name, state in COUNTED.items() if pruned or state != PointState.PRUNED}
        numbers = (*counted, "best", "baseline", "a minute", "time left")
        columns: Mapping[str, Side] = {"study": "left", **dict.fromkeys(numbers, "right")}
        for name, status in self._statuses.items():
            rate, left = self._pace(name, status)
            best, baseline = ("" if v is None else f"{v:.4f}" for v in (status.best_value, status.best_baseline))
            counts = [str(status.counts[state]) for state in counted.values()]
            title = f"{name} ({status.study.stand_in})" if status.study.stand_in else name
            rows.append((title, *counts, best, baseline, rate, left))
        table = layout(columns, rows, self.console.width)
        remarks = [f"{name}: {words}" for name, status in self._statuses.items() for words in _short_warnings(status)]
        if remarks:
            table.caption = Text("\n".join(remarks))
        return table

    def _pace(self, name: str, status: Status) -> tuple[str, str]:
        """Return the points per minute since this search began, and the time that the remaining points will take."""
        began, before = self._began[name]
        done = _ended(status) - before
        if not done:
            return "", ""
        point_seconds = (time.monotonic() - began) / done
        seconds = int(point_seconds * (status.counts[PointState.WAITING] + status.counts[PointState.RUNNING]))
        return f"{60 / point_seconds:.1f}", f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _ended(status: Status) -> int:
    """Return the number of points that are complete or pruned."""
    return status.counts[PointState.COMPLETE] + status.counts[PointState.PRUNED]


def _short_warnings(status: Status) -> list[str]:
    """Return the warnings about the best trial without their explanations, which ``status`` and ``best`` print."""
    return [words.partition(":")[0] for words in status.best_words]
