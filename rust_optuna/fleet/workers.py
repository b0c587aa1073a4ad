"""How the workers of a supervisor run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rust_optuna.fleet.commands import WorkerOptions
from rust_optuna.fleet.devices import Device
from rust_optuna.fleet.slot import Slot


@dataclass(frozen=True)
class Workers(WorkerOptions):
    """How the workers of a supervisor run: the options of each worker, and those of the supervisor itself.

    Args:
        devices: the device of each worker.
        echo: the stream to which the workers' log lines are copied; None for none.
        daemon: whether the supervisor runs in the background.
        name: the supervisor's name; None for a new one.
        make_slot: makes a slot from its number, device and log, on this machine or on a node of a cluster.
        on_serving: called once, when the first worker is ready.
    """

    devices: Sequence[Device]
    echo: TextIO | None = None
    daemon: bool = False
    name: str | None = None
    make_slot: Callable[[int, Device, Path], Slot] = Slot
    on_serving: Callable[[], None] | None = None

    def show(self, slot: Slot) -> None:
        """Copy to ``echo`` what a slot's worker logged since the last call."""
        if self.echo is not None:
            slot.show(self.echo, f"[{slot.number}] " if self.log_format == "text" else "")
