"""``rust-optuna status`` and ``rust-optuna best``: how far the search is, and what it has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rust_optuna.cli.next_step import NO_STUDIES, no_complete_trial, print_next_step
from rust_optuna.cli.options import NOTHING_WRITTEN, common_options, current_site, examples, if_interrupted, json_option
from rust_optuna.cli.output import print_json
from rust_optuna.config import KEYS, plain
from rust_optuna.processes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rust_optuna.search.results import Status


@click.command(epilog=examples("rust-optuna status"))
@common_options
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show how far each study is, and its best value.

    Exits with 3 while a study has holes that nobody accepted. A hole is a point whose attempts are used up.
    """
    from rust_optuna.search.results import status as read_status
    from rust_optuna.search.studies import load_studies

    if_interrupted(NOTHING_WRITTEN)
    with current_site().open_to_read() as database:
        found = [read_status(database, study) for study in load_studies(database)]
        if not found and not as_json:
            click.echo(NO_STUDIES)
            print_next_step(database)
            return
    if as_json:
        print_json([each.as_json() for each in found])
    else:
        print_statuses(found)
    if any(each.open_holes for each in found):
        context.exit(ExitCode.HOLES)


def print_statuses(found: Sequence[Status]) -> None:
    """Print a table of studies, and below it what needs attention."""
    columns = ("study", "state", "points", "complete", "running", "waiting", "pruned", "holes")
    click.echo(
        f"{columns[0]:<20}{columns[1]:>9}"
        + "".join(f"{name:>10}" for name in columns[2:])
        + f"{'best':>9}{'baseline':>10}"
    )
    for each in found:
        row = each.as_json()
        best, baseline = ("–" if value is None else f"{value:.4f}" for value in (each.best_value, each.best_baseline))
        click.echo(
            f"{row['study']:<20}{row['state']:>9}"
            + "".join(f"{row[n]:>10}" for n in columns[2:])
            + f"{best:>9}{baseline:>10}"
        )
    for each in found:
        if each.study.stand_in:
            click.echo(f"{each.study.name}: {each.study.stand_in}: its values are no real scores")
        for words in each.best_words:
            click.echo(f"WARNING: the best trial of {each.study.name}: {words}")
        _print_caveats(each.as_json())
        if each.open_holes:
            name = each.study.name
            click.echo(
                f"{name} has holes, points whose attempts are used up: `rust-optuna study show {name}` gives the "
                f"reasons, `study retry {name} --holes` tries them again, `study accept-holes {name}` accepts them"
            )
        if each.accepted:
            click.echo(f"{each.study.name}: {each.accepted} of its holes are accepted")


def _print_caveats(document: dict[str, Any]) -> None:
    """Print what a reader must know before believing a study's values; ``document`` is its status or its best."""
    from rust_optuna.search.foreign import foreign_words
    from rust_optuna.search.inheritance import Difference
    from rust_optuna.search.results import arithmetic_words

    name, source = document["study"], document["source"]
    if document["stale"]:
        click.echo(f"{name} is stale: the best of {source} is no longer the one it was created from")
    for difference in document["differences"]:
        click.echo(f"{name} differs from its source: {Difference.from_json(difference).words(source)}")
    for words in (foreign_words(document), arithmetic_words(document)):
        if words:
            click.echo(f"{name}: {words}")


@click.command(epilog=examples("rust-optuna best regime-1"))
@click.argument("name", required=False)
@common_options
@json_option
def best(name: str | None, as_json: bool) -> None:
    """Show the best trial of study NAME, or of every study.

    Shows its parameters, and its value beside the baseline. The value is a selection score (the best epoch of the best
    of many trials), not an estimate of performance on other patients.
    """
    from rust_optuna.search.results import describe_best
    from rust_optuna.search.studies import load_studies, load_study

    if_interrupted(NOTHING_WRITTEN)
    with current_site().open_to_read() as database:
        studies = [load_study(database, name)] if name else load_studies(database)
        found = [document for study in studies if (document := describe_best(database, study))]
        if name and not found:
            raise no_complete_trial(database, name)
        if not found and not as_json:
            click.echo("No study has a complete trial yet" if studies else "No studies yet")
            print_next_step(database)
    if as_json:
        print_json(found[0] if name else found)
        return
    for document in found:
        print_best(document)


def print_best(document: dict[str, Any]) -> None:
    """Print one study's best trial."""
    from rust_optuna.data.metrics import lift

    head = f"{document['study']}: trial {document['number']} (point {document['point']})"
    if "objective" in document:
        click.echo(f"{head}: value {document['value']:.4f}  {document['objective']}: no real score")
    else:
        click.echo(f"{head}, epoch {document['epoch']}, weights {document['weights']}")
    for title in ("params", "fixed", "inherited"):
        for key, value in document[title].items():
            # What is inherited is the whole model: a default is not worth a line.
            if title == "inherited" and value == plain(KEYS[key].default):
                continue
            shown = f"{value:g}" if isinstance(value, float) else value
            click.echo(f"  {key} = {shown}" + (f"  ({title})" if title != "params" else ""))
    for words in document["warnings"]:
        click.echo(f"  WARNING: {words}")
    _print_caveats(document)
    if "objective" in document:
        return
    ours, trivial = document["fold_values_16"], document["baseline_view_only_untied_fold_values_16"]
    _print_score("18 labels", document["value"], document["fold_values"], document["baseline_view_only"])
    _print_score("16 subscores", document["average_precision_16"], ours, document["baseline_view_only_16"])
    found = lift(ours, trivial)
    if found is None:
        click.echo("    lift not defined: fewer than two folds have a positive subscore")
        return
    click.echo(
        f"    lift {found[0]:+.4f} ± {found[1]:.4f} (standard error over folds) over that baseline "
        f"with its ties broken at random ({document['baseline_view_only_untied_16']:.4f})"
    )


def _print_score(name: str, value: float | None, folds: Sequence[float | None], baseline: float | None) -> None:
    """Print one score with its deviation over the folds where it is defined, beside its baseline."""
    from rust_optuna.data.metrics import deviation

    numbers = (value, deviation(folds), baseline)
    shown, spread, trivial = ("–" if each is None else f"{each:.4f}" for each in numbers)
    click.echo(f"  average precision, {name}: {shown} ± {spread} (deviation over folds); view-only baseline {trivial}")
