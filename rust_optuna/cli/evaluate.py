"""``rust-optuna evaluate``: turn the best trial of a search into a model that has met the hold-out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

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
from rust_optuna.cli.output import counted, print_json, progress_bar
from rust_optuna.cli.tables import Side, print_table

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
        _print_external(_run_external(site, external, model, weights, root), as_json)
        return
    choice = DeviceChoice(gpus, workers, per_gpu)
    if by_source:
        found = _run_by_source(site, SourcesRequest(study, manifest, root), choice)
        _print_by_source(found, as_json)
        if not as_json:
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
    from rust_optuna.run.evaluation import EvaluationListener

    with progress_bar("Hashing films") as hashed, LiveTable(hashed) as table:
        listener = EvaluationListener(
            on_hashed=hashed, on_created=table.created, on_status=table.show, on_trained=table.stop
        )
        return evaluate_by_source(site, request, choice, listener)


def _print_external(done: ExternalEvaluation, as_json: bool) -> None:
    """Print the results on a second data set."""
    if as_json:
        print_json({"report": str(done.folder), **done.numbers})
        return
    numbers = done.numbers["external"]["best_fold"]
    click.echo(f"{done.model}: {counted(numbers['films'], 'film')} of {counted(numbers['patients'], 'patient')}")
    _print_scores("Second data set", done.numbers["external"])
    _print_readings(numbers, "the second data set")
    _print_words(done.numbers["words"])
    click.echo(f"Report: {done.folder}")


def _print_by_source(done: SourceEvaluation, as_json: bool) -> None:
    """Print the results of each source, and their means."""
    numbers = done.numbers
    if as_json:
        print_json({"report": str(done.folder), **numbers})
        return
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
    _print_words(numbers["words"])
    click.echo(f"Report: {done.folder}")


def _lift(group: Mapping[str, Any]) -> tuple[str, str, str]:
    model, baseline = (group[scorer]["average_precision"] for scorer in ("model", "view_only_untied"))
    return _estimate(model), _estimate(baseline), _estimate(group["lift"])


def run_evaluation(site: Site, request: Request, choice: DeviceChoice) -> Evaluation:
    """Evaluate a search, and show its progress on stderr."""
    from rust_optuna.cli.live import LiveTable
    from rust_optuna.run.evaluation import EvaluationListener
    from rust_optuna.run.evaluation import evaluate as run

    with (
        progress_bar("Hashing films") as hashed,
        progress_bar("Fitting the whole development set") as fitted,
        progress_bar("Extracting features") as extracted,
        LiveTable(hashed) as table,
    ):
        listener = EvaluationListener(
            on_hashed=hashed,
            on_created=table.created,
            on_status=table.show,
            on_extracted=extracted,
            on_fitted=fitted,
            on_trained=table.stop,
        )
        return run(site, request, choice, listener)


def print_evaluation(done: Evaluation) -> None:
    """Print the results of an evaluation: the scores side by side, the primary number, and any warnings."""
    metrics = done.metrics
    _print_cross_validation(metrics)
    _print_scores("Hold-out", metrics["holdout"])
    _print_readings(metrics["holdout"]["best_fold"], "the hold-out")
    _print_words(metrics["words"])
    if len(done.openings) > 1:
        click.echo(f"The hold-out has been opened {len(done.openings)} times. These are the results of each opening:")
        for opening in done.openings:
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(opening.opened_at))
            numbers = opening.numbers
            found = "no numbers: it was interrupted" if numbers is None else _estimate(numbers["average_precision_16"])
            click.echo(f"  {day}  {opening.study}: {found}")
    click.echo(f"Model: {done.folder}")
    click.echo(f"Record of the opening: {done.record}")


def _print_cross_validation(metrics: Mapping[str, Any]) -> None:
    selection, fresh = metrics["selection"], metrics["fresh"]
    click.echo(f"{metrics['study']}, trial {selection['trial']}, {counted(fresh['epochs'], 'epoch')}")
    for title, key in (("18 labels", "average_precision"), ("16 subscores", "average_precision_16")):
        click.echo(
            f"  average precision, {title}: selection score {_number(selection[key])}, "
            f"fresh cross-validation {_number(fresh[key])}"
        )
    click.echo(
        f"  The fresh score is of {counted(fresh['folds'], 'new fold')} and {counted(fresh['seeds'], 'new seed')}, "
        "but of the same patients: only the hold-out is independent."
    )


def _print_words(sentences: Sequence[str]) -> None:
    for words in sentences:
        click.echo(f"WARNING: {words}")


def _print_scores(films: str, by_model: Mapping[str, Any]) -> None:
    """Print the average precision of each model, and of the baselines, on the films so named."""
    click.echo(f"{films}, average precision over the 16 subscores, with its 95% interval over patients:")
    for name, title in (
        ("best_fold", "best fold's model (primary)"),
        ("mean", "mean of all folds' models"),
        ("mean_flips", "the same, mean over the four flips"),
        ("whole", "model of the whole development set"),
    ):
        macro = by_model[name]["labels"]["macro_16"]
        click.echo(f"  {title:<36} {_estimate(macro['model']['average_precision'])}")
    macro = by_model["best_fold"]["labels"]["macro_16"]
    click.echo(f"  {'baseline: sees only the view':<36} {_estimate(macro['view_only']['average_precision'])}")
    click.echo(f"  {'baseline: label frequencies':<36} {_estimate(macro['frequencies']['average_precision'])}")


def _print_readings(numbers: Mapping[str, Any], films: str) -> None:
    """Print the primary model's scores as readings of cortices and fractures, of the films so named."""
    cortices, sets = numbers["subscores"]["mean"], numbers["sets"]["mean"]["model"]
    ours, baseline = cortices["model"], cortices["view_only"]
    click.echo(f"Readings of {films} (the 95% interval is in brackets, followed by the view-only baseline):")
    _print_pair("subscore, exact", ours["exact"], baseline["exact"])
    _print_pair("subscore, within one", ours["within_one"], baseline["within_one"])
    _print_pair("quadratic-weighted kappa", ours["quadratic_kappa"], baseline["quadratic_kappa"])
    click.echo(
        f"  {'sets of subscores, aimed at 90%':<36} {_estimate(sets['coverage'])} covered, "
        f"{_number(sets['mean_size']['value'])} subscores in a set"
    )
    fractures = numbers["fractures"]
    if not fractures["fractures"]:
        return
    total, united = fractures["total"], fractures["united"]
    scale = {"rust": "RUST", "modified_rust": "modified RUST"}[fractures["scale"]]
    click.echo(f"  {scale} of {counted(fractures['fractures'], 'fracture')}:")
    for title, key in (("total, mean absolute error", "mean_absolute_error"), ("total, ICC(2,1)", "icc")):
        _print_pair(title, total["model"][key], total["view_only"][key])
    threshold = f"{fractures['threshold']:g}"
    _print_pair(f"united from {threshold}, ROC-AUC", united["model"]["roc_auc"], united["view_only"]["roc_auc"])
    _print_pair(f"united from {threshold}, Brier score", united["model"]["brier"], united["view_only"]["brier"])


def _print_pair(title: str, ours: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
    click.echo(f"  {title:<36} {_estimate(ours)}  {_number(baseline['value'])}")


def _estimate(document: Mapping[str, Any]) -> str:
    return f"{_number(document['value'])} [{_number(document['low'])}, {_number(document['high'])}]"


def _number(value: float | None) -> str:
    # Plus zero, for a number that is minus nothing.
    return "–" if value is None else f"{round(value, 4) + 0.0:.4f}"
