"""Draws ``docs/images/performance.png`` from what the last benchmark measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import material
from benchmarks.sections import ROOT
from benchmarks.table import RESULTS

SIZES = (16, 128, 512, 1600)


def draw() -> None:
    """Draw a trial's time beside others', and how cost grows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = json.loads((RESULTS / "raw.json").read_text(encoding="utf-8"))
    figure, axes = pyplot.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    (trial, films, folds), (trials, workers, memory) = axes
    _trial(trial, measured)
    growth = measured["growth"]
    _line(films, growth["films"], "development films (published: 2,497)", "seconds a trial, batch 512, one core")
    films.axvline(material.FILMS, color="0.8", zorder=0)
    _line(folds, growth["folds"], "folds (published: 6)", "seconds a trial, batch 512, one core", scale="linear")
    _line(workers, growth["workers"], "workers on SQLite", "stand-in points of 0.25 s, a second", scale="linear")
    workers.plot([1, 8], [4, 32], color="0.8", zorder=0, label="without any cost")
    workers.legend()
    _line(trials, growth["create"], "trials in the study", "seconds", label="creating the study, once")
    _line(trials, growth["claim"], "trials in the study", "seconds", label="claiming and finishing one point")
    trials.legend()
    if "search float32" in measured:
        _memory(memory, measured["search float32"]["memory"])
    else:
        memory.remove()
    path = ROOT / "docs" / "images" / "performance.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _trial(axes: Any, measured: dict[str, Any]) -> None:
    alone = measured["training"]["alone"]
    step = measured["extraction"]["both"]["published"]
    published = material.FILMS * (material.FOLDS - 1) * step["train"] + material.FILMS * step["predict"]
    axes.axhline(material.EPOCHS * published, color="C3", label="published way, both cores (extrapolated)")
    for key, label in (("fit", "Keras fit on cached features"), ("float32", "ours"), ("bfloat16", "ours, bfloat16")):
        seconds = [statistics.median(alone[f"{key} {size}"]["seconds"]) for size in SIZES]
        axes.plot(SIZES, seconds, marker="o", label=f"{label}, one core")
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="seconds a trial (6 folds × 20 epochs)")
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.9))


def _line(
    axes: Any, points: Sequence[Sequence[float]], x: str, y: str, label: str | None = None, scale: str = "log"
) -> None:
    axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xscale=scale, yscale=scale, xlabel=x, ylabel=y)


def _memory(axes: Any, samples: Sequence[Sequence[float]]) -> None:
    for process in dict.fromkeys(process for _, process, _ in samples):
        points = [(second / 60, megabytes) for second, each, megabytes in samples if each == process]
        axes.plot(*zip(*points, strict=True))
    axes.set(xlabel="minutes of the whole search", ylabel="MB of each worker", ylim=(0, None))


if __name__ == "__main__":
    draw()
