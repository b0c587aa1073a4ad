"""Rounds of crashes: ``python -m tests.chaos --backend sqlite --rounds 100 --first-seed 1 --results FILE.jsonl``.

Seeds that stand in the file are not run again. The exit code is 1 if any round, of this run or of the file, broke a
rule, and 2 if the backend cannot run here.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rust_optuna.paths import Home
from tests.chaos.backends import missing, open_backend
from tests.chaos.check import HOLE, LOST, RUNNING, TWICE, WRONG
from tests.chaos.harness import CRASHED, HANGS, Round, run_round
from tests.chaos.results import add_row, read_rows
from tests.chaos.servers import SERVERS
from tests.data.films import make_manifest

EVENTS = ("kill", "stop", "terminate", "database kill", "cut", "refuse", "stall", "mute", "fill")
ATTEMPTS = ("complete", "pruned", "failed", "lost", "released")
KINDS = (LOST, TWICE, RUNNING, HOLE, WRONG, CRASHED, HANGS)


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    options = _options()
    # Asked to stop, it still ends its servers and workers, and gives its disk back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if reason := missing(options.backend):
        print(f"NOT RUN: {reason}")
        return 2
    rows = read_rows(options.results)
    mine = {row["seed"]: row for row in rows if row["backend"] == options.backend}
    seeds = range(options.first_seed, options.first_seed + options.rounds)
    if left := [seed for seed in seeds if seed not in mine]:
        for row in run_rounds(options.backend, left, options.keep):
            mine[row["seed"]] = row
            add_row(options.results, row)
    return _summary(options.backend, [mine[seed] for seed in seeds])


def run_rounds(backend: str, seeds: list[int], keep: Path | None = None):
    """Run rounds on one backend, print a line for each, and yield each as a row of the results.

    Args:
        backend: its name.
        seeds: of the rounds.
        keep: takes what the workers printed in rounds with findings.
    """
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # the servers' unprivileged users pass through it
        make_manifest(folder / "home")
        opened = open_backend(backend, folder)
        if backend == "sqlite" and not opened.disk:
            print("NOT DONE: no disk is filled, because only root can mount a small one")
        try:
            for seed in seeds:
                done = run_round(seed, opened, Home((folder / "home").resolve()), folder / f"logs-{seed}")
                if done.findings and keep:
                    shutil.copytree(folder / f"logs-{seed}", keep / f"{backend}-{seed}", dirs_exist_ok=True)
                row = _row(backend, done)
                _print_round(row)
                yield row
        finally:
            opened.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Rounds of crashes, each one checked.")
    parser.add_argument("--backend", choices=("sqlite", *SERVERS), default="sqlite")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--results", type=Path, help="a JSON line for each round; seeds that stand in it are not run")
    parser.add_argument("--keep", type=Path, help="a folder for what the workers print in rounds with findings")
    return parser.parse_args()


def _row(backend: str, done: Round) -> dict[str, Any]:
    findings = [{"kind": finding.kind, "words": finding.words} for finding in done.findings]
    row = {"backend": backend, "seed": done.seed, "seconds": round(done.seconds, 1), "points": done.points}
    return row | {"attempts": done.attempts, "events": dict(done.events), "findings": findings}


def _print_round(row: dict[str, Any]) -> None:
    events = ", ".join(f"{row['events'][kind]} {kind}" for kind in EVENTS if kind in row["events"])
    verdict = "exactly once" if not row["findings"] else f"{len(row['findings'])} FINDINGS"
    attempts = ", ".join(f"{row['attempts'][name]} {name}" for name in ATTEMPTS if name in row["attempts"])
    print(f"{row['backend']} {row['seed']}: {row['seconds']} s; {events}; {attempts}: {verdict}", flush=True)
    for finding in row["findings"]:
        print(f"  {finding['kind']}: {finding['words']}", flush=True)


def _summary(backend: str, rows: list[dict[str, Any]]) -> int:
    """Print the table; return the exit code."""
    counts: Counter[str] = Counter({"rounds": len(rows), "points": sum(row["points"] for row in rows)})
    for row in rows:
        counts.update(row["events"])
        counts.update({f"attempts {name}": count for name, count in row["attempts"].items()})
        counts.update(f"found {finding['kind']}" for finding in row["findings"])
    names = ["rounds", "points", *EVENTS, *(f"attempts {name}" for name in ATTEMPTS)]
    print(f"\n{backend}")
    for name in [*names, *(f"found {kind}" for kind in KINDS)]:
        print(f"  {name:18} {counts[name]:6}")
    bad = [row["seed"] for row in rows if row["findings"]]
    for seed in bad:
        print(f"repeat: python -m tests.chaos --backend {backend} --rounds 1 --first-seed {seed} --keep FOLDER")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
