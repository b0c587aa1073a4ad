"""An evaluation of the published size, by the ordinary commands, and its numbers.

    python -m benchmarks.evaluation HOME [--weights FILE]

Draws films of 1,207 patients below HOME, once; searches two points with the published settings, one after the other;
evaluates the better one; and lets ``docs/recompute_evaluation.py`` compute the numbers again. Writes
``benchmarks/results/evaluation.json`` and its lines in ``docs/evaluation.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import sections
from benchmarks.table import put_into
from benchmarks.whole_search import PATIENTS
from rust_optuna.cli.evaluation_output import BASELINES, MODELS
from rust_optuna.machine import cpu_cores, instruction_set, processor
from rust_optuna.paths import Home
from rust_optuna.search.results import complete_points
from rust_optuna.search.studies import count_films, load_study
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import sqlite_url

RESULTS = sections.ROOT / "benchmarks" / "results" / "evaluation.json"
STUDY = """
name = "search"
manifest = "manifest.csv"
[sampler]
type = "grid"
seed = 1
[search_space]
learning_rate = [1e-3, 1e-2]
[fixed]
batch_size = {batch_size}
dropout_rate = 0.25
epsilon = 1e-7
[model]
weights = "{weights}"
output = "mixed4"
pooling = "average"
standardize = true
[cross_validation]
folds = 6
epochs = 20
seed = 1
"""


def main() -> None:
    """Search, evaluate, recompute, and write what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--weights", default="random", help="random, imagenet or a file")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--patients", type=int, default=PATIENTS)
    chosen = parser.parse_args()
    weights = chosen.weights if chosen.weights in ("random", "imagenet") else str(Path(chosen.weights).resolve())
    home = Home(chosen.home.resolve())
    if not (home.root / "manifest.csv").is_file():
        _call("data", "synthesize", str(home.root), "--patients", str(chosen.patients), "--seed", "1")
        _call("data", "split", str(home.root / "manifest.csv"), "--holdout", "0.15", "--seed", "1")
    study = home.root / "search.toml"
    study.write_text(STUDY.format(weights=weights, batch_size=chosen.batch_size), encoding="utf-8")
    here = ["--home", str(home.root)]
    _call("study", "create", str(study), *here)
    features = _call("features", "build", str(study), *here)
    _call("search", str(study), "--workers", "1", *here)
    with open_database(sqlite_url(home.database), read_only=True) as database:
        searched = load_study(database, "search")
        development = count_films(database, searched)["films"]
        trials = [point.seconds for point in complete_points(database, searched)]
    evaluation = _call("evaluate", "--study", "search", "--workers", "1", "--json", *here)
    model = home.models / "search"
    script = [sys.executable, str(sections.ROOT / "docs" / "recompute_evaluation.py"), str(model)]
    recomputed = subprocess.run(script, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
    metrics = json.loads(evaluation.output)
    numbers = metrics["holdout"]["best_fold"]
    found = {
        "processor": processor(),
        "instructions": instruction_set(),
        "cores": cpu_cores(),
        "weights": Path(weights).name,
        "films": development + numbers["films"],
        "development_films": development,
        "holdout_films": numbers["films"],
        "batch_size": chosen.batch_size,
        "epochs": metrics["fresh"]["epochs"],
        "features_seconds": round(features.seconds, 1),
        "trial_seconds": [round(seconds, 1) for seconds in trials],
        "evaluation_seconds": round(evaluation.seconds, 1),
        "largest_process_megabytes": evaluation.megabytes,
        "recomputed": recomputed,
        "selection": metrics["selection"],
        "fresh": metrics["fresh"],
        "holdout": {name: metrics["holdout"][name]["labels"]["macro_16"] for name in MODELS},
        "readings": {
            "subscores": numbers["subscores"]["mean"],
            "sets": numbers["sets"]["mean"],
            "fractures": {
                "threshold": numbers["fractures"]["threshold"],
                "total": numbers["fractures"]["total"]["model"],
                "united": {"roc_auc": numbers["fractures"]["united"]["model"]["roc_auc"]},
            },
        },
        "words": metrics["words"],
    }
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = _page(found)
    put_into(sections.ROOT / "docs" / "evaluation.md", page, "python -m benchmarks.evaluation")
    print(page)


@dataclass(frozen=True)
class Call:
    """What a command took: its seconds, the megabytes of its largest process, and what it printed."""

    seconds: float
    megabytes: int
    output: str


def _call(*arguments: str) -> Call:
    """Run a command of the program to its end."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        began = time.perf_counter()
        command = [sys.executable, "-m", "rust_optuna", *arguments]
        child = subprocess.Popen(command, stdout=output, cwd=sections.ROOT, env=sections.environment())
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if child.returncode:
            raise RuntimeError(f"{shlex.join(arguments)} failed")
        output.seek(0)
        return Call(seconds, used.ru_maxrss // 1024, output.read())


def _page(found: Mapping[str, Any]) -> str:
    """Return the results as they stand in the docs."""
    extraction = found["features_seconds"] * found["holdout_films"] / found["development_films"]
    trial = statistics.mean(found["trial_seconds"])
    lines = [
        f"{found['films']:,} drawn films, {found['holdout_films']} of them in the hold-out, with the weights "
        f"`{found['weights']}`, at batch size {found['batch_size']}, on {found['cores']} cores of "
        f"{found['processor']} with {found['instructions']}, one worker:",
        "",
        "| what | measured |",
        "| --- | --- |",
        f"| features of the development films | {found['features_seconds']:.0f} s |",
        f"| a trial of the search (6 folds, 20 epochs) | {trial:.1f} s |",
        f"| the evaluation ({found['fresh']['folds']} folds, {found['epochs']} epochs), all of it | "
        f"{found['evaluation_seconds']:.0f} s, about {extraction:.0f} s of them for the hold-out's features: "
        f"{(found['evaluation_seconds'] - extraction) / trial:.1f} trials beside these |",
        f"| memory of its largest process | {found['largest_process_megabytes']:,} MB |",
        f"| `docs/recompute_evaluation.py` | {found['recomputed']} |",
        f"| average precision, 16 subscores: selection score, fresh cross-validation | "
        f"{found['selection']['average_precision_16']:.4f}, {found['fresh']['average_precision_16']:.4f} |",
    ]
    scores = [(f"hold-out: {title}", found["holdout"][name]["model"]) for name, title in MODELS.items()]
    scores += [(f"hold-out: {title}", found["holdout"]["best_fold"][name]) for name, title in BASELINES.items()]
    lines += [f"| {title} | {_estimate(numbers['average_precision'])} |" for title, numbers in scores]
    subscores, sets, fractures = (found["readings"][part] for part in ("subscores", "sets", "fractures"))
    total, united = fractures["total"], fractures["united"]
    readings = {
        "subscore, exact": subscores["model"]["exact"],
        "subscore, within one": subscores["model"]["within_one"],
        "quadratic-weighted kappa": subscores["model"]["quadratic_kappa"],
        "sets of subscores, coverage (aim: 0.9)": sets["model"]["coverage"],
        "sets of subscores, mean size": sets["model"]["mean_size"],
        "total of a fracture, mean absolute error": total["mean_absolute_error"],
        "total of a fracture, ICC(2,1)": total["icc"],
        f"united (total ≥ {fractures['threshold']:g}), ROC-AUC": united["roc_auc"],
    }
    lines += [f"| hold-out: {title} | {_estimate(estimate)} |" for title, estimate in readings.items()]
    return "\n".join(lines)


def _estimate(document: Mapping[str, Any]) -> str:
    return f"{document['value']:.4f} [{document['low']:.4f}, {document['high']:.4f}]"


if __name__ == "__main__":
    main()
