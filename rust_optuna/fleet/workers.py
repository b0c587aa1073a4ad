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
    """How the workers of a supervisor run: the options of each, and what the supervisor alone knows.

    Args:
        devices: one for each of them.
        echo: where what the workers log is written too.
        daemon: the supervisor runs in the background.
        name: the supervisor's, None for a new one.
        make_slot: makes a slot of its number, device and log: here, or on a node of a cluster.
        on_serving: called once, when a first worker is ready.
    """

    devices: Sequence[Device]
    echo: TextIO | None = None
    daemon: bool = False
    name: str | None = None
    make_slot: Callable[[int, Device, Path], Slot] = Slot
    on_serving: Callable[[], None] | None = None

    def show(self, slot: Slot) -> None:
        """Write what a worker logged since the last call."""
        if self.echo is not None:
            slot.show(self.echo, f"[{slot.number}] " if self.log_format == "text" else "")
