"""``rust-optuna evaluate``: turn the best trial of a search into a model that has met the hold-out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from rust_optuna.cli.evaluation_output import print_by_source, print_evaluation, print_external
from rust_optuna.cli.next_step import print_after_by_source, print_after_evaluation
from rust_optuna.cli.options import (
    GOES_ON,
    common_options,
    current_site,
    data_root_option,
    device_options,
    examples,
    if_interrupted,
    json_option,
    terminate_as_interrupt,
)
from rust_optuna.cli.output import print_json, progress_bar

if TYPE_CHECKING:
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.model.by_source import SourceEvaluation
    from rust_optuna.model.evaluation import Evaluation
    from rust_optuna.model.external import ExternalEvaluation
    from rust_optuna.run.by_source import SourcesRequest
    from rust_optuna.run.evaluation import Request
    from rust_optuna.storage.site import Site


@click.command(
    epilog=examples(
        "rust-optuna evaluate --study regime-2",
        "rust-optuna evaluate --study regime-2 --folds 5 --seeds 3",
        "rust-optuna evaluate --external other_hospital.csv --model regime-2",
        "rust-optuna evaluate --by-source --study regime-2",
    )
)
@click.option("--study", metavar="NAME", help="The search to evaluate.  [default: the last one]")
@click.option("--folds", default=10, show_default=True, type=click.IntRange(min=2, max=1000), help="New folds.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1, max=100), help="Heads for each fold.")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="The manifest of the search's films.  [default: the one from which it was created on this machine]",
)
@click.option("--name", help="The name of the model directory below storage/models.  [default: the search's name]")
@click.option("--again", is_flag=True, help="Open the hold-out even if other models have met it.")
@click.option(
    "--record",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder in which the opening of the hold-out is recorded, as well as in the database.  [default: that of "
    "the manifest]",
)
@click.option(
    "--united-from",
    metavar="TOTAL",
    type=click.IntRange(min=4, max=16),
    help="The total from which a fracture counts as united.  [default: 13 for modified RUST, 10 for RUST]",
)
@click.option(
    "--external",
    metavar="MANIFEST",
    type=click.Path(path_type=Path),
    help="Score all films of a second data set with the models of a finished evaluation, instead of evaluating a "
    "search.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="With --external: the model directory below storage/models.  [default: the only one]",
)
@click.option(
    "--weights",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="With --external: the weights file of the backbone.  [default: the one that the evaluation used]",
)
@click.option(
    "--by-source",
    is_flag=True,
    help="Cross-validate with one source left out at a time, and leave the hold-out closed.",
)
@device_options
@data_root_option
@json_option
@common_options
@click.pass_context
def evaluate(
    context: click.Context,
    study: str | None,
    folds: int,
    seeds: int,
    manifest: Path | None,
    name: str | None,
    again: bool,
    record: Path | None,
    united_from: int | None,
    external: Path | None,
    model: str | None,
    weights: Path | None,
    by_source: bool,
    gpus: str,
    per_gpu: int | None,
    workers: int | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Evaluate a search on the hold-out, once.

    The command cross-validates the final model with new folds and new seeds, for the number of epochs that the search
    chose, and fits one head on the whole development set. Then it records the opening of the hold-out, scores it, and
    writes a model directory below storage/models. Ctrl-C stops it cleanly; to go on, run the same command again. That
    counts as the same opening.

    The hold-out is opened once. To open it for another model, use --again; every report then shows all openings.

    With --external, the models of a finished evaluation score a second data set, and nothing is trained. With
    --by-source, the films of each hospital or earlier study (the manifest's column "source") are scored by a head that
    was trained on those of the others. Both write a report below storage/reports, and neither opens the hold-out.
    """
    from rust_optuna import logs
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.run.by_source import SourcesRequest
    from rust_optuna.run.evaluation import Request

    logs.configure("text", level=logging.WARNING)
    if_interrupted(GOES_ON)
    terminate_as_interrupt()
    _refuse_mixed(context)
    site, root = current_site(), current_site().data_root(data_root)
    if external is not None:
        scored = _run_external(site, external, model, weights, root)
        if as_json:
            print_json({"report": str(scored.folder), **scored.numbers})
        else:
            print_external(scored)
        return
    choice = DeviceChoice(gpus, workers, per_gpu)
    if by_source:
        found = _run_by_source(site, SourcesRequest(study, manifest, root), choice)
        if as_json:
            print_json({"report": str(found.folder), **found.numbers})
        else:
            print_by_source(found)
            print_after_by_source(found.numbers["study"])
        return
    request = Request(
        study=study,
        folds=folds,
        seeds=seeds,
        manifest=manifest,
        name=name,
        again=again,
        record=record,
        threshold=united_from,
        data_root=root,
    )
    done = run_evaluation(site, request, choice)
    if as_json:
        print_json({"model": str(done.folder), "openings": [o.to_json() for o in done.openings], **done.metrics})
        return
    print_evaluation(done)
    print_after_evaluation(done.folder.name)


SEPARATE = {
    "external": {"model", "weights"},
    "by_source": {"study", "manifest", "gpus", "per_gpu", "workers"},
}
"""The options that choose what is evaluated, each with those that it goes with."""
ANYWHERE = {"data_root", "as_json"}
"""The options that go with all of these."""


def _refuse_mixed(context: click.Context) -> None:
    """Refuse options that mean nothing beside those that choose what is evaluated.

    Raises:
        UsageError: with the options.
    """
    names = {str(each.name): each.opts[0] for each in context.command.params if each.expose_value}
    given = {name for name in names if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    chosen = [name for name in SEPARATE if name in given]
    if not chosen and given & SEPARATE["external"]:
        raise click.UsageError(f"{_options(names, given & SEPARATE['external'])} goes with --external only")
    for name in chosen[:1]:
        if others := given - {name} - SEPARATE[name] - ANYWHERE:
            raise click.UsageError(f"{names[name]} does not go with {_options(names, others)}")


def _options(names: Mapping[str, str], chosen: set[str]) -> str:
    return ", ".join(option for name, option in names.items() if name in chosen)


def _run_external(
    site: Site, manifest: Path, model: str | None, weights: Path | None, data_root: Path | None
) -> ExternalEvaluation:
    """Score a second data set, and show the progress on stderr."""
    from rust_optuna.run.external import evaluate_external

    with progress_bar("Reading films") as read, progress_bar("Extracting features") as extracted:
        return evaluate_external(
            site,
            manifest,
            model=model,
            weights=weights,
            data_root=data_root,
            on_read=read,
            on_extracted=extracted,
        )


def _run_by_source(site: Site, request: SourcesRequest, choice: DeviceChoice) -> SourceEvaluation:
    """Cross-validate a search by source, and show the progress on stderr."""
    from rust_optuna.cli.live import LiveTable
    from rust_optuna.run.by_source import evaluate_by_source

    with progress_bar("Hashing films") as hashed, LiveTable(hashed) as table:
        return evaluate_by_source(site, request, choice, table.evaluation_listener())


def run_evaluation(site: Site, request: Request, choice: DeviceChoice) -> Evaluation:
    """Evaluate a search, and show its progress on stderr."""
    from rust_optuna.cli.live import LiveTable
    from rust_optuna.run.evaluation import evaluate as run

    with (
        progress_bar("Hashing films") as hashed,
        progress_bar("Fitting the whole development set") as fitted,
        progress_bar("Extracting features") as extracted,
        LiveTable(hashed) as table,
    ):
        return run(site, request, choice, table.evaluation_listener(on_extracted=extracted, on_fitted=fitted))
