"""Runs every section, prints the table and writes ``benchmarks/results/latest.json``.

``--only`` runs some sections and leaves the others' rows in the file as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import material, sections
from benchmarks.peers import run_peers
from benchmarks.plot import draw
from benchmarks.table import RESULTS, Row, as_markdown, as_text, put_into, row, write
from rust_optuna.study_file import read_study_file

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED_STEPS = 60
TRIALS_A_WORKER = 50
"""Of Regime I, with two workers."""


class Bench:
    """The sections; each returns rows, and later ones may use what earlier ones measured.

    Args:
        quick: fewer repetitions, smaller sizes, no whole search.
        home: where the whole search's films lie or will be drawn.
        weights: of the whole search.
    """

    def __init__(self, quick: bool, home: Path, weights: str) -> None:
        self.quick = quick
        self.home = home
        self.weights = weights
        self.measured: dict[str, Any] = {} if quick else _read(RESULTS / "raw.json")

    def extraction(self) -> list[Row]:
        """The backbone against the peak, and the published way's steps."""
        rounds = "2" if self.quick else "7"
        [one] = sections.run("extract", ["--rounds", rounds])
        steps = "10" if self.quick else str(PUBLISHED_STEPS)
        [both] = sections.run("extract", ["--rounds", rounds], one_core=False)
        [published] = sections.run("published_way", ["--steps", steps], one_core=False)
        self.measured["extraction"] = {"one": one, "both": {**both, "published": published}}
        ratio = [b / f for b, f in zip(one["bfloat16"]["rate"], one["float32"]["rate"], strict=True)]
        percent = [100 * value for value in one["float32"]["utilisation"]]
        return [
            row("extraction, float32, one core: of the sgemm peak", "≥ 85", percent, "%"),
            row("extraction, bfloat16 against float32, one core", "≥ 1.6", ratio, "×"),
            row("extraction, float32, one core", "–", one["float32"]["rate"], "films/s"),
            row("extraction, float32, all cores", "–", both["float32"]["rate"], "films/s"),
            row("extraction, bfloat16, all cores", "–", both["bfloat16"]["rate"], "films/s"),
        ]

    def training(self) -> list[Row]:
        """A trial by batch size: alone on a core, and two side by side."""
        few = ["--rounds", "1", "--epochs", "2"] if self.quick else ["--rounds", "3", "--epochs", "3"]
        [alone] = sections.run("train", [*few, "--fit", *(["--precisions", "float32"] if self.quick else [])])
        pair = sections.run("train", [*few, *(["--sizes", "512", "1600"] if self.quick else [])], processes=2)
        self.measured["training"] = {"alone": alone, "pair": pair}

        def utilisation(runs: Sequence[Any], size: int) -> list[float]:
            return [100 * value for run in runs for value in run[f"float32 {size}"]["utilisation"]]

        def ratio(first: str, second: str, runs: Sequence[Any]) -> list[float]:
            pairs = [zip(run[first]["seconds"], run[second]["seconds"], strict=True) for run in runs]
            return [a / b for each in pairs for a, b in each]

        peak = "of the sgemm peak, 12.4 MFLOP a film and epoch"
        rows = [
            row(f"a trial, two workers side by side, batch 1600: {peak}", "≥ 75", utilisation(pair, 1600), "%"),
            row(f"a trial, two workers side by side, batch 512: {peak}", "≥ 75", utilisation(pair, 512), "%"),
            row("a trial, alone, batch 1600: likewise", "–", utilisation([alone], 1600), "%"),
            row("a trial, alone, batch 512: likewise", "–", utilisation([alone], 512), "%"),
            row("a trial, alone, batch 128: likewise", "≥ 62", utilisation([alone], 128), "%"),
            row("a trial, alone, batch 16 against 1600", "≤ 3.5", ratio("float32 16", "float32 1600", [alone]), "×"),
        ]
        for size in (512, 1600):
            gain = ratio(f"float32 {size}", f"bfloat16 {size}", pair)
            rows.append(row(f"a trial, side by side, bfloat16 faster, batch {size}", "≥ 1.5", gain, "×"))
        for size in (16, 128, 512, 1600):
            rows.append(row(f"a trial, alone, batch {size}", "–", alone[f"float32 {size}"]["seconds"], "s"))
            fit = ratio(f"fit {size}", f"float32 {size}", [alone])
            rows.append(row(f"Keras fit on cached features, batch {size}, against ours", "–", fit, "×"))
        return rows

    def end_to_end(self) -> list[Row]:
        """An epoch of training end to end, against Keras's `fit` on the same films."""
        few = ["--size", "75", "--films", "32", "--batch", "16"] if self.quick else []
        [found] = sections.run("end_to_end", few)
        self.measured["end_to_end"] = found
        size = 75 if self.quick else 299
        rows = []
        for name, seconds in found.items():
            ratios = [ours / fit for ours, fit in zip(seconds["ours"], seconds["fit"], strict=True)]
            named = f"{name} end to end, {size} pixels"
            rows.append(row(f"{named}: an epoch against Keras fit on the same films", "≤ 1.3", ratios, "×"))
            rows.append(row(f"{named}: an epoch of {32 if self.quick else 64} films", "–", seconds["ours"], "s"))
        return rows

    def published(self) -> list[Row]:
        """The published way against ours: needs the sections extraction and training, and for a search the search.

        A search is set against the one that was run: what its batch sizes cost, no mean over others does.
        """
        extraction, training = self.measured["extraction"]["both"], self.measured["training"]["pair"]
        step = extraction["published"]
        trained, scored = material.FILMS * (material.FOLDS - 1), material.FILMS
        theirs = material.EPOCHS * (trained * step["train"] + scored * step["predict"])
        ours = statistics.mean(_seconds(training, size) for size in _batch_sizes()) / len(training)
        note = f"the published way extrapolated from {step['steps']:.0f} timed steps of 16 films"
        rows = [
            row("a trial against the published way, mean of 100 batch sizes", "≥ 400", [theirs / ours], "×", note),
            row("the published way, one trial on all cores", "–", [theirs / 3600], "h", note),
        ]
        for each in self.measured.get("rows", {}).get("search", []):
            if each["name"] == "both regimes, float32, features included":
                ratio = 132 * theirs / (60 * each["measured"])
                note += f"; ours as it was run, {each['measured']:g} min: {each['note']}"
                name = "the whole search against the published way, with features"
                rows.append(row(name, "≥ 300", [ratio], "×", note))
        return rows

    def agreement(self) -> list[Row]:
        """Rankings in bfloat16 against float32, beside two seeds of float32."""
        few = ["--points", "4", "--epochs", "1"] if self.quick else []
        [found] = sections.run("agree", few, one_core=False)
        self.measured["agreement"] = found
        exact, rough, other = (found[k] for k in ("float32, seed 0", "bfloat16, seed 0", "float32, seed 1"))
        floor = _spearman(exact, other)
        target = f"≥ {min(0.95, round(floor, 3)):g}"
        points = f"{len(exact)} points over both regimes' hyperparameters"
        return [
            row(f"ranking of {points}, bfloat16 against float32: Spearman", target, [_spearman(exact, rough)], ""),
            row(f"ranking of {points}, two seeds of float32: Spearman", "–", [floor], ""),
            row(
                "a point's value, bfloat16 less float32: mean difference",
                "–",
                [float(np.mean(_less(rough, exact)))],
                "",
            ),
            row(
                "a point's value, two seeds: deviation of the difference", "–", [float(np.std(_less(other, exact)))], ""
            ),
        ]

    def around(self) -> list[Row]:
        """Everything outside the arithmetic."""
        [found] = sections.run("around", ["--trials", "1", "--epochs", "4"] if self.quick else [])
        outside = (found["seconds"] - found["inside"]) / found["trials"] + found["startup"] / TRIALS_A_WORKER
        share = 100 * outside / (found["seconds"] / found["trials"] + found["startup"] / TRIALS_A_WORKER)
        name = "around the arithmetic of a trial: database, metrics, artifacts, loading TensorFlow"
        note = f"{found['trials']} trials; the loading shared by {TRIALS_A_WORKER}"
        return [row(name, "≤ 5", [share], "%", note)]

    def memory(self) -> list[Row]:
        """What a worker holds after each of a hundred trials of one epoch."""
        [found] = sections.run("memory", ["--trials", "10"] if self.quick else [])
        self.measured["memory"] = found
        after = found["after"]
        tenth = len(after) // 10
        early, late = statistics.median(after[tenth : 2 * tenth]), statistics.median(after[-tenth:])
        note = f"{len(after)} trials of one epoch in one process, made-up features"
        return [
            row("memory of a worker over 100 trials: largest", "≤ 1.5", [found["largest"] * 2**20 / 1e9], "GB", note),
            row("memory of a worker over 100 trials: last tenth less second", "≤ 30", [late - early], "MB", note),
        ]

    def numbers(self) -> list[Row]:
        """All numbers of an evaluation, with their intervals."""
        [found] = sections.run("numbers", ["--rounds", "1"] if self.quick else [])
        self.measured["numbers"] = found
        note = f"{found['films']} hold-out films, 2,000 resamples, one core"
        memory = [found["megabytes"] / 1000]
        return [
            row("the numbers of one model with their intervals", "≤ 20", found["one"], "s", note),
            row("the numbers of an evaluation's four models", "–", found["all"], "s", note),
            row("memory of the process that computes them", "–", memory, "GB"),
        ]

    def evaluation(self) -> list[Row]:
        """An evaluation of the published size, by the ordinary commands."""
        home = self.home.with_name(f"{self.home.name}_evaluation")
        command = [sys.executable, "-m", "benchmarks.evaluation", str(home), "--weights", self.weights]
        subprocess.run(command, check=True, cwd=ROOT)
        found = _read(RESULTS / "evaluation.json")
        extraction = found["features_seconds"] * found["holdout_films"] / found["development_films"]
        trials = (found["evaluation_seconds"] - extraction) / statistics.mean(found["trial_seconds"])
        note = f"{found['fresh']['folds']} folds and all numbers, beside the hold-out's features"
        memory = [found["largest_process_megabytes"] / 1000]
        return [
            row("an evaluation after a search, against a trial of it", "≤ 5", [trials], "×", note),
            row("memory of an evaluation's largest process", "–", memory, "GB"),
        ]

    def commands(self) -> list[Row]:
        """Whole processes that only read."""
        rows = []
        for arguments, target in ((["best"], "≤ 0.8"), (["--help"], "≤ 0.3")):
            command = [sys.executable, "-m", "rust_optuna", *arguments, "--home", str(self.home)]
            if arguments == ["best"] and not (self.home / "storage" / "rust_optuna.db").is_file():
                continue  # the section search makes it
            command = command if arguments == ["best"] else command[:-2]
            seconds = []
            for _ in range(3 if self.quick else 9):
                began = time.perf_counter()
                done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env=sections.environment())
                seconds.append(time.perf_counter() - began)
                if done.returncode:
                    raise RuntimeError(done.stderr.decode())
            rows.append(row(f"rust-optuna {arguments[0]}, whole process", target, seconds, "s"))
        return rows

    def search(self) -> list[Row]:
        """Both published regimes from films to the last trial."""
        return self._search("float32", minutes=30)

    def search_bfloat16(self) -> list[Row]:
        """The same with both precisions set to bfloat16."""
        return self._search("bfloat16", minutes=18)

    def _search(self, precision: str, minutes: int) -> list[Row]:
        arguments = [str(self.home), "--precision", precision, "--weights", self.weights]
        [found] = sections.run("whole_search", arguments, one_core=False)
        self.measured[f"search {precision}"] = found
        note = f"features {found['features']:.0f} s, {found['trials']} trials; weights {Path(self.weights).name}"
        error = 100 * abs(found["forecast"] / found["whole"] - 1)
        whole = found["whole"] / 60
        return [
            row(f"both regimes, {precision}, features included", f"≤ {minutes}", [whole], "min", note),
            row(f"search --dry-run, {precision}: forecast off by", "≤ 25", [error], "%"),
            *_memory(precision, found["memory"]),
        ]

    def growth(self) -> list[Row]:
        """Cost by trials, workers, films and folds."""
        [found] = sections.run("growth", ["--quick"] if self.quick else [], one_core=False)
        self.measured["growth"] = found
        units = {
            "create": ("creating a study of {:,} trials", "s"),
            "claim": ("claiming and finishing a point among {:,} trials", "s"),
            "workers": ("stand-in points of 0.25 s, {:,} workers on SQLite", "points/s"),
            "films": ("a trial of {:,} films, batch 512, one core", "s"),
            "folds": ("a trial of {:,} folds, batch 512, one core", "s"),
        }
        return [
            row(name.format(int(size)), "–", [value], unit)
            for axis, (name, unit) in units.items()
            for size, value in found[axis]
        ]

    def scale(self) -> list[Row]:
        """What the database costs a fleet of stand-in workers, on SQLite and on a PostgreSQL that is named."""
        few = ["--workers", "1", "8", "--seconds", "2", "--each", "2", "--trials", "200"]
        [found] = sections.run("scale", few if self.quick else [], one_core=False)
        self.measured["scale"] = found
        rows = []
        for backend, result in found["backends"].items():
            for workers, median, _ in result["workers"]:
                target = "≤ 100" if (backend, workers) == ("PostgreSQL", 64) else "–"
                name = f"{backend}, {workers} workers: a trial of 10 s waits for the database"
                rows.append(row(name, target, [median], "ms", "the median worker"))
            (_, first, _), *_, (done, last, _) = result["trials"]
            name = f"{backend}: a trial's cost after {done:,} trials against the first of them"
            rows.append(row(name, "–", [last / first], "×"))
            rows.append(row(f"{backend}: statements of a trial of 20 epochs", "–", [result["queries"]], ""))
        return rows

    def peers(self) -> list[Row]:
        """The same small task by other tools."""
        rows = []
        for peer in run_peers(self.quick):
            if peer.error:
                raise RuntimeError(f"{peer.name}: {peer.error}")
            counts = f"{peer.trials_run} trials, {peer.distinct} points, {peer.duplicates} repeated, {peer.lost} lost"
            counts += f", {peer.stuck_running} stuck"
            rows.append(
                row(f"peer: {peer.name}", "–", [float(peer.seconds or 0)], "s", f"{counts}. {peer.note}".strip())
            )
        return rows


