"""The options that many commands share, and what they resolve to.

They may come before or after the command's name. An option after it takes precedence over one before it, which takes
precedence over the environment.
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
"""The first line of a paragraph that click must not wrap."""


def listing(title: str, *lines: str) -> str:
    """Return a title, and below it lines that are not wrapped, for the ``epilog`` of a help page."""
    return "\n".join([_AS_IT_STANDS, title, *(f"  {line}" for line in lines)])


def examples(*commands: str) -> str:
    """Return example commands, as they are typed, for the ``epilog`` of a help page."""
    return listing("Examples:" if len(commands) > 1 else "Example:", *commands)


def current_site() -> Site:
    """Return the database, home and artifact store of the current command, from its options and the environment."""
    from rust_optuna.paths import Home
    from rust_optuna.storage.site import Site

    meta = click.get_current_context().meta

    def value(name: str) -> str | None:
        # If the variables come from a file with Windows line endings, each value ends with \r.
        return meta.get(_META + name) or os.environ.get(f"RUST_OPTUNA_{name.upper()}", "").rstrip("\r\n") or None

    given_by = "--storage" if meta.get(_META + "storage") else "RUST_OPTUNA_STORAGE"
    return Site(Home.find(value("home")), value("storage"), value("artifacts"), value("password_file"), given_by)


def given_options() -> dict[str, str]:
    """Return the `common_options` that were given on the command line, by name."""
    meta = click.get_current_context().meta
    names = ("home", "storage", "password_file", "artifacts")
    return {name.replace("_", "-"): meta[_META + name] for name in names if _META + name in meta}


GOES_ON = "Interrupted: the same command goes on where it stopped."
NOTHING_WRITTEN = "Interrupted: nothing was written."
"""The messages of interrupted commands of which they are true."""


def if_interrupted(words: str) -> None:
    """Set the message that the current command prints if it is interrupted."""
    click.get_current_context().meta[_INTERRUPTED] = words


def interrupted(context: click.Context) -> str:
    """Return the message that a context's command prints if it is interrupted."""
    words: str = context.meta.get(_INTERRUPTED, "Interrupted.")
    return words


def terminate_as_interrupt() -> None:
    """Let a scheduler's signals stop this process as cleanly as Ctrl-C, except those that the user had it ignore."""
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
    "place recorded in the database, or storage/artifacts for a new one]",
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
    help="The GPUs to use; none for the processor alone.",
)
_per_gpu = click.option(
    "--per-gpu", type=click.IntRange(min=1), help="The number of worker processes on each GPU.  [default: 1]"
)
_workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="The number of worker processes in all.  [default: one per GPU, else one per core]",
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
forever_option = click.option("--forever", is_flag=True, help="When all studies are done, wait for new ones.")
data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that holds the films on this machine, if they are not where they were when the study was created, "
    "or not where its manifest says.",
)


def device_options(function: F) -> F:
    """Add ``--gpus``, ``--per-gpu`` and ``--workers``."""
    return _gpus(_per_gpu(_workers(function)))
