"""Options that many commands share, and what they resolve to.

They may stand before the command or after it; what stands after wins, then what stands before, then the environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rust_optuna.processes import GRACE_SECONDS

if TYPE_CHECKING:
    from rust_optuna.storage.site import Site


F = TypeVar("F", bound=Callable[..., Any])
_META = "rust_optuna."
_INTERRUPTED = "rust_optuna interrupted"
_AS_IT_STANDS = "\b"
"""In a paragraph's first line, what tells click not to wrap the paragraph."""


def listing(title: str, *lines: str) -> str:
    """Return a part of a help page, for ``epilog``: a title, and below it lines that are not wrapped."""
    return "\n".join([_AS_IT_STANDS, title, *(f"  {line}" for line in lines)])


def examples(*commands: str) -> str:
    """Return the end of a help page, for ``epilog``: commands as they are typed."""
    return listing("Examples:" if len(commands) > 1 else "Example:", *commands)


def current_site() -> Site:
    """Return where everything lies for the current command: as its options and the environment say."""
    from rust_optuna.paths import Home
    from rust_optuna.storage.site import Site

    meta = click.get_current_context().meta

    def value(name: str) -> str | None:
        # A file of variables with Windows' line ends leaves a \r at the end of each.
        return meta.get(_META + name) or os.environ.get(f"RUST_OPTUNA_{name.upper()}", "").rstrip("\r\n") or None

    given_by = "--storage" if meta.get(_META + "storage") else "RUST_OPTUNA_STORAGE"
    return Site(Home.find(value("home")), value("storage"), value("artifacts"), value("password_file"), given_by)


def given_options() -> dict[str, str]:
    """Return those of `common_options` that the current command was given on its own line, by name."""
    meta = click.get_current_context().meta
    names = ("home", "storage", "password_file", "artifacts")
    return {name.replace("_", "-"): meta[_META + name] for name in names if _META + name in meta}


GOES_ON = "Interrupted: the same command goes on where it stopped."
NOTHING_WRITTEN = "Interrupted: nothing was written."
"""What is said of an interrupted command, where it is true of it."""


def if_interrupted(words: str) -> None:
    """Let an interrupt of the current command be told in these words, where more is to be said than that it was."""
    click.get_current_context().meta[_INTERRUPTED] = words


def interrupted(context: click.Context) -> str:
    """Return what is to be said of an interrupt of a context's command."""
    words: str = context.meta.get(_INTERRUPTED, "Interrupted.")
    return words


def terminate_as_interrupt() -> None:
    """Let a scheduler's signals stop this process as cleanly as Ctrl-C, but for those that the user had it ignore."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[_META + str(parameter.name)] = value


def _option(name: str, metavar: str, text: str) -> Callable[[F], F]:
    return click.option(f"--{name}", metavar=metavar, expose_value=False, callback=_remember, help=text)


home_option = _option(
    "home", "DIR", "The folder that relative paths start from.  [env: RUST_OPTUNA_HOME; default: the current directory]"
)
_storage = _option(
    "storage",
    "URL",
    "The database, as an SQLAlchemy URL.  [env: RUST_OPTUNA_STORAGE; default: sqlite:///storage/rust_optuna.db]",
)
_password_file = _option(
    "password-file",
    "FILE",
    "The file that holds the database's password, if the URL has none.  [env: RUST_OPTUNA_PASSWORD_FILE]",
)
_artifacts = _option(
    "artifacts",
    "PLACE",
    "Where trials' scores are kept: a folder, or s3://BUCKET/PREFIX.  [env: RUST_OPTUNA_ARTIFACTS; default: the "
    "place recorded in the database; storage/artifacts for a new one]",
)


def storage_options(function: F) -> F:
    """Add ``--storage``, ``--password-file`` and ``--artifacts``."""
    return _storage(_password_file(_artifacts(function)))


def common_options(function: F) -> F:
    """Add ``--home`` and ``storage_options``."""
    return home_option(storage_options(function))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
objective_option = click.option("--objective", metavar="MODULE:FUNCTION", hidden=True)
_gpus = click.option(
    "--gpus",
    default="all",
    show_default=True,
    metavar="all|0,1|none",
    help="Which GPUs to use; none for the processor alone.",
)
_per_gpu = click.option(
    "--per-gpu", type=click.IntRange(min=1), help="How many worker processes on each GPU.  [default: 1]"
)
_workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="How many worker processes in all.  [default: one per GPU, else one per core]",
)
log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="The format of the log.",
)
grace_option = click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=GRACE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long a running point may take to finish after the first signal.",
)
forever_option = click.option("--forever", is_flag=True, help="Do not end when all studies are done: wait for others.")
data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that holds the films on this machine, if they lie elsewhere than where the study was created, or "
    "than its manifest says.",
)


def device_options(function: F) -> F:
    """Add ``--gpus``, ``--per-gpu`` and ``--workers``."""
    return _gpus(_per_gpu(_workers(function)))