SECTIONS = (
    "extraction",
    "training",
    "end_to_end",
    "published",
    "agreement",
    "around",
    "memory",
    "numbers",
    "growth",
    "scale",
    "peers",
    "search",
    "search_bfloat16",
    "evaluation",
    "commands",
)

LONG = ("end_to_end", "growth", "scale", "peers", "search", "search_bfloat16", "evaluation")
"""Not part of the quick run."""


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under three minutes; no whole search")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections")
    parser.add_argument(
        "--home", type=Path, default=ROOT / "storage", help="where the whole search works, in a folder of its own"
    )
    parser.add_argument("--weights", default="random", help="of the whole search: random, imagenet or a file")
    chosen = parser.parse_args()
    path = RESULTS / ("quick.json" if chosen.quick else "latest.json")
    weights = chosen.weights if chosen.weights in ("random", "imagenet") else str(Path(chosen.weights).resolve())
    bench = Bench(chosen.quick, chosen.home.resolve() / "rust_optuna_benchmark", weights)
    wanted = chosen.only or [name for name in SECTIONS if not (chosen.quick and name in LONG)]
    for name in wanted:
        print(f"{name} ...", file=sys.stderr, flush=True)
        section: Callable[[], list[Row]] = getattr(bench, name)
        bench.measured.setdefault("rows", {})[name] = [vars(each) for each in section()]
        if not chosen.quick:
            bench.measured["machine"] = {"processor": platform.processor(), "cores": os.cpu_count()}
            _write_raw(bench.measured)
    kept = [Row(**each) for name in SECTIONS for each in bench.measured.get("rows", {}).get(name, [])]
    write(kept, path)
    print(as_text(kept))
    if not chosen.quick:
        if {"growth", "training", "extraction"} <= bench.measured.keys():
            draw()
        put_into(ROOT / "docs" / "performance.md", as_markdown(kept))
    print(f"\n{path.relative_to(ROOT)}; how to read it: docs/performance.md")


