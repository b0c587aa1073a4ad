"""``rust-optuna study``: create, list, show, extend, retry, delete and export studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rust_optuna.cli.next_step import (
    NO_STUDIES,
    command_line,
    no_complete_trial,
    print_next,
    print_next_step,
    study_file,
)
from rust_optuna.cli.options import (
    GOES_ON,
    NOTHING_WRITTEN,
    common_options,
    current_site,
    data_root_option,
    examples,
    if_interrupted,
    json_option,
)
from rust_optuna.cli.output import counted, print_json, progress_bar
from rust_optuna.cli.tables import print_table
from rust_optuna.config import StudyKind
from rust_optuna.storage.states import AttemptState, PointState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rust_optuna.search.results import FailedAttempt
    from rust_optuna.search.studies import Study
    from rust_optuna.storage.database import Database

SHOWN_ATTEMPTS = 20
OUTCOMES = {
    AttemptState.FAILED: "failed",
    AttemptState.LOST: "its worker was lost",
    AttemptState.RELEASED: "was given back",
}


@click.group()
def study() -> None:
    """Create, list, show, extend, retry, delete and export studies."""


@study.command(epilog=examples("rust-optuna study create studies/regime_1.toml"))
@click.argument("file", type=click.Path(path_type=Path))
@data_root_option
@common_options
def create(file: Path, data_root: Path | None) -> None:
    """Create the study that FILE describes.

    The command reads the manifest, makes the folds and draws every point of the design; with an adaptive sampler,
    workers draw the points one by one. Afterwards workers need only the database and the films. If an earlier call was
    interrupted, this one finishes its work.
    """
    from rust_optuna.search.creation import create_study, refuse_before_database
    from rust_optuna.search.studies import count_points, load_development
    from rust_optuna.storage.database import create_database
    from rust_optuna.study_file import read_study_file

    if_interrupted(GOES_ON)
    site = current_site()
    configuration = read_study_file(study_path(file, "study create"))
    root = site.data_root(data_root)
    with progress_bar("Hashing films") as progress:
        refuse_before_database(site.url, configuration, site.home, site.artifacts, progress, root)
    with create_database(site.url, site.artifacts) as database:
        with progress_bar("Hashing films") as progress:
            creation = create_study(database, configuration, site.home, progress, site.given_artifacts, root)
        points = count_points(database, creation.study)
        films = len(load_development(database, creation.study).content)
        state = "already exists" if creation.resumed else "created"
        contents = f"{counted(points, 'point')}, {counted(films, 'development film')}"
        click.echo(f"{creation.study.name} {state} in {database}: {contents}")
        for note in creation.study.notes:
            click.echo(f"Note: {note}.")
        print_next_step(database, [creation.study.name])


@study.command("list", epilog=examples("rust-optuna study list"))
@common_options
@json_option
def list_(as_json: bool) -> None:
    """List the studies of the storage, oldest first."""
    from rust_optuna.search.studies import load_studies

    if_interrupted(NOTHING_WRITTEN)
    with current_site().open_to_read() as database:
        studies = load_studies(database)
        if as_json:
            print_json([_listed(study) for study in studies])
            return
        if not studies:
            click.echo(NO_STUDIES)
            print_next_step(database)
            return
        rows = [(study.name, study.configuration.sampler, study.state, _remark(study)) for study in studies]
        print_table(dict.fromkeys(("study", "sampler", "state", "remark"), "left"), rows)


def _remark(study: Study) -> str:
    """Return what the list says of a study besides its state."""
    configuration = study.configuration
    if configuration.kind == StudyKind.SEARCH:
        return study.stand_in or ""
    if configuration.kind == StudyKind.COMPARISON:
        return f"one configuration, to compare{f'; {study.stand_in}' if study.stand_in else ''}"
    by_source = " by source" if configuration.kind == StudyKind.SOURCES else ""
    return f"evaluates {', '.join(configuration.from_best_of)}{by_source}"


def _listed(study: Study) -> dict[str, str]:
    document = {"study": study.name, "sampler": study.configuration.sampler, "state": study.state}
    if not study.is_search:
        document["kind"] = study.configuration.kind
    return document | ({"objective": study.stand_in} if study.stand_in else {})


@study.command(epilog=examples("rust-optuna study show regime-1"))
@click.argument("name")
@common_options
@json_option
def show(name: str, as_json: bool) -> None:
    """Show how far study NAME is, and what it runs.

    It also shows why points failed. --json prints everything that the database holds about the study.
    """
    from rust_optuna.cli.results import print_statuses
    from rust_optuna.search.results import failed_attempts, hole_numbers, status
    from rust_optuna.search.studies import count_films, load_study
    from rust_optuna.study_file import to_document

    if_interrupted(NOTHING_WRITTEN)
    with current_site().open_to_read() as database:
        study = load_study(database, name)
        progress = status(database, study)
        failed, holes = failed_attempts(database, study), hole_numbers(database, study)
        films = count_films(database, study)
    document = {
        **progress.to_json(),
        "configuration": to_document(study.configuration),
        "source": study.source.to_json() if study.source else None,
        "fingerprint": study.fingerprint.to_json(),
        "runtime": study.runtime,
        "notes": list(study.notes),
        "failed_attempts": [attempt.to_json() for attempt in failed],
    }
    if as_json:
        print_json(document)
        return
    print_statuses([progress])
    _print_failed(failed, holes)
    for note in study.notes:
        click.echo(f"Note: {note}.")
    click.echo(f"Films: {films['films']:,} of {counted(films['patients'], 'patient')}")
    _print_settings(study)


def _print_failed(failed: Sequence[FailedAttempt], holes: Sequence[int]) -> None:
    """Print all attempts at each hole, and then the first unsuccessful attempts at other points."""
    for hole in holes:
        click.echo(f"Point {hole} is a hole. Its attempts:")
        for attempt in failed:
            if attempt.point == hole:
                click.echo(f"  {_attempt(attempt)}")
    others = [attempt for attempt in failed if attempt.point not in holes]
    if others:
        click.echo("Unsuccessful attempts at other points:")
        for attempt in others[:SHOWN_ATTEMPTS]:
            click.echo(f"  point {attempt.point}, {_attempt(attempt)}")
        if len(others) > SHOWN_ATTEMPTS:
            click.echo(f"  … and {len(others) - SHOWN_ATTEMPTS:,} more, which --json lists")


def _attempt(attempt: FailedAttempt) -> str:
    return f"attempt {attempt.attempt}: {OUTCOMES[attempt.outcome]} ({attempt.worker}): {attempt.reason}"


def _print_settings(study: Study) -> None:
    """Print a study's settings as its file has them, and the inherited values."""
    from rust_optuna.study_file import to_document, toml_value

    click.echo("Settings:")
    sections = []
    for key, value in to_document(study.configuration).items():
        if isinstance(value, dict):
            lines = [f"  {name} = {toml_value(inner)}" for name, inner in value.items()]
            sections += [f"  [{key}]", *lines] if lines else []
        else:
            click.echo(f"  {key} = {toml_value(value)}")
    for line in sections:
        click.echo(line)
    if study.source is not None:
        click.echo(f"Inherited from {study.source.words}:")
        for key, value in study.inherited.items():
            click.echo(f"  {key} = {toml_value(value)}")


