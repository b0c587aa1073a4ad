"""Every command line in a deployment file is one that this program takes."""

import click
import pytest

from rust_optuna.cli import cli
from tests.deploy.files import commands

COMMANDS = list(commands())


def take(words):
    """Let the command line read its arguments, and run nothing.

    Raises:
        click.UsageError: it has no such command, option or value.
    """
    command, context = cli, click.Context(cli, info_name="rust-optuna")
    rest = list(words)
    while isinstance(command, click.Group):
        name = rest.pop(0)
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"No such command: {name}")
        command = found
    command.make_context(name, rest, parent=context)


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[f"{where}: {' '.join(words)}" for where, words in COMMANDS])
def test_a_command_line_is_one_that_the_program_takes(where, words):
    take(words)


def test_command_lines_are_found_everywhere():
    places = {where.split()[0] for where, _ in COMMANDS}
    wanted = {"Dockerfile", "docker-compose.yml", "worker.sbatch", "workers.yaml", "deploy.md"}
    assert places == wanted


@pytest.mark.parametrize(
    "words", [["worker", "begin"], ["worker", "run", "--forevr"], ["dashboard", "--port", "http"], ["search"]]
)
def test_a_wrong_command_line_is_found(words):
    with pytest.raises(click.UsageError):
        take(words)
