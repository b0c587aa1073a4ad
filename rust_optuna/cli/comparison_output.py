"""How the results of a comparison are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from rust_optuna.cli.output import counted
from rust_optuna.cli.tables import Side, print_table

if TYPE_CHECKING:
    from rust_optuna.model.comparison import Comparison


def print_comparison(done: Comparison) -> None:
    """Print the configurations side by side: by the 18 labels, which chose the epochs, and by the 16 subscores."""
    numbers = done.numbers
    compared, first = numbers["compared"], numbers["reference"]
    films = f"{counted(numbers['films'], 'film')} of {counted(numbers['patients'], 'patient')}"
    difference = [f"difference to {first}"] if len(compared) > 1 else []
    click.echo(f"{films}, {numbers['folds']} folds. Average precision over the 18 labels, at the best epoch:")
    columns: dict[str, Side] = {
        "study": "left",
        **dict.fromkeys(("epoch", "value ± deviation over folds", "view-only baseline"), "right"),
        **dict.fromkeys(difference, "left"),
        "seconds": "right",
    }
    rows = [
        (
            each["study"],
            f"{each['epoch']} of {each['epochs']}",
            _spread(each["curve"][each["epoch"] - 1], each["deviation"]),
            _number(each["baseline_view_only"]["average_precision"]),
            *([_difference(each, "average_precision")] if difference else []),
            f"{each['seconds']:,.0f}",
        )
        for each in compared
    ]
    print_table(columns, rows, indent=2)
    click.echo("Average precision over the 16 subscores, at the same epoch:")
    columns = {
        "study": "left",
        **dict.fromkeys(("value ± deviation over folds", "view-only baseline"), "right"),
        **dict.fromkeys(("lift", *difference), "left"),
    }
    rows = [
        (
            each["study"],
            _spread(each["scores"]["average_precision_16"], each["deviation_16"]),
            _number(each["baseline_view_only_untied"]["average_precision_16"]),
            _interval(each["lift"]),
            *([_difference(each, "average_precision_16")] if difference else []),
        )
        for each in compared
    ]
    print_table(columns, rows, indent=2)
    click.echo("  The subscores' baseline has its ties broken at random; the lift is over it.")
    click.echo("  In brackets are 95% intervals over patients.")
    if difference:
        click.echo(
            "  Differences are paired: a patient is drawn for all configurations at once. There is no t-test over the "
            "folds, which share training films and so are not independent."
        )
    click.echo(
        "  These values are selection scores: the films that score an epoch also chose it, so they are too high for "
        "other patients."
    )
    for words in numbers["words"]:
        click.echo(f"WARNING: {words}")
    click.echo(f"Report: {done.folder}")


def _difference(each: Mapping[str, Any], name: str) -> str:
    return "–" if each["difference"] is None else _interval(each["difference"][name])


def _interval(estimate: Mapping[str, Any]) -> str:
    """Return an estimate that may be below 0, with its interval."""
    if estimate["value"] is None:
        return "not defined"
    value, low, high = (f"{round(estimate[key], 4) + 0.0:+.4f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _spread(value: float | None, deviation: float | None) -> str:
    return f"{_number(value)} ± {_number(deviation)}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