@study.command(epilog=examples("rust-optuna study extend regime-1 --trials 200"))
@click.argument("name")
@click.option(
    "--trials", required=True, type=click.IntRange(min=1), help="The number of trials that the study will have in all."
)
@common_options
def extend(name: str, trials: int) -> None:
    """Give study NAME more trials, unless it is a grid.

    The new trials of a random study continue the same random stream; those of an adaptive study are drawn when workers
    are free.
    """
    from rust_optuna.search.creation import extend_study

    with current_site().open_to_write() as database:
        extended = extend_study(database, name, trials)
    click.echo(f"{extended.name} has {counted(trials, 'point')} now")
    print_next("worker", "run", extended.name)


@study.command(epilog=examples("rust-optuna study retry regime-1 --holes"))
@click.argument("name")
@click.option("--holes", is_flag=True, help="Retry the holes; this is the default.")
@common_options
def retry(name: str, holes: bool) -> None:
    """Give the holes of study NAME new attempts.

    A hole is a point whose attempts are used up.
    """
    from rust_optuna.search.ledger import Ledger
    from rust_optuna.search.studies import load_study

    with current_site().open_to_write() as database:
        count = Ledger(database).retry_holes(load_study(database, name).id)
        waiting = f"{count} {'point waits' if count == 1 else 'points wait'} again in {name}"
        click.echo(waiting if count else _no_holes(database, name))
        print_next_step(database, [name])


@study.command("accept-holes", epilog=examples("rust-optuna study accept-holes regime-1"))
@click.argument("name")
@common_options
def accept_holes(name: str) -> None:
    """Accept the holes of study NAME for good.

    The study then counts as done without those points. They stay in the database with their reasons, but `status` and
    `search` no longer exit with 3 because of them.
    """
    from rust_optuna.search.ledger import Ledger
    from rust_optuna.search.studies import load_study

    with current_site().open_to_write() as database:
        count = Ledger(database).accept_holes(load_study(database, name).id)
        accepted = f"{counted(count, 'hole')} of {name} {'is' if count == 1 else 'are'} accepted"
        click.echo(accepted if count else _no_holes(database, name))
        print_next_step(database, [name])


