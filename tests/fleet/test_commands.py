"""Each command that this program starts itself by, read as the command line reads it."""

import dataclasses
import sys
from pathlib import Path

import click

from rust_optuna.cli import cli
from rust_optuna.fleet import commands
from rust_optuna.fleet.commands import WorkerOptions
from rust_optuna.fleet.devices import DeviceChoice

OPTIONS = WorkerOptions(grace=1234567.5, forever=True, log_format="json", data_root=Path("/films"), objective="a.b:c")
SHARED = {**dataclasses.asdict(OPTIONS), "names": ("regime-1", "regime-2")}


def read(words):
    """Return the values with which the command would be called that these words call."""
    group, name, *rest = words
    command = cli.get_command(click.Context(cli), group).commands[name]
    return command.make_context(name, rest).params


def assert_all_arrive(words, expected, typed, *, but=()):
    """Assert that a command receives what is expected, which is all that it takes, and none of it by default.

    Args:
        words: the command.
        expected: each value by its name.
        typed: the shortest such command that a user can type.
        but: what the command takes besides, left at its default.
    """
    left = read(typed)
    assert read(words) == expected | {name: left[name] for name in but}
    assert [name for name, value in expected.items() if value == left[name]] == []


def test_every_option_of_a_worker_arrives():
    assert_all_arrive(commands.worker_run(["regime-1", "regime-2"], OPTIONS), SHARED, ["worker", "run"])


def test_every_option_of_a_supervisor_in_the_background_arrives():
    words = commands.worker_start(
        ["regime-1", "regime-2"],
        OPTIONS,
        DeviceChoice("0,1", workers=5, per_gpu=3),
        engine="ray",
        address="host:6379",
        detached="host-7",
    )
    devices = {"gpus": "0,1", "workers": 5, "per_gpu": 3, "engine": "ray", "address": "host:6379"}
    # In the background itself, it starts no other.
    assert_all_arrive(words, {**SHARED, **devices, "detached": "host-7"}, ["worker", "start"], but=["daemon"])


def test_every_option_of_building_features_arrives():
    words = commands.features_build("regime-1", Path("/films"))
    assert_all_arrive(words, {"study": "regime-1", "data_root": Path("/films")}, ["features", "build", "other"])


def test_what_is_not_given_stays_at_its_default():
    choice = DeviceChoice()
    start = commands.worker_start([], WorkerOptions(), choice, engine="local", address=None, detached="host-7")
    assert read(commands.worker_run([], WorkerOptions())) == read(["worker", "run"])
    assert read(start) == read(["worker", "start"]) | {"detached": "host-7"}
    assert read(commands.features_build("regime-1", None)) == read(["features", "build", "regime-1"])


def test_the_program_is_run_by_this_very_python():
    assert commands.program(["worker", "run"]) == [sys.executable, "-m", "rust_optuna", "worker", "run"]
