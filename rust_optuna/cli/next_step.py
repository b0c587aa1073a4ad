"""The last line of a command's output: the command to run next, exactly as the user has to type it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rust_optuna.cli.options import current_site, given_options
from rust_optuna.config import StudyKind
from rust_optuna.errors import StudyError
from rust_optuna.storage.states import StudyState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rust_optuna.storage.database import Database

PLACEHOLDER = "STUDY.toml"
"""The placeholder for a study file if none is known."""
MANIFEST = "MANIFEST.csv"
"""The placeholder for the manifest of a second data set."""
NO_STUDIES = "There are no studies yet."


def print_next(*words: str | Path, when: str = "") -> None:
    """Print the command to run next.

    Args:
        words: its names and arguments, as for `command_line`.
        when: the condition under which to run it; empty for none.
    """
    print_next_line(command_line(*words), when)


def print_next_line(line: str, when: str = "") -> None:
    """Print a command line as the one to run next, and how to supply the password if the line hides it.

    Args:
        line: the command line.
        when: the condition under which to run it; empty for none.
    """
    from rust_optuna.storage.url import HIDDEN

    click.echo(f"Next{f', {when}' if when else ''}: {line}")
    if HIDDEN in line:
        click.echo(
            f"The password is not shown: write it in place of {HIDDEN}. To keep it off the command line, put the URL "
            "into RUST_OPTUNA_STORAGE, or leave the password out of the URL and name a file that holds it with "
            "--password-file or RUST_OPTUNA_PASSWORD_FILE."
        )


def print_next_step(database: Database, names: Sequence[str] = ()) -> None:
    """Print the command to run next in a storage, or for the named studies of it."""
    print_next(*_next_step(database, names))


def print_after_search(database: Database, names: Sequence[str]) -> None:
    """Print the command to run next after a search: its evaluation, if the named studies are done and have a model."""
    print_next(*(evaluation_step(database, names) or _next_step(database, names)))


def evaluation_step(database: Database, names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the command that evaluates the last of the named studies, or of all; None unless all are ready for it."""
    from rust_optuna.search.evaluation import study_to_evaluate
    from rust_optuna.search.results import status
    from rust_optuna.search.studies import load_studies

    studies = [study for study in load_studies(database) if study.is_search and (not names or study.name in names)]
    if any(study.state != StudyState.DONE or study.stand_in for study in studies):
        return None
    if any(
        each.best is None or each.open_holes for each in (status(database, study, foreign=False) for study in studies)
    ):
        return None
    try:
        return "evaluate", "--study", study_to_evaluate(studies).name
    except StudyError:  # none, or several of equal rank
        return None


def print_after_evaluation(model: str) -> None:
    """Print the command to run next after an evaluation, if its user has a second data set."""
    print_next("evaluate", "--external", MANIFEST, "--model", model, when="with films of another hospital")


def print_after_by_source(search: str) -> None:
    """Print the command to run next after a cross-validation by source: the evaluation, or what follows that."""
    if (current_site().home.models / search).is_dir():
        print_after_evaluation(search)
    else:
        print_next("evaluate", "--study", search)


def print_after_comparison(studies: Sequence[str]) -> None:
    """Print how a search takes the best of compared configurations, and the command that runs the search."""
    from rust_optuna.study_file import toml_value

    names = toml_value(list(studies) if len(studies) > 1 else studies[0])
    what = "the best of these configurations" if len(studies) > 1 else "this configuration"
    click.echo(
        f"A search takes {what} with the line from_best_of = {names} under [fixed] of its study file: then weights, "
        "layer and all other keys that the file does not name are those of that configuration."
    )
    print_next("search", study_file() or PLACEHOLDER, when="with that line in the study file")