def study_path(file: Path, command: str) -> Path:
    """Return the path of a study file that a command was given.

    Raises:
        InvalidValueError: it is not a file, and does not end in .toml as the name of a missing file would.
    """
    from rust_optuna.errors import InvalidValueError

    path = current_site().home.resolve(file)
    if path.is_file() or (file.suffix == ".toml" and not path.is_dir()):
        return path
    example = study_file() or Path("studies", "regime_1.toml")
    if path.is_dir():
        mistake = f"{file} is a folder"
    elif is_study(str(file)):
        mistake = f"{file} is a study that exists already, which `{command_line('worker', 'start', file)}` runs"
    else:
        mistake = f"{path} does not exist"
    raise InvalidValueError(f"{command} takes study files such as {example}; {mistake}")


def is_study(name: str) -> bool:
    """Return whether there is a study of that name; False if the database cannot be read."""
    from contextlib import suppress

    from rust_optuna.errors import RustOptunaError
    from rust_optuna.search.studies import find_study

    with suppress(RustOptunaError), current_site().open_to_read() as database:
        return find_study(database, name) is not None
    return False


def _no_holes(database: Database, name: str) -> str:
    """Return the message that a study has no holes to retry or accept."""
    from rust_optuna.search.results import status
    from rust_optuna.search.studies import load_study

    accepted = status(database, load_study(database, name), foreign=False).accepted
    exception = f" but the {accepted} that {'is' if accepted == 1 else 'are'} accepted" if accepted else ""
    return f"{name} has no holes{exception}"


@study.command(epilog=examples("rust-optuna study delete regime-1"))
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--force", is_flag=True, help="Delete it even while workers run its points; their results are refused.")
@common_options
def delete(name: str, yes: bool, force: bool) -> None:
    """Delete study NAME with its trials and artifacts.

    Films and features stay.
    """
    from rust_optuna.search.creation import delete_study, refuse_running
    from rust_optuna.search.studies import load_study

    site = current_site()
    with site.open_to_write() as database:
        study = load_study(database, name)
        if not force:
            refuse_running(database, study)
        if not yes:
            if warning := _live_workers(database, name):
                click.echo(warning, err=True)
            click.confirm(f"Delete {name} with all its trials from {database}?", abort=True)
        artifacts = delete_study(database, name, site.own_store(database), force=force)
    click.echo(f"{name} is deleted, with {counted(artifacts, 'artifact')}")


def _live_workers(database: Database, name: str) -> str | None:
    """Return a warning of the workers that the deletion of a study would affect; None if no worker is alive."""
    from rust_optuna.storage.roster import list_workers

    alive = list_workers(database)
    running = sum(worker.study == name for worker in alive)
    if running:
        workers = f"{counted(running, 'worker')} {'runs' if running == 1 else 'run'}"
        return f"{workers} points of {name}, whose results will be refused."
    if alive:
        # The ledger does not know which studies a worker without a point serves.
        return f"{counted(len(alive), 'worker')} of this storage may serve {name}: rust-optuna worker list shows them."
    return None


@study.command(epilog=examples("rust-optuna study export regime-1 storage/reports/regime-1"))
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path))
@common_options
def export(name: str, directory: Path) -> None:
    """Write study NAME into DIRECTORY, as plain files.

    The files are trials.csv, one row per complete trial, and the out-of-fold scores of each trial as trial-NUMBER.npz.
    An earlier export of NAME in DIRECTORY is replaced. A folder with another study's export is refused.
    """
    from rust_optuna.search.evaluation import refuse_evaluation
    from rust_optuna.search.export import export_study
    from rust_optuna.search.results import best_point, status
    from rust_optuna.search.studies import load_study

    site = current_site()
    with site.open_to_read() as database:
        found = load_study(database, name)
        refuse_evaluation(found)
        if best_point(database, found) is None:
            raise no_complete_trial(database, name)
        table, trials = export_study(database, name, site.store(database), site.home.resolve(directory))
        pruned = status(database, found, foreign=False).counts[PointState.PRUNED]
    left_out = f" (pruned: {pruned:,}, whose scores are not kept)" if pruned else ""
    click.echo(f"{table}: {counted(trials, 'trial')}{left_out}")
