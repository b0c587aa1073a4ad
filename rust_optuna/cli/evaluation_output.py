"""How the results of an evaluation are printed: its scores, its readings and its warnings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from rust_optuna.cli.output import counted
from rust_optuna.cli.tables import Side, print_table

if TYPE_CHECKING:
    from rust_optuna.model.by_source import SourceEvaluation
    from rust_optuna.model.evaluation import Evaluation
    from rust_optuna.model.external import ExternalEvaluation
    from rust_optuna.model.openings import Opening

MODELS = {
    "best_fold": "best fold's model (primary)",
    "mean": "mean of all folds' models",
    "mean_flips": "the same, mean over the four flips",
    "whole": "model of the whole development set",
}
"""What the four models of an evaluation are called."""
BASELINES = {"view_only": "baseline: sees only the view", "frequencies": "baseline: label frequencies"}
"""What the two trivial baselines are called."""
SCALES = {"rust": "RUST", "modified_rust": "modified RUST"}
"""What the two instruments are called."""


def print_evaluation(done: Evaluation) -> None:
    """Print the results of an evaluation: the scores side by side, the primary number, and any warnings."""
    metrics = done.metrics
    _print_cross_validation(metrics)
    _print_scores("Hold-out", metrics["holdout"])
    _print_readings(metrics["holdout"]["best_fold"], "the hold-out")
    _print_warnings(metrics["words"])
    if len(done.openings) > 1:
        click.echo(f"The hold-out has been opened {len(done.openings)} times. These are the results of each opening:")
        columns: dict[str, Side] = {"opened": "left", "study": "left", "average precision": "left"}
        print_table(columns, list(map(_opening, done.openings)), indent=2)
    click.echo(f"Model: {done.folder}")
    click.echo(f"Record of the opening: {done.record}")


def print_external(done: ExternalEvaluation) -> None:
    """Print the results on a second data set."""
    numbers = done.numbers["external"]["best_fold"]
    click.echo(f"{done.model}: {counted(numbers['films'], 'film')} of {counted(numbers['patients'], 'patient')}")
    _print_scores("Second data set", done.numbers["external"])
    _print_readings(numbers, "the second data set")
    _print_warnings(done.numbers["words"])
    click.echo(f"Report: {done.folder}")


def print_by_source(done: SourceEvaluation) -> None:
    """Print the results of each source, and their means."""
    numbers = done.numbers
    groups = numbers["subgroups"]["source"]
    click.echo(f"{numbers['study']}, each of {counted(len(groups), 'source')} left out once")
    click.echo("Average precision over the 16 subscores, with its 95% interval over patients:")
    columns: dict[str, Side] = {
        "source": "left",
        "films": "right",
        "patients": "right",
        **dict.fromkeys(("model", "view-only baseline", "lift"), "left"),
    }
    rows = [(name, f"{each['films']:,}", f"{each['patients']:,}", *_lift(each)) for name, each in groups.items()]
    mean = numbers["mean_over_sources"]
    print_table(columns, [*rows, ("mean", f"{numbers['films']:,}", f"{numbers['patients']:,}", *_lift(mean))], indent=2)
    click.echo("  The baseline's ties are broken at random; the lift is over it. The hold-out was not opened.")
    _print_warnings(numbers["words"])
    click.echo(f"Report: {done.folder}")


def _opening(opening: Opening) -> tuple[str, str, str]:
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(opening.opened_at))
    numbers = opening.numbers
    found = "none: it was interrupted" if numbers is None else _in_one(numbers["average_precision_16"])
    return day, opening.study, found


def _lift(group: Mapping[str, Any]) -> tuple[str, str, str]:
    model, baseline = (group[scorer]["average_precision"] for scorer in ("model", "view_only_untied"))
    return _in_one(model), _in_one(baseline), _in_one(group["lift"])


def _print_cross_validation(metrics: Mapping[str, Any]) -> None:
    selection, fresh = metrics["selection"], metrics["fresh"]
    click.echo(f"{metrics['study']}, trial {selection['trial']}, {counted(fresh['epochs'], 'epoch')}")
    columns: dict[str, Side] = {
        "average precision over": "left",
        "selection score": "right",
        "fresh cross-validation": "right",
    }
    rows = [
        (labels, _number(selection[key]), _number(fresh[key]))
        for labels, key in (("the 18 labels", "average_precision"), ("the 16 subscores", "average_precision_16"))
    ]
    print_table(columns, rows, indent=2)
    click.echo(
        f"  The fresh score is of {counted(fresh['folds'], 'new fold')} and {counted(fresh['seeds'], 'new seed')}, "
        "but of the same patients: only the hold-out is independent."
    )
    # Directories that an earlier version wrote do not say how many folds the search had.
    searched = selection.get("folds", fresh["folds"])
    if searched != fresh["folds"]:
        click.echo(
            f"  The search had {searched} folds. The more folds there are, the smaller is each set that is scored, and "
            "average precision is higher on smaller sets."
        )


def _print_scores(films: str, by_model: Mapping[str, Any]) -> None:
    """Print the average precision of each model, and of the baselines, on the films so named."""
    click.echo(f"{films}, average precision over the 16 subscores, with its 95% interval over patients:")
    macros = {key: by_model[key]["labels"]["macro_16"]["model"] for key in MODELS}
    baselines = by_model["best_fold"]["labels"]["macro_16"]
    rows = [(title, *_estimate(macros[key]["average_precision"])) for key, title in MODELS.items()]
    rows += [(title, *_estimate(baselines[key]["average_precision"])) for key, title in BASELINES.items()]
    columns: dict[str, Side] = {"scored by": "left", "value": "right", "95% interval": "left"}
    print_table(columns, rows, indent=2)


def _print_readings(numbers: Mapping[str, Any], films: str) -> None:
    """Print the primary model's scores as readings of cortices and fractures, of the films so named."""
    cortices, sets = numbers["subscores"]["mean"], numbers["sets"]["mean"]["model"]
    ours, baseline = cortices["model"], cortices["view_only"]
    click.echo(f"Readings of {films}:")
    rows = [
        _beside("subscore, exact", ours["exact"], baseline["exact"]),
        _beside("subscore, within one", ours["within_one"], baseline["within_one"]),
        _beside("quadratic-weighted kappa", ours["quadratic_kappa"], baseline["quadratic_kappa"]),
        ("sets of subscores, coverage (aim: 0.9)", *_estimate(sets["coverage"]), ""),
        ("sets of subscores, mean size", *_estimate(sets["mean_size"]), ""),
    ]
    fractures = numbers["fractures"]
    if fractures["fractures"]:
        total, united = fractures["total"], fractures["united"]
        for title, key in (("mean absolute error", "mean_absolute_error"), ("ICC(2,1)", "icc")):
            rows.append(_beside(f"total of a fracture, {title}", total["model"][key], total["view_only"][key]))
        for title, key in (("ROC-AUC", "roc_auc"), ("Brier score", "brier")):
            name = f"united (total ≥ {fractures['threshold']:g}), {title}"
            rows.append(_beside(name, united["model"][key], united["view_only"][key]))
    columns: dict[str, Side] = {
        "reading": "left",
        "value": "right",
        "95% interval": "left",
        "view-only baseline": "right",
    }
    print_table(columns, rows, indent=2)
    if fractures["fractures"]:
        count = counted(fractures["fractures"], "fracture")
        click.echo(f"  Totals are {SCALES[fractures['scale']]} of {count}, each with both of its films.")


def _print_warnings(sentences: Sequence[str]) -> None:
    for words in sentences:
        click.echo(f"WARNING: {words}")


def _beside(title: str, ours: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return (title, *_estimate(ours), _number(baseline["value"]))


def _estimate(document: Mapping[str, Any]) -> tuple[str, str]:
    """Return an estimate and its interval as they are shown."""
    return _number(document["value"]), f"[{_number(document['low'])}, {_number(document['high'])}]"


def _in_one(document: Mapping[str, Any]) -> str:
    return " ".join(_estimate(document))


def _number(value: float | None) -> str:
    # Plus zero, for a number that is minus nothing.
    return "–" if value is None else f"{round(value, 4) + 0.0:.4f}"
