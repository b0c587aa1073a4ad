"""What cores and instruction sets do to speed, and do not do to bits: extraction and a trial, on one core and on all.

    python -m benchmarks.cores

Each kind of processor that this one can stand for is measured: its own, and AVX2, to which oneDNN is then limited (the
rest of TensorFlow runs as it does anywhere). For each, ``search --dry-run`` says how long Regime I takes on all cores,
on films that are drawn below ``--home``. Writes ``benchmarks/results/cores.json`` and the table of it in
``docs/performance.md``; ``--table`` only writes the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import material, sections
from benchmarks.table import put_into
from benchmarks.train import trial_seconds
from rust_optuna.config import BackboneConfiguration
from rust_optuna.learn.arithmetic import arithmetic
from rust_optuna.learn.extraction import Extractor
from rust_optuna.learn.runtime import versions
from rust_optuna.machine import ISA_LIMIT, cpu_cores, instruction_set, processor
from rust_optuna.processes import variables_set

SIZES = (16, 128, 512, 1600)
RESULTS = sections.ROOT / "benchmarks" / "results" / "cores.json"


def measure() -> None:
    """Print one JSON object: what this process's cores reach, and checksums of what they computed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    extractor = Extractor(BackboneConfiguration("random"))
    generator = np.random.default_rng(0)
    # Whole micro-batches, as many as divide evenly among one core or two: a place left empty is work all the same.
    films = 4 * extractor.slots
    images = generator.uniform(-1, 1, (films, 299, 299)).astype(np.float32)
    extractor.extract(images, np.arange(films) % 4)
    development = material.development()
    source = material.features(development)
    for size in SIZES:
        trial_seconds(development, source, size, "float32", 2)
    sections.wait_for_the_others()
    rates: list[float] = []
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        began = time.perf_counter()
        features = extractor.extract(images, np.arange(films) % 4)
        rates.append(films / (time.perf_counter() - began))
        for size in SIZES:
            seconds[size].append(trial_seconds(development, source, size, "float32", 3))
    print(
        json.dumps(
            {
                "arithmetic": arithmetic("float32"),
                "places": extractor.slots,
                "features": hashlib.sha256(features.tobytes()).hexdigest(),
                "films_per_second": rates,
                "trial_seconds": seconds,
            }
        )
    )


def main() -> None:
    """Measure each kind on one core and on all, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cores", description=__doc__)
    parser.add_argument("--home", type=Path, default=sections.ROOT / "storage" / "rust_optuna_benchmark")
    home = str(parser.parse_args().home.resolve())
    kinds: dict[str, dict[str, str]] = {"its own": {}} | (
        {"AVX2": {ISA_LIMIT: "AVX2"}} if instruction_set() == "AVX-512" else {}
    )
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": cpu_cores(),
        "versions": versions(),
        "runs": [],
    }
    for name, variables in kinds.items():
        for one_core in (True, False):
            with variables_set({**variables, "CUDA_VISIBLE_DEVICES": "-1"}):
                [run] = sections.run("cores", ["--measure"], one_core=one_core)
            cores = 1 if one_core else cpu_cores()
            found["runs"].append({"kind": name, "cores": cores, **run})
            sizes = ", ".join(f"{size}: {statistics.median(s):.1f} s" for size, s in run["trial_seconds"].items())
            rate = statistics.median(run["films_per_second"])
            print(f"{run['arithmetic']}, {cores} cores: {rate:.1f} films/s; a trial at batch {sizes}", flush=True)
        with variables_set({**variables, "CUDA_VISIBLE_DEVICES": "-1"}):
            [plan] = sections.run("whole_search", [home, "--only-forecast"], one_core=False)
        found["runs"][-1]["regime_1"] = plan["forecast_features"] + plan["forecast_studies"][0]
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    write_table()


def write_table() -> None:
    """Put what was measured into the page."""
    found = json.loads(RESULTS.read_text())
    sizes = "".join(f" | a trial, batch {size}" for size in SIZES)
    lines = [
        f"| kind of arithmetic | cores | extraction{sizes} | Regime I, forecast |",
        "| --- " * (4 + len(SIZES)) + "|",
    ]
    for run in found["runs"]:
        rate = statistics.median(run["films_per_second"])
        seconds = [f"{statistics.median(run['trial_seconds'][str(size)]):.1f} s" for size in SIZES]
        regime = f"{run['regime_1'] / 60:.0f} min" if "regime_1" in run else ""
        cells = [f"| {run['arithmetic']}", str(run["cores"]), f"{rate:.1f} films/s", *seconds, regime]
        lines.append(" | ".join(cells) + " |")
    table = "\n".join([f"{found['processor']}, TensorFlow {found['versions']['tensorflow']}:", "", *lines])
    put_into(sections.ROOT / "docs" / "performance.md", table, "python -m benchmarks.cores")


if __name__ == "__main__":
    if "--measure" in sys.argv:
        sys.argv.remove("--measure")
        measure()
    elif "--table" in sys.argv:
        write_table()
    else:
        main()
