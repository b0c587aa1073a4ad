"""Every help page as a person sees it, on a terminal of 80 columns."""

import inspect
import re
import shlex
import textwrap

import click
import pytest

from tests.cli.test_main import commands, invoke
from tests.deploy.test_commands import take

WIDTH = 80


PAGES = {" ".join(("rust-optuna", *path)): command for path, command in commands()}


def page(name):
    done = invoke(*name.split()[1:], "--help")
    assert done.exit_code == 0
    return done.output


def paragraphs(text):
    """Return the paragraphs of a docstring, each on one line."""
    return [" ".join(each.split()) for each in inspect.cleandoc(text).split("\n\n")]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_no_markup_and_fits_the_terminal(name):
    text = page(name)
    assert not re.search(r"[\b\\]|``", text)
    written_as_typed = text.split("Example")[-1]  # a command is not wrapped, however long
    assert all(len(line) <= WIDTH for line in text.removesuffix(written_as_typed).splitlines())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_the_paragraphs_that_were_written(name):
    shown = [" ".join(each.split()) for each in page(name).split("\n\n")]
    for paragraph in paragraphs(PAGES[name].help):
        assert paragraph in shown
        assert paragraph.endswith(".")


@pytest.mark.parametrize("name", [name for name, command in PAGES.items() if isinstance(command, click.Group)])
def test_a_list_of_commands_says_of_each_what_it_does_in_a_whole_sentence(name):
    listed = page(name).split("Commands:\n")[1].split("\n\n")[0]
    for line in textwrap.dedent(listed).splitlines():
        assert re.fullmatch(r"[a-z-]+  +[A-Z].*[^.]\.", line), line


@pytest.mark.parametrize("name", PAGES)
def test_every_example_stands_on_a_line_of_its_own_and_can_be_typed(name):
    _, found, end = page(name).partition("\n  Example")
    if isinstance(PAGES[name], click.Group) and not found:
        return
    lines = end.splitlines()[1:]
    assert lines
    for line in lines:
        typed = line.split("    ")[1]  # what it is for may follow
        words = [word for word in shlex.split(typed) if not word.startswith("CUDA_VISIBLE_DEVICES=")]
        assert line.startswith("    ")
        assert " ".join(words).startswith(name)
        take(words[1:])


@pytest.mark.parametrize("name", PAGES)
def test_every_option_says_what_it_is_for_in_a_sentence(name):
    for parameter in PAGES[name].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert re.match(r"[A-Za-z0-9].*[A-Za-z0-9)]\.(  \[|$)", parameter.help), parameter.name


def test_the_page_of_worker_start_is_the_one_that_was_meant():
    start, end = page("rust-optuna worker start").split("Options:")
    assert start.replace("cli ", "rust-optuna ", 1) == textwrap.dedent("""\
        Usage: rust-optuna worker start [OPTIONS] [NAMES]...

          Run a worker on each device of this machine.

          They serve the studies NAMES, or all open ones, until those are done; with
          --forever, until they are stopped. Each worker is a process of its own, on one
          GPU or with its share of the cores. One that dies is replaced, after a delay
          that grows, and its point returns to the queue at once. A slot whose worker
          dies five times without finishing a point is given up.

          After the first Ctrl-C or SIGTERM the running points have --grace seconds to
          finish; then they are given back. A second signal gives them back at once.
          SIGUSR1, SIGUSR2 and SIGXCPU, which schedulers send, are like a first SIGTERM.

        """)
    assert (
        end.split("Exit codes:")[1]
        == """
    0    the studies are done, or SIGTERM stopped the workers
    3    the studies are done, but have holes that nobody accepted
    6    every slot was given up
    130  Ctrl-C stopped the workers
    1    any other error, which the message explains

  Examples:
    rust-optuna worker start regime-1 --gpus all
    rust-optuna worker start --gpus 0,1 --per-gpu 2 --forever --daemon
    rust-optuna worker start regime-1 --engine ray --address auto --workers 16
"""
    )
