"""``rust-optuna data``: make, split and check the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rust_optuna.cli.next_step import PLACEHOLDER, print_next, study_file
from rust_optuna.cli.options import NOTHING_WRITTEN, current_site, examples, home_option, if_interrupted
from rust_optuna.cli.output import counted, print_json, progress_bar
from rust_optuna.cli.tables import Side, print_table
from rust_optuna.config import CONTRAST, FOLDS, HOLDOUT, SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rust_optuna.data.check import CheckReport, Part
    from rust_optuna.data.manifest import Film
    from rust_optuna.data.patients import Settled

ALL = "all"
"""The value that stands for every group of names in `rust_optuna.data.patients`, and for an option without names."""


def _print_counts(what: str | Path, films: Sequence[Film]) -> None:
    """Print how many films of how many patients there are."""
    patients = len({film.patient for film in films})
    click.echo(f"{what}: {counted(len(films), 'film')} of {counted(patients, 'patient')}")


def _check_pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value != ALL and "=" not in value:
            advice = f"To use {parameter.opts[0]} without names, put it after the manifest's path"
            message = f"{value!r} is not two names, as in 'A=B'. {advice}"
            raise click.BadParameter(message, context, parameter)
    return values


@click.group()
def data() -> None:
    """Make, split and check the manifest, the table of the films."""


@data.command(
    "import",
    epilog=examples(
        "rust-optuna data import --labels labels.csv --filenames names.csv --images films --output manifest.csv"
    ),
)
@click.option("--labels", required=True, type=click.Path(path_type=Path), help="The CSV file of one-hot labels.")
@click.option("--filenames", required=True, type=click.Path(path_type=Path), help="The list of the films' file names.")
@click.option("--images", required=True, type=click.Path(path_type=Path), help="The folder that holds the images.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The manifest to write.")
@click.option("--force", is_flag=True, help="Replace an existing manifest.")
@home_option
def import_(labels: Path, filenames: Path, images: Path, output: Path, force: bool) -> None:
    """Make a manifest from the published data set's own files.

    The two tables have no header, and list the films in the same order. If anything in them is wrong, nothing is
    written.
    """
    from rust_optuna.data.published import import_published

    manifest = import_published(
        _resolve(labels), _resolve(filenames), _resolve(images), _resolve(output), overwrite=force
    )
    _print_counts(output, manifest.films)
    print_next("data", "split", output)


@data.command(epilog=examples("rust-optuna data split manifest.csv --holdout 0.15 --seed 1"))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--holdout",
    type=float,
    help=f"The share of the films to set aside.  [default: {HOLDOUT}, or their share if films are split already]",
)
@click.option(
    "--seed",
    default=SEED,
    show_default=True,
    type=click.IntRange(min=0),
    help="Another seed sets other patients aside.",
)
@click.option("--force", is_flag=True, help="Split all films anew, even if they are split already.")
@click.option(
    "--same",
    multiple=True,
    is_flag=False,
    flag_value=ALL,
    callback=_check_pairs,
    metavar="[A=B]",
    help="Treat similar names as one patient: all of them, or only A and B.",
)
@click.option(
    "--different",
    multiple=True,
    is_flag=False,
    flag_value=ALL,
    callback=_check_pairs,
    metavar="[A=B]",
    help="Treat similar names as different patients: all of them, or only A and B.",
)
@home_option
def split(
    manifest: Path, holdout: float | None, seed: int, force: bool, same: tuple[str, ...], different: tuple[str, ...]
) -> None:
    """Set patients aside as the hold-out, once and for all.

    A patient's films stay together, and both sides are alike in subscores and views. The split is written into
    MANIFEST.

    If MANIFEST is split already, films without a split join it, and no other film is moved: a new film of a known
    patient goes to that patient's side, and new patients are divided like the others.

    Similar names (P7, p7, P-007, P7.0) may belong to one patient, whose films must not be on both sides. So nothing is
    split before --same or --different says which of them do. --same A=B keeps the name A in MANIFEST; --same alone
    keeps the name with the most films of each group of similar names. --different marks the patients in MANIFEST. Both
    may also be given when MANIFEST is split already: the split then stays.
    """
    from rust_optuna.data.manifest import SPLITS, read_manifest
    from rust_optuna.data.split import split_manifest

    before = {film.row: film.split for film in read_manifest(_resolve(manifest)).films}
    films = split_manifest(
        _resolve(manifest),
        holdout=holdout,
        seed=seed,
        again=force,
        same=same,
        different=different,
        on_settled=_print_settled,
    )
    joined = [film for film in films.films if not before[film.row]]
    if joined and any(before.values()) and not force:
        counts = ", ".join(f"{name} {sum(film.split == name for film in joined):,}" for name in SPLITS)
        click.echo(f"{counted(len(joined), 'film')} joined ({counts}); no other film was moved")
    for name in SPLITS:
        _print_counts(name, films.part(name))
    print_next("data", "check", manifest)


@data.command(epilog=examples("rust-optuna data check manifest.csv --folds 6 --seed 1"))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--folds",
    default=FOLDS,
    show_default=True,
    type=click.IntRange(min=2),
    help="The number of folds into which the development set is divided.",
)
@click.option("--seed", default=SEED, show_default=True, type=click.IntRange(min=0), help="The seed of the folds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@home_option
@click.pass_context
def check(context: click.Context, manifest: Path, folds: int, seed: int, as_json: bool) -> None:
    """Read every film of MANIFEST, and report what is wrong.

    It also counts the films, patients and labels. The exit code is 1 if anything must be corrected: unreadable films,
    patients on both sides of the split, a cortex scored on films of both views, the same pixels twice. It is 2 if
    MANIFEST itself does not exist, or is not a CSV file.
    """
    from rust_optuna.data.check import check_manifest

    if_interrupted(NOTHING_WRITTEN)
    with progress_bar("Reading films") as progress:
        report = check_manifest(_resolve(manifest), folds=folds, seed=seed, progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)
        _print_verdict(report, manifest)
    context.exit(0 if report.passed else 1)


@data.command(epilog=examples("rust-optuna data synthesize storage/demo --patients 120 --seed 1"))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--patients", default=120, show_default=True, type=click.IntRange(min=1), help="The number of patients to make up."
)
@click.option(
    "--seed", default=SEED, show_default=True, type=click.IntRange(min=0), help="Another seed makes up other patients."
)
@click.option(
    "--contrast", default=CONTRAST, show_default=True, help="How plainly the scores show, from 0 (not at all) to 10."
)
@click.option("--shuffle-scores", is_flag=True, help="Assign the scores to films at random, as a negative control.")
@home_option
def synthesize(directory: Path, patients: int, seed: int, contrast: float, shuffle_scores: bool) -> None:
    """Draw SYNTHETIC films of made-up patients.

    The films and their manifest are written into DIRECTORY.
    """
    from rust_optuna.data.synthetic.draw import synthesize as draw

    if_interrupted("Interrupted: the manifest was not written; the same command draws all films anew.")
    with progress_bar("Drawing films") as progress:
        draw(
            _resolve(directory),
            patients=patients,
            seed=seed,
            contrast=contrast,
            shuffle_scores=shuffle_scores,
            progress=progress,
        )
    click.echo(f"{directory / 'manifest.csv'}: SYNTHETIC films of {counted(patients, 'made-up patient')}")
    print_next("data", "split", directory / "manifest.csv")


def _print_settled(settled: Settled) -> None:
    for old, new in settled.renamed.items():
        click.echo(f"{old!r} is now {new!r} in the manifest")
    if settled.distinct:
        click.echo(f"Marked as distinct patients: {', '.join(map(repr, settled.distinct))}")


def _resolve(path: Path) -> Path:
    """Return a path of the command line as an absolute one; a relative path is below the home."""
    return current_site().home.resolve(path)


def _print_report(report: CheckReport) -> None:
    if not report.parts:
        return
    everything = report.parts[0]
    click.echo(f"{report.manifest}: {counted(everything.films, 'film')} of {counted(everything.patients, 'patient')}")
    click.echo("Films per patient: " + _counts(report.films_per_patient))
    for view, cortices in report.cortices.items():
        click.echo(f"{view.capitalize()} films carry scores of: {', '.join(cortices) or 'no cortex'}")
    if report.sizes:
        smallest, largest = (f"{w} × {h}" for w, h in (report.sizes["smallest"], report.sizes["largest"]))
        click.echo(f"Pixels: {smallest} to {largest}, distinct sizes: {report.sizes['distinct']:,}")
        click.echo(f"Bits: {_counts(report.depths)}; pixel layouts: {_counts(report.modes)}")
    click.echo()
    columns: dict[str, Side] = {"": "left", **dict.fromkeys(map(_title, report.parts), "right")}
    rows = [["films", *(f"{part.films:,}" for part in report.parts)]]
    rows.append(["patients", *(f"{part.patients:,}" for part in report.parts)])
    rows += [[label, *(f"{part.labels[label]:,}" for part in report.parts)] for label in everything.labels]
    print_table(columns, rows)
    click.echo()


def _title(part: Part) -> str:
    """Return the title of a part's column, short enough for a terminal; only the first fold's contains "fold"."""
    return {"development": "develop.", "fold 0": "fold 0"}.get(part.name, part.name.removeprefix("fold "))


def _print_verdict(report: CheckReport, manifest: Path) -> None:
    from rust_optuna.errors import ManifestError

    if report.problems:
        click.echo(str(ManifestError(report.manifest, report.problems)))
    for note in report.notes:
        click.echo(f"Note: {note}.")
    if report.problems:
        return
    click.echo("No problems found.")
    if report.undecided:
        print_next("data", "split", manifest, "--same", when="if similar names belong to one patient")
        print_next("data", "split", manifest, "--different", when="if they do not")
    elif len(report.parts) > 1:
        file = study_file(_resolve(manifest))
        if file is None:
            click.echo(f'No study file in studies/ names this manifest: write one with manifest = "{manifest}".')
        print_next("search", file or PLACEHOLDER)
    else:
        print_next("data", "split", manifest)


def _counts(counts: dict[int, int] | dict[str, int]) -> str:
    return ", ".join(f"{value}: {count:,}" for value, count in counts.items())