def _batch_sizes() -> list[int]:
    """Return the batch sizes of Regime I's 100 points."""
    from rust_optuna.search.design import draw

    return [int(point["batch_size"]) for point in draw(read_study_file(ROOT / "studies" / "regime_1.toml"))]


def _seconds(runs: Sequence[Any], size: int) -> float:
    """Return the seconds of a trial, its steps on a straight line between the measured batch sizes.

    A trial's time is steps × a step's time, and a step's time is nearly straight in the batch size.
    """
    films = material.FILMS * (material.FOLDS - 1) / material.FOLDS
    sizes = sorted(int(key.split()[1]) for key in runs[0] if key.startswith("float32 "))
    trial = [statistics.median([s for run in runs for s in run[f"float32 {known}"]["seconds"]]) for known in sizes]
    steps = [math.ceil(films / known) for known in sizes]
    step = [seconds / count for count, seconds in zip(steps, trial, strict=True)]
    count = math.ceil(films / size)
    # By the mean batch: the last of an epoch is short.
    return count * float(np.interp(films / count, [films / known for known in steps], step))


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def _less(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


def _memory(precision: str, samples: Sequence[Sequence[float]]) -> list[Row]:
    """Return the largest resident memory of a worker, and how much the longest-lived ones grew after their warm-up."""
    by_process: dict[int, list[tuple[float, float]]] = {}
    for second, process, megabytes in samples:
        by_process.setdefault(int(process), []).append((second, megabytes))
    longest = max(by_process.values(), key=len)
    tenth = max(1, len(longest) // 10)
    early = statistics.median(size for _, size in longest[tenth : 2 * tenth])
    late = statistics.median(size for _, size in longest[-tenth:])
    largest = max(size for _, _, size in samples)
    return [
        row(f"memory of a worker, {precision}: largest", "≤ 1.5", [largest * 2**20 / 1e9], "GB"),
        row(f"memory of a worker, {precision}: last tenth of Regime I less second", "≤ 30", [late - early], "MB"),
    ]


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _write_raw(measured: dict[str, Any]) -> None:
    path = RESULTS / "raw.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=None, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
