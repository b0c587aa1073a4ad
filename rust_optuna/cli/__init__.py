"""The command line: each command parses, calls the library once, prints, and exits with a named code.

A command is imported when it is used, so that ``--help`` and ``best`` start at once.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from rust_optuna import __version__
from rust_optuna.cli.options import home_option, interrupted, listing, storage_options
from rust_optuna.cli.output import replace_what_cannot_be_shown
from rust_optuna.errors import RustOptunaError
from rust_optuna.permissions import denial
from rust_optuna.processes import PART_OF, SUPERVISOR, ExitCode
from rust_optuna.spelling import nearest

COMMANDS = {
    "best": "results",
    "compare": "compare",
    "dashboard": "dashboard",
    "data": "data",
    "demo": "demo",
    "evaluate": "evaluate",
    "features": "features",
    "search": "search",
    "status": "results",
    "storage": "storage",
    "study": "study",
    "weights": "weights",
    "worker": "worker",
}
"""The module of this package that holds each command."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or return None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"rust_optuna.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return a command, or fail with a suggestion, which click itself makes only if all commands are loaded."""
        near = None if args[0] in COMMANDS or ctx.resilient_parsing else nearest(args[0], COMMANDS)
        if near is not None:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error that the user can fix becomes one message and an exit code."""
        try:
            return super().invoke(ctx)
        except RustOptunaError as error:
            # The output of a supervised worker is a log, which must not contain a film's path.
            supervised = SUPERVISOR in os.environ
            click.echo(f"Error: {error.public if supervised else error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise  # main handles it
            file = "" if error.filename is None else f"{error.filename}: "
            click.echo(f"Error: {denial(error) or f'{file}{error.strerror or error}'}", err=True)
            ctx.exit(ExitCode.ERROR)
        except KeyboardInterrupt:
            if PART_OF not in os.environ:
                click.echo(f"\n{interrupted(ctx)}", err=True)
            ctx.exit(ExitCode.INTERRUPTED)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=listing(
        "Examples:",
        "rust-optuna demo                            try it on synthetic films",
        "rust-optuna search studies/regime_1.toml    search with your own films",
        "rust-optuna status                          see how far it is",
    ),
)
@click.version_option(__version__, prog_name="rust-optuna")
@home_option
@storage_options
def cli() -> None:
    """Search hyperparameters for a classifier that reads RUST scores off radiographs."""


def main() -> None:
    """Run the command line."""
    replace_what_cannot_be_shown()
    try:
        cli(prog_name="rust-optuna")
    except BrokenPipeError:
        # The reader of the output has ended, as in `rust-optuna best | head`.
        sys.stderr.close()
        sys.exit(ExitCode.ERROR)
