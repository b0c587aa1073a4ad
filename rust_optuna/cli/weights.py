"""``rust-optuna weights``: check whether a weights file fits the backbone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rust_optuna.cli.options import NOTHING_WRITTEN, current_site, examples, home_option, if_interrupted
from rust_optuna.errors import WeightsError
from rust_optuna.study_file import toml_string

if TYPE_CHECKING:
    from rust_optuna.learn.backbone import WeightsReport


@click.group()
def weights() -> None:
    """Check files of pretrained backbone weights."""


@weights.command(epilog=examples("rust-optuna weights check RadImageNet-InceptionV3_notop.h5"))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@home_option
@click.pass_context
def check(context: click.Context, path: Path, as_json: bool) -> None:
    """Check whether the weights file PATH fits InceptionV3 without its top.

    The exit code is 0 if it does. Otherwise the reason is printed, and the exit code is 1.
    """
    from rust_optuna.learn.backbone import check_weights

    if_interrupted(NOTHING_WRITTEN)
    try:
        report = check_weights(current_site().home.resolve(path))
    except WeightsError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"fits": False, "path": str(path), "reason": str(error)}))
        context.exit(error.exit_code)
    click.echo(json.dumps(_to_json(report)) if as_json else _to_text(report))


def _to_json(report: WeightsReport) -> dict[str, Any]:
    return {"fits": True, **asdict(report), "path": str(report.path)}


def _to_text(report: WeightsReport) -> str:
    return "\n".join(
        [
            f"{report.path} fits InceptionV3 without its top.",
            f"  layout      {report.layout}",
            f"  parameters  {report.parameters:,} in {report.layers} layers, all of them finite",
            f"  kernels     standard deviation {report.kernel_deviation:.4f}; "
            f"they differ from random ones by {report.mean_change:.4f} on average",
            f"  sha256      {report.sha256}",
            f"Use it in a study file: [model] weights = {toml_string(str(report.path))}",
        ]
    )
