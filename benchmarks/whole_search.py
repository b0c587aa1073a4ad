"""Both published regimes on films drawn for it, features included, by the ordinary command; and its own forecast."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.sections import ROOT, wait_for_the_others
from rust_optuna.paths import Home
from rust_optuna.run.forecast import forecast
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import sqlite_url
from rust_optuna.study_file import read_study_file

STUDIES = ("regime_1.toml", "regime_2.toml")
PATIENTS = 1207
SAMPLE_SECONDS = 2.0


def main() -> None:
    """Print one JSON object: the forecast, seconds of each part, and the workers' memory over the run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--trials", type=int, default=100, help="of Regime I")
    parser.add_argument("--only-forecast", action="store_true")
    chosen = parser.parse_args()
    home = Home(chosen.home.resolve())
    if not (home.root / "manifest.csv").is_file():
        _call("data", "synthesize", str(home.root), "--patients", str(chosen.patients), "--seed", "1")
        _call("data", "split", str(home.root / "manifest.csv"), "--holdout", "0.15", "--seed", "1")
    shutil.rmtree(home.storage, ignore_errors=True)
    files = [_study(home, name, chosen) for name in STUDIES]
    wait_for_the_others()
    # The index of films is made by the forecast; hashing them again is a second.
    plan = forecast(
        [read_study_file(path) for path in files],
        home,
        lambda: open_database(sqlite_url(home.database), read_only=True),
    )
    result: dict[str, object] = {
        "forecast": plan.seconds,
        "forecast_features": plan.extraction.startup + plan.extraction.seconds,
        "forecast_studies": [study.seconds for study in plan.studies],
        "trials": sum(study.left for study in plan.studies),
    }
    if not chosen.only_forecast:
        began = time.perf_counter()
        _call("features", "build", str(files[0]), home=home)
        result["features"] = time.perf_counter() - began
        result["memory"] = _search(home, files)
        result["whole"] = time.perf_counter() - began
    print(json.dumps(result))


def _study(home: Home, name: str, chosen: argparse.Namespace) -> Path:
    """Write a published study with the benchmark's weights and precision."""
    text = (ROOT / "studies" / name).read_text(encoding="utf-8")
    lines = f'weights = "{chosen.weights}"\n'
    lines += f'extraction_precision = "{chosen.precision}"\ntraining_precision = "{chosen.precision}"'
    kept = [line for line in text.splitlines() if not line.startswith("weights = ")]
    text = "\n".join(kept).replace("[model]", f"[model]\n{lines}")
    text = text.replace("n_trials = 100", f"n_trials = {chosen.trials}")
    path = home.root / name
    path.write_text(text, encoding="utf-8")
    return path


def _call(*arguments: str, home: Home | None = None) -> None:
    where = ["--home", str(home.root)] if home else []
    command = [sys.executable, "-m", "rust_optuna", *arguments, *where]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _search(home: Home, files: list[Path]) -> list[list[float]]:
    """Run the search; return (second, process, MB) of each worker, sampled all along."""
    command = [sys.executable, "-m", "rust_optuna", "search", *map(str, files), "--home", str(home.root)]
    began = time.perf_counter()
    samples: list[list[float]] = []
    done = threading.Event()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            now = round(time.perf_counter() - began, 1)
            samples.extend([now, process, size] for process, size in _workers(child.pid))

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        code = child.wait()
    finally:
        done.set()
        watcher.join()
    if code:
        raise RuntimeError(f"the search ended with {code}: see {home.logs}")
    return samples


def _workers(parent: int) -> list[tuple[int, float]]:
    """Return the process and the resident megabytes of each worker of a search."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = Path("/proc", process, "status").read_text(encoding="ascii", errors="replace")
            command = Path("/proc", process, "cmdline").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if int(fields.get("PPid", "0")) == parent and "\0worker\0" in command and "VmRSS" in fields:
            found.append((int(process), int(fields["VmRSS"].split()[0]) / 1024))
    return found


if __name__ == "__main__":
    main()
