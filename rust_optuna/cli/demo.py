"""``rust-optuna demo``: a whole search, from films to final models, on synthetic films."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rust_optuna.cli.next_step import command_line
from rust_optuna.cli.options import (
    GOES_ON,
    common_options,
    current_site,
    examples,
    if_interrupted,
    terminate_as_interrupt,
)
from rust_optuna.cli.output import counted, progress_bar

if TYPE_CHECKING:
    from rust_optuna.run.demo import Demo


@click.command(epilog=examples("rust-optuna demo"))
@click.option(
    "--seed", default=1, show_default=True, type=click.IntRange(min=0), help="The seed of the made-up patients."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="The number of worker processes.  [default: one per GPU, else one per core]",
)
@click.option(
    "--weights", help="imagenet, random, or the path of a file.  [default: imagenet if available, else random]"
)
@click.option("--shuffle-scores", is_flag=True, help="Assign the scores to films at random, as a negative control.")
@common_options
def demo(seed: int, workers: int | None, weights: str | None, shuffle_scores: bool) -> None:
    """Run a small search from start to end, on SYNTHETIC films.

    It draws films, searches both regimes on them, shows the best trials beside their baselines, and evaluates the final
    models on the hold-out. Everything is written below storage/. If it is interrupted, run it again to go on.
    """
    from rust_optuna.cli.evaluate import run_evaluation
    from rust_optuna.cli.evaluation_output import print_evaluation
    from rust_optuna.cli.live import LiveTable
    from rust_optuna.cli.results import print_best
    from rust_optuna.fleet.devices import DeviceChoice
    from rust_optuna.run import demo as story
    from rust_optuna.run.evaluation import Request
    from rust_optuna.run.local import search
    from rust_optuna.search.results import best_trial
    from rust_optuna.study_file import read_study_file

    if_interrupted(GOES_ON)
    terminate_as_interrupt()
    site = current_site()
    chosen = story.choose(site.home, seed=seed, shuffle_scores=shuffle_scores, weights=weights)
    remark = _remark(chosen, asked_for=weights is not None)
    click.echo(remark)
    with progress_bar("Drawing films") as progress:
        manifest = story.draw_films(chosen, site.home, progress)
    configurations = [read_study_file(path) for path in story.write_studies(chosen, site.home)]
    click.echo(f"{story.short(manifest)}: SYNTHETIC films of {counted(chosen.patients, 'made-up patient')}")
    choice = DeviceChoice(workers=workers)
    with progress_bar("Hashing films") as hashed, LiveTable(hashed) as table:
        finished = search(configurations, site, choice, table.listener)
    click.echo()
    with site.open_to_read() as database:
        for status in finished:
            best = best_trial(database, status.study)
            if best is not None:
                print_best(best)
    click.echo("These values are selection scores: each is the best epoch of the best of several trials.\n")
    evaluation = run_evaluation(site, Request(study=configurations[-1].name, manifest=manifest), choice)
    print_evaluation(evaluation)
    click.echo("\nAll films are SYNTHETIC: no number here says anything about patients.")
    click.echo(f"Results: {site.home.storage}")
    click.echo("Next:")
    for command in (
        ("status",),
        ("best", "demo-regime-1", "--json"),
        ("study", "export", "demo-regime-1", "storage/reports/demo-regime-1"),
        ("dashboard",),
    ):
        click.echo(f"  {command_line(*command)}")
    click.echo(remark)


def _remark(chosen: Demo, *, asked_for: bool) -> str:
    """Return the demo's first and last line, which names the backbone weights behind its numbers."""
    if chosen.weights != "random":
        return f"Backbone weights: {chosen.weights}."
    reason = "as requested" if asked_for else "ImageNet weights are not available"
    return (
        f"NOTE: backbone weights are RANDOM ({reason}), so the films' contrast is raised to {chosen.contrast:g}: "
        "pretrained weights do better on ordinary films."
    )
