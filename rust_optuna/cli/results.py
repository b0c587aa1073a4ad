"""``rust-optuna status`` and ``rust-optuna best``: show how far the search is, and what it has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rust_optuna.cli.next_step import NO_STUDIES, evaluation_step, no_complete_trial, print_next, print_next_step
from rust_optuna.cli.options import NOTHING_WRITTEN, common_options, current_site, examples, if_interrupted, json_option
from rust_optuna.cli.output import counted, print_json
from rust_optuna.cli.tables import Side, print_table
from rust_optuna.config import HYPERPARAMETERS, KEYS, plain, plain_values
from rust_optuna.processes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rust_optuna.search.results import BestTrial, Caveats, Status

SCORE_COLUMNS: dict[str, Side] = {
    "average precision": "left",
    "value ± deviation over folds": "right",
    "view-only baseline": "right",
}


@click.command(epilog=examples("rust-optuna status"))
@common_options
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show how far each study is, and its best value.

    The exit code is 3 while a study has holes that nobody accepted. A hole is a point whose attempts are used up.
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
        print_json([each.to_json() for each in found])
    else:
        print_statuses(found)
    if any(each.open_holes for each in found):
        context.exit(ExitCode.HOLES)


def print_statuses(found: Sequence[Status]) -> None:
    """Print a table of studies, and below it what needs attention."""
    counts = ("points", "complete", "running", "waiting", "pruned", "holes")
    columns: dict[str, Side] = {
        **dict.fromkeys(("study", "state"), "left"),
        **dict.fromkeys((*counts, "best", "baseline"), "right"),
    }
    rows = []
    for each in found:
        document = each.to_json()
        numbers = (f"{document[name]:,}" for name in counts)
        values = map(_score, (each.best_value, each.best_baseline))
        rows.append((each.study.name, document["state"], *numbers, *values))
    print_table(columns, rows)
    for each in found:
        if each.study.stand_in:
            click.echo(f"{each.study.name}: {each.study.stand_in}: its values are not real scores")
        for words in each.best_words:
            click.echo(f"WARNING: the best trial of {each.study.name}: {words}")
        _print_caveats(each.caveats)
        if each.open_holes:
            name = each.study.name
            click.echo(
                f"{name} has holes, points whose attempts are used up: `rust-optuna study show {name}` gives the "
                f"reasons, `study retry {name} --holes` tries them again, `study accept-holes {name}` accepts them"
            )
        if each.accepted:
            click.echo(f"{each.study.name}: {each.accepted} of its holes are accepted")


def _print_caveats(caveats: Caveats) -> None:
    """Print what a reader must know before believing a study's values."""
    name, source = caveats.study.name, caveats.study.source
    if source is not None:
        if caveats.stale:
            click.echo(f"{name} is stale: the best of {source.study} is no longer the one it was created from")
        for difference in source.differences:
            click.echo(f"{name} differs from its source: {difference.words(source.study)}")
    for words in (caveats.foreign.words(), caveats.arithmetic_words()):
        if words:
            click.echo(f"{name}: {words}")


@click.command(epilog=examples("rust-optuna best regime-1"))
@click.argument("name", required=False)
@common_options
@json_option
def best(name: str | None, as_json: bool) -> None:
    """Show the best trial of study NAME, or of every study.

    It is shown with its parameters, and with its value beside the baseline. The value is a selection score (the best
    epoch of the best of many trials), not an estimate of performance on other patients. Several studies are first
    compared in a table.
    """
    from rust_optuna.search.evaluation import refuse_evaluation
    from rust_optuna.search.results import best_trial
    from rust_optuna.search.studies import load_studies, load_study

    if_interrupted(NOTHING_WRITTEN)
    with current_site().open_to_read() as database:
        studies = [load_study(database, name)] if name else load_studies(database)
        if name:
            refuse_evaluation(studies[0])
        searches = [study for study in studies if study.is_search]
        found = [trial for study in searches if (trial := best_trial(database, study))]
        if name and not found:
            raise no_complete_trial(database, name)
        if not found and not as_json:
            click.echo("No study has a complete trial yet" if studies else NO_STUDIES)
            print_next_step(database)
        evaluation = evaluation_step(database, [name] if name else [])
    if as_json:
        documents = [trial.to_json() for trial in found]
        print_json(documents[0] if name else documents)
        return
    if len(found) > 1:
        _print_side_by_side(found)
    for trial in found:
        print_best(trial)
    if evaluation is not None:
        print_next(*evaluation)


def _print_side_by_side(found: Sequence[BestTrial]) -> None:
    """Print the best values of several studies, and what gave them, one row a study."""
    columns: dict[str, Side] = {"study": "left", **dict.fromkeys(("value", "baseline", *HYPERPARAMETERS), "right")}
    rows = []
    for best in found:
        report, values = best.point.report, best.study.configuration.values(best.point.parameters, best.study.inherited)
        baseline = report.baseline.average_precision.mean if report else None
        given = (_given(plain(values[name])) for name in HYPERPARAMETERS)
        rows.append((best.study.name, _score(best.point.value), _score(baseline), *given))
    print_table(columns, rows)
    click.echo()


def print_best(best: BestTrial) -> None:
    """Print one study's best trial."""
    from rust_optuna.data.metrics import lift

    study, point, report = best.study, best.point, best.point.report
    head = f"{study.name}: trial {point.trial} (point {point.number})"
    if report is None or study.stand_in:
        click.echo(f"{head}: value {point.value:.4f}  {study.stand_in or 'STAND-IN'}: no real score")
    else:
        click.echo(f"{head}, epoch {report.epoch}, weights {best.weights}")
    given = (("params", point.parameters), ("fixed", study.configuration.fixed), ("inherited", study.inherited))
    for title, values in given:
        for key, value in plain_values(values).items():
            # The whole model is inherited, and its defaults are not worth a line each.
            if title == "inherited" and value == plain(KEYS[key].default):
                continue
            click.echo(f"  {key} = {_given(value)}" + (f"  ({title})" if title != "params" else ""))
    if best.pruned:
        click.echo(f"  not compared: {counted(best.pruned, 'pruned point')}")
    for words in point.warnings:
        click.echo(f"  WARNING: {words}")
    _print_caveats(best.caveats)
    if report is None or study.stand_in:
        return
    ours, baseline, untied = report.scores, report.baseline, report.untied_baseline
    subscores = ours.average_precision_16
    rows = [
        _row("18 labels", point.value, report.fold_values, baseline.average_precision.mean),
        _row("16 subscores", subscores.mean, subscores.folds, baseline.average_precision_16.mean),
    ]
    print_table(SCORE_COLUMNS, rows, indent=2)
    if untied is None:
        return  # the trial is an earlier version's, which did not report this baseline
    found = lift(subscores.folds, untied.average_precision_16.folds)
    if found is None:
        click.echo("    lift not defined: fewer than two folds have a positive subscore")
        return
    click.echo(
        f"    lift {found[0]:+.4f} ± {found[1]:.4f} (standard error over folds) over that baseline "
        f"with its ties broken at random ({untied.average_precision_16.mean:.4f})"
    )


def _row(name: str, value: float | None, folds: Sequence[float | None], baseline: float | None) -> tuple[str, ...]:
    """Return the row of a score, its deviation over the folds in which it is defined, and its baseline."""
    from rust_optuna.data.metrics import deviation

    return name, f"{_score(value)} ± {_score(deviation(folds))}", _score(baseline)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _given(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