def nothing_to_run(database: Database, names: Sequence[str] = ()) -> str | None:
    """Return why workers of the named studies, or of all, have no point to run; None if one of these is open."""
    from rust_optuna.search.studies import load_studies

    states = {study.name: study.state for study in load_studies(database)}
    if not states:
        return NO_STUDIES
    chosen = {name: states[name] for name in dict.fromkeys(names or states) if name in states}
    if not chosen:
        return f"{', '.join(names)}: no such study exists any more."
    if StudyState.OPEN in chosen.values():
        return None
    if {*chosen.values()} != {StudyState.DONE}:
        return "No study is open: one is still being created or extended."
    if not names:
        return "No study is open: all are done."
    return f"No point is left to run: {', '.join(chosen)} {'is' if len(chosen) == 1 else 'are'} done."


def no_complete_trial(database: Database, name: str) -> StudyError:
    """Return the error of a command that shows or exports trials; its message says what to run first."""
    return StudyError(f"{name} has no complete trial yet\nNext: {command_line(*_next_step(database, [name]))}")


def command_line(*words: str | Path) -> str:
    """Return a command line of this program, to be typed into a shell.

    It repeats the home and the database that were given on the current command line, if the command takes these
    options. A password in a URL is hidden.

    Args:
        words: the command's names and arguments.
    """
    from rust_optuna.storage.url import hide_passwords

    accepted = {option for parameter in _command(words).params for option in parameter.opts}
    options = [
        (f"--{name}", hide_passwords(value)) for name, value in given_options().items() if f"--{name}" in accepted
    ]
    return " ".join(map(_quoted, [program(), *map(str, words), *(word for option in options for word in option)]))


def _quoted(word: str) -> str:
    """Quote a word for a shell; a word that is not Unicode (a folder's name may be any bytes) is quoted by escapes."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return "$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(word)) + "'"
    return shlex.quote(word)


def _command(words: Sequence[str | Path]) -> click.Command:
    from rust_optuna.cli import cli

    command: click.Command = cli
    for word in map(str, words):
        if not isinstance(command, click.Group):
            break
        subcommand = command.get_command(click.get_current_context(), word)
        if subcommand is None:
            raise ValueError(f"there is no command {words}")
        command = subcommand
    return command


def program() -> str:
    """Return the word that starts this program: its name, or its path if it is not on the PATH."""
    started = Path(sys.argv[0])
    if started.name != "rust-optuna" or shutil.which("rust-optuna") or not started.is_file():
        return "rust-optuna"
    return os.path.relpath(started) if started.is_relative_to(Path.cwd()) else str(started)


def study_file(manifest: Path | None = None) -> Path | None:
    """Return the first study file in the home's studies/, relative to the home; None if there is none.

    Args:
        manifest: the manifest that the file must name; None for any.
    """
    import tomllib

    home = current_site().home
    for path in sorted((home.root / "studies").glob("*.toml")):
        try:
            named = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("manifest")
        except (OSError, ValueError):
            continue
        if isinstance(named, str) and (manifest is None or home.resolve(named) == manifest):
            return path.relative_to(home.root)
    return None


def _next_step(database: Database, names: Sequence[str]) -> tuple[str | Path, ...]:
    from rust_optuna.search.results import best_point
    from rust_optuna.search.studies import load_studies

    studies = [study for study in load_studies(database) if not names or study.name in names]
    if any(study.state == StudyState.OPEN for study in studies):
        return "worker", "run", *names
    searches = [study for study in studies if study.is_search]
    if any(best_point(database, study) for study in searches):
        return "best", *(names if len(names) == 1 else ())
    if studies and not searches:
        # Workers have trained its folds; this command makes the numbers.
        last = studies[-1].configuration
        if last.kind == StudyKind.COMPARISON:
            return "compare", *(study.name for study in studies if study.configuration.kind == last.kind)
        by_source = ["--by-source"] if last.kind == StudyKind.SOURCES else []
        return "evaluate", "--study", *last.from_best_of, *by_source
    if len(names) == 1 and studies:
        return "study", "show", *names
    return ("status",) if studies else ("search", study_file() or PLACEHOLDER)
