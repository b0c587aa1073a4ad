"""Runs the peers in turn, each as a process of its own, on the same films."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.processes import watch
from benchmarks.peers.rows import Row
from benchmarks.peers.task import prepare

LIMIT_SECONDS = 1800.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Peer:
    """A peer: its name in the table, its module here, and further arguments of it."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()


PEERS = (
    Peer("published way, one process", "published"),
    Peer("Optuna GridSampler, 2 processes", "plain_optuna"),
    Peer("KerasTuner GridSearch, chief and 2 workers", "keras_tuner_kfold"),
    Peer("Ray Tune OptunaSearch, 2 at a time", "ray_tune"),
    Peer("rust-optuna search, 2 workers", "ours"),
    Peer("Optuna GridSampler, one worker killed", "plain_optuna", ("--kill",)),
    Peer("rust-optuna search, one worker killed", "ours", ("--kill",)),
)


def run_peers(
    quick: bool, peers: Sequence[Peer] = PEERS, *, on_start: Callable[[Peer], None] = lambda peer: None
) -> list[Row]:
    """Draw the films, then run each peer; a peer that cannot be run gives a row with its ``error``.

    Args:
        quick: 4 design points of 1 epoch instead of 8 of 2.
        peers: which.
        on_start: told each peer before it is run.
    """
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        prepare(folder)
        rows = []
        for peer in peers:
            on_start(peer)
            rows.append(_run(peer, folder, quick))
        return rows


def _run(peer: Peer, folder: Path, quick: bool) -> Row:
    """Run one peer in a folder of its own, in which it may leave what it likes."""
    own = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", f"benchmarks.peers.{peer.module}", str(folder), str(own), *peer.arguments]
    if quick:
        command.append("--quick")
    out, err = own / "stdout.log", own / "stderr.log"
    with out.open("wb") as output, err.open("wb") as errors:
        started = time.monotonic()
        run = subprocess.Popen(
            command, cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        seen = watch(run, started, LIMIT_SECONDS)
    said = _last_line(out)
    row: dict[str, Any] = {"name": peer.name, "seconds": round(seen.seconds, 2), "peak_processes": seen.peak}
    if seen.code != 0 or "trials_run" not in said:
        how = f"still running after {LIMIT_SECONDS:.0f} s" if seen.code is None else f"exit code {seen.code}"
        return Row(name=peer.name, error=said.get("error") or f"{how}: {_tail(err)}")
    if seen.left:
        said["note"] = "; ".join(filter(None, (said["note"], f"{seen.left} processes outlived it and were killed")))
    return Row(**said, **row)


def _environment() -> dict[str, str]:
    """Return this process's environment without GPUs and without what would lead a peer to another storage."""
    foreign = ("RUST_OPTUNA_", "KERASTUNER_", "RAY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def _last_line(path: Path) -> dict[str, Any]:
    """Return the JSON object that is a peer's last line, or an empty one."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
