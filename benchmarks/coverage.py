"""How often sets of subscores hold the label, over many small data sets, each with a model trained on it.

    python -m benchmarks.coverage [--seeds 20]

For each seed, films are drawn and split, a point is searched and evaluated by the ordinary commands, and the sets of
the primary model are judged on the hold-out. The spread that is to be expected comes from drawing the patients of the
calibration and of the hold-out again. Writes ``benchmarks/results/coverage.json`` and its table in
``docs/evaluation.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sections
from benchmarks.table import put_into
from rust_optuna.data.manifest import CORTICES
from rust_optuna.model.conformal import CLASS_NAMES, COVERAGE, CortexConformal, patient_shares
from rust_optuna.model.scored import ScoredFilms
from rust_optuna.paths import Home

RESULTS = sections.ROOT / "benchmarks" / "results" / "coverage.json"
PATIENTS = 200
HOLDOUT = 0.3
CONTRAST = 2
RESAMPLES = 200
"""How often the patients of each seed are drawn again."""
STUDY = """
name = "search"
manifest = "manifest.csv"
[sampler]
type = "random"
seed = 1
n_trials = 1
[search_space]
learning_rate = {type = "float", low = 1e-3, high = 1.1e-3}
[fixed]
batch_size = 64
dropout_rate = 0.1
epsilon = 1e-7
[model]
weights = "random"
output = "mixed0"
image_size = 149
standardize = true
[cross_validation]
folds = 6
epochs = 15
seed = 1
"""


def main() -> None:
    """Evaluate a model for each seed, and write how often its sets hold the label."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    chosen = parser.parse_args()
    found = []
    for seed in range(1, chosen.seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            found.append(_one(Home(Path(folder)), seed))
        print(f"seed {seed}: {found[-1]['coverage']:.4f}", file=sys.stderr, flush=True)
    document = {"patients": PATIENTS, "holdout": HOLDOUT, "aim": COVERAGE, "resamples": RESAMPLES, "seeds": found}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    page = _page(found)
    put_into(sections.ROOT / "docs" / "evaluation.md", page, "python -m benchmarks.coverage")
    print(page)


def _one(home: Home, seed: int) -> dict[str, Any]:
    """Draw films, train, and judge the sets of the model on the hold-out."""
    _call("data", "synthesize", home.root, "--patients", PATIENTS, "--seed", seed, "--contrast", CONTRAST)
    _call("data", "split", home.root / "manifest.csv", "--holdout", HOLDOUT, "--seed", seed)
    study = home.root / "search.toml"
    study.write_text(STUDY, encoding="utf-8")
    _call("search", study, "--home", home.root)
    _call("evaluate", "--study", "search", "--home", home.root)
    model = home.models / "search"
    calibration, holdout = (ScoredFilms.load(model / "arrays" / f"{name}.npz") for name in ("out_of_fold", "best_fold"))
    sets = json.loads((model / "metrics.json").read_text())["holdout"]["best_fold"]["sets"]
    return {
        "coverage": sets["mean"]["model"]["coverage"]["value"],
        "mean_size": sets["mean"]["model"]["mean_size"]["value"],
        "expected_deviation": _expected_deviation(calibration, holdout, seed),
        "classes": {
            name: {
                "films": sets["classes"][name]["films"],
                "coverage": sets["classes"][name]["model"]["coverage"]["value"],
                "mean_size": sets["classes"][name]["model"]["mean_size"]["value"],
            }
            for name in CLASS_NAMES
            if sets["classes"][name]["films"]
        },
    }


def _expected_deviation(calibration: ScoredFilms, holdout: ScoredFilms, seed: int) -> float:
    """Return the deviation of the coverage if the patients of both sides are drawn again, with all of their films."""
    generator = np.random.default_rng(seed)
    coverages = []
    for _ in range(RESAMPLES):
        conformal = CortexConformal.fit(_redrawn(calibration, generator))
        coverages.append(_coverage(conformal, _redrawn(holdout, generator)))
    return float(np.std(coverages, ddof=1))


def _redrawn(films: ScoredFilms, generator: np.random.Generator) -> ScoredFilms:
    """Return as many patients, drawn with replacement; one who is drawn twice counts as two."""
    names = np.array(films.patients)
    drawn = generator.choice(np.unique(names), len(np.unique(names)))
    positions = [np.flatnonzero(names == name) for name in drawn]
    taken = films.take(np.concatenate(positions))
    copies = np.repeat(np.arange(len(drawn)), [len(each) for each in positions])
    return dataclasses.replace(
        taken,
        patients=tuple(f"{name} {copy}" for name, copy in zip(taken.patients, copies, strict=True)),
        visits=tuple(f"{visit} {copy}" for visit, copy in zip(taken.visits, copies, strict=True)),
    )


def _coverage(conformal: CortexConformal, films: ScoredFilms) -> float:
    """Return the coverage, a mean over the cortices; within one, each patient counts once."""
    sets = conformal.sets(films.scores)
    held = np.take_along_axis(sets, films.classes[:, :, np.newaxis], axis=2)[:, :, 0]
    names = np.array(films.patients)
    shown = [cortex for cortex in range(len(CORTICES)) if films.shown[:, cortex].any()]
    means = []
    for cortex in shown:
        of = films.shown[:, cortex]
        means.append(np.average(held[of, cortex], weights=patient_shares(names[of])))
    return float(np.mean(means))


def _page(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the docs."""
    coverages = [each["coverage"] for each in found]
    expected = np.sqrt(np.mean([each["expected_deviation"] ** 2 for each in found]))
    lines = [
        f"{len(found)} drawn data sets of {PATIENTS} patients, {HOLDOUT:.0%} of them in the hold-out: the coverage is "
        f"{np.mean(coverages):.3f} on average ({min(coverages):.3f} to {max(coverages):.3f}), with a standard "
        f"deviation of {np.std(coverages, ddof=1):.3f} over the data sets. Drawing the patients of calibration and "
        f"hold-out again gives {expected:.3f}.",
        "",
        "| class | films | coverage | mean size of a set |",
        "| --- | --- | --- | --- |",
    ]
    for name in CLASS_NAMES:
        classes = [each["classes"][name] for each in found if name in each["classes"]]
        if classes:
            films = [each["films"] for each in classes]
            coverage, size = (
                np.average([each[key] for each in classes], weights=films) for key in ("coverage", "mean_size")
            )
            lines.append(f"| {name} | {sum(films):,} | {coverage:.3f} | {size:.2f} |")
    return "\n".join(lines)


def _call(*arguments: object) -> None:
    command = [sys.executable, "-m", "rust_optuna", *map(str, arguments)]
    done = subprocess.run(command, cwd=sections.ROOT, env=sections.environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


if __name__ == "__main__":
    main()
