import socket
import subprocess
import sys

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from rust_optuna.cli import COMMANDS, cli
from tests.studies import REPOSITORY, make_study, random_document, run_study, write_study

SECRET = "correct-horse"


def invoke(*arguments, **environment):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env=environment)


def commands(group=cli, path=()):
    """Return every command and group, as (path, command)."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


LEAVES = [path for path, command in commands() if not isinstance(command, click.Group)]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(path):
    done = invoke(*path, "--help")
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"rust-optuna {' '.join(path)}" in done.output.split("Example", 1)[1]


def test_every_command_is_listed():
    done = invoke("--help")
    assert all(f"  {name} " in done.output for name in COMMANDS)
    assert invoke("nothing-of-the-kind").exit_code == 2


@pytest.mark.parametrize(("typed", "meant"), [("dashbord", "dashboard"), ("Best", "best"), ("xyz", None)])
def test_a_command_that_is_misspelt_is_named_beside_the_right_one(typed, meant):
    done = invoke(typed)
    assert done.exit_code == 2
    suggestion = f" Did you mean {meant!r}?" if meant else ""
    assert done.output.splitlines()[-1] == f"Error: No such command {typed!r}.{suggestion}"


def test_a_variable_from_a_file_with_windows_line_ends_is_read(sqlite, home):
    make_study(sqlite, home)
    url = sqlite.url.render_as_string()
    done = invoke("study", "list", RUST_OPTUNA_STORAGE=f"{url}\r", RUST_OPTUNA_HOME=f"{home.root}\r")
    assert (done.exit_code, "regime-1" in done.output) == (0, True), done.output


def test_options_may_stand_before_the_command_or_after_it_and_the_later_wins(sqlite, home, tmp_path):
    make_study(sqlite, home)
    url = sqlite.url.render_as_string()
    other = f"sqlite:///{tmp_path}/none.db"
    for arguments in (
        ("--storage", url, "study", "list"),
        ("study", "list", "--storage", url),
        ("--storage", other, "study", "list", "--storage", url),
    ):
        done = invoke(*arguments, RUST_OPTUNA_STORAGE=other)
        assert (done.exit_code, "regime-1" in done.output) == (0, True), arguments
    assert "regime-1" in invoke("study", "list", RUST_OPTUNA_STORAGE=url).output
    assert invoke("study", "list", RUST_OPTUNA_STORAGE=other).exit_code == 1


@pytest.mark.parametrize(
    "command", [("status",), ("best",), ("study", "list"), ("study", "show", "a"), ("worker", "run"), ("dashboard",)]
)
def test_a_command_that_reads_never_makes_a_database(tmp_path, command):
    done = invoke("--home", tmp_path, *command)
    assert done.exit_code == 1
    assert "Error: No database at" in done.output
    assert "rust-optuna study create" in done.output
    assert list(tmp_path.iterdir()) == []


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("command", [("status",), ("worker", "run"), ("study", "create", "regime-1.toml")])
@pytest.mark.parametrize("place", ["{secret}@127.0.0.1:{port}/name", "@127.0.0.1:{port}/name?password={secret}"])
def test_an_unreachable_database_is_one_line_without_the_password(home, command, place):
    pytest.importorskip("psycopg")
    write_study(home, random_document())
    url = "postgresql://user:" + place.format(secret=SECRET, port=free_port())
    done = invoke("--home", home.root, "--storage", url, *command)
    assert done.exit_code == 1
    assert SECRET not in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert "127.0.0.1" in done.output


@pytest.mark.postgresql
def test_a_role_that_the_database_refuses_is_one_line_without_the_password(postgresql_url):
    url = sa.make_url(postgresql_url).set(username="nobody_of_that_name", password=SECRET)
    done = invoke("--storage", url.render_as_string(hide_password=False), "status")
    assert (done.exit_code, len(done.output.strip().splitlines())) == (1, 1)
    assert SECRET not in done.output


def test_the_password_of_a_database_that_is_used_is_never_printed(postgresql_url, home):
    url = sa.make_url(postgresql_url).set(password=SECRET).render_as_string(hide_password=False)
    write_study(home, random_document())
    where = ("--home", home.root, "--storage", url)
    commands = [
        ("study", "create", "regime-1.toml"),
        ("status",),
        ("study", "show", "regime-1"),
        ("study", "show", "regime-9"),
        ("worker", "run", "--objective", "tests.stand_ins:peak"),
        ("best",),
        ("study", "delete", "regime-1", "--yes"),
    ]
    for command in commands:
        done = invoke(*where, *command)
        if "password authentication" in done.output:
            pytest.skip("this server checks passwords")
        assert SECRET not in done.output, command


def test_a_bug_keeps_its_traceback(sqlite, monkeypatch):
    monkeypatch.setattr("rust_optuna.search.studies.load_studies", lambda database: 1 / 0)
    done = invoke("study", "list", "--storage", sqlite.url.render_as_string())
    assert isinstance(done.exception, ZeroDivisionError)


def test_what_the_system_refuses_is_one_line(sqlite, monkeypatch):
    def full(database):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rust_optuna.search.studies.load_studies", full)
    done = invoke("study", "list", "--storage", sqlite.url.render_as_string())
    assert (done.exit_code, done.output) == (1, "Error: No space left on device\n")


def test_an_interrupt_is_told_by_the_exit_code(sqlite, monkeypatch):
    def interrupt(database):
        raise KeyboardInterrupt

    monkeypatch.setattr("rust_optuna.search.studies.load_studies", interrupt)
    done = invoke("study", "list", "--storage", sqlite.url.render_as_string())
    assert done.exit_code == 130


@pytest.mark.parametrize("command", ["--help", "status", "best", "study list", "study show regime-1"])
def test_a_command_that_reads_loads_neither_optuna_nor_tensorflow(sqlite, home, command):
    run_study(sqlite, home, random_document(2))
    script = (
        "import sys\n"
        "from rust_optuna.cli import main\n"
        f"sys.argv = ['rust-optuna', *{command.split()!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'optuna', 'tensorflow', 'keras', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split()],
        env={"RUST_OPTUNA_STORAGE": sqlite.url.render_as_string()},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_reader_that_has_gone_is_no_error(sqlite, home):
    run_study(sqlite, home, random_document(2))
    line = f"{sys.executable} -m rust_optuna study show regime-1 | head -n 1"
    done = subprocess.run(
        ["sh", "-c", line],
        env={"RUST_OPTUNA_STORAGE": sqlite.url.render_as_string()},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def interrupt(*_, **__):
    raise KeyboardInterrupt


GOES_ON, NOTHING = "the same command goes on where it stopped.", "nothing was written."
INTERRUPTED = [
    (("search", "regime-1.toml"), "rust_optuna.run.local.search", f": {GOES_ON}"),
    (
        ("search", "regime-1.toml", "--dry-run"),
        "rust_optuna.cli.forecast.print_forecast",
        ": no study was created, and",
    ),
    (("demo",), "rust_optuna.run.demo.choose", f": {GOES_ON}"),
    (("worker", "run"), "rust_optuna.storage.site.Site.open_to_work", f": {GOES_ON}"),
    (("worker", "start", "--gpus", "none"), "rust_optuna.storage.site.Site.open_to_write", f": {GOES_ON}"),
    (("features", "build", "regime-1"), "rust_optuna.storage.site.Site.open_to_read", f": {GOES_ON}"),
    (("study", "create", "regime-1.toml"), "rust_optuna.search.creation.refuse_before_database", f": {GOES_ON}"),
    *(
        (command, "rust_optuna.storage.site.Site.open_to_read", f": {NOTHING}")
        for command in (("status",), ("best",), ("study", "list"), ("study", "show", "regime-1"), ("worker", "list"))
    ),
    (("data", "check", "manifest.csv"), "rust_optuna.data.check.check_manifest", f": {NOTHING}"),
    (("weights", "check", "a.h5"), "rust_optuna.learn.backbone.check_weights", f": {NOTHING}"),
    (
        ("data", "synthesize", "new"),
        "rust_optuna.data.synthetic.draw.synthesize",
        "the same command draws all films anew.",
    ),
    (("study", "retry", "regime-1"), "rust_optuna.storage.site.Site.open_to_write", "."),
    (("storage", "upgrade"), "rust_optuna.storage.database.Database", "."),
]


@pytest.mark.parametrize(("command", "where", "said"), INTERRUPTED, ids=lambda each: " ".join(each)[:40])
def test_an_interrupted_command_says_what_is_true_of_it_once(home, monkeypatch, command, where, said):
    monkeypatch.setattr("rust_optuna.cli.options.signal.signal", lambda *_: None)
    monkeypatch.setattr(where, interrupt)
    write_study(home, random_document())
    done = invoke("--home", home.root, *command)
    assert done.exit_code == 130, done.output
    (line,) = [line for line in done.output.splitlines() if "Interrupted" in line]
    assert line.startswith("Interrupted" + said) or line.endswith(said)
    assert (GOES_ON in done.output) == (GOES_ON in said)
    assert ("nothing was written" in line) == (NOTHING in said)


def test_a_step_of_a_command_on_the_same_terminal_leaves_it_to_that_one_to_speak_of_an_interrupt(home, monkeypatch):
    monkeypatch.setattr("rust_optuna.cli.options.signal.signal", lambda *_: None)
    monkeypatch.setattr("rust_optuna.storage.site.Site.open_to_read", interrupt)
    done = invoke("--home", home.root, "features", "build", "regime-1", RUST_OPTUNA_PART_OF="search")
    assert (done.exit_code, done.output) == (130, "")


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("foo", "{by} 'foo' is not an SQLAlchemy URL such as sqlite:///storage/rust_optuna.db or"),
        (
            "sqlite://x.db",
            "{by} 'sqlite://x.db' lacks a slash: write three before a path below the home (sqlite:///x.db),",
        ),
        ("sqlite:x.db", "{by} 'sqlite:x.db' lacks a slash"),
        ("sqlite://", "{by} names an in-memory SQLite database"),
        ("oracle://host/name", "{by} names oracle, which is not supported"),
        (f"postgresql//user:{SECRET}@host/name", "{by} is not an SQLAlchemy URL such as"),
    ],
)
def test_a_storage_that_is_no_url_is_repeated_with_where_it_was_given(tmp_path, storage, said):
    for by, done in (
        ("--storage", invoke("--home", tmp_path, "status", "--storage", storage)),
        ("RUST_OPTUNA_STORAGE", invoke("--home", tmp_path, "status", RUST_OPTUNA_STORAGE=storage)),
    ):
        assert done.exit_code == 2
        assert f"Error: {said.format(by=by)}" in done.output
        assert SECRET not in done.output


def test_where_there_is_no_database_or_no_server_the_ways_on_are_named(tmp_path):
    done = invoke("--home", tmp_path, "status")
    said = (
        f"Error: No database at {tmp_path / 'storage' / 'rust_optuna.db'}. If it lies elsewhere, name its folder with"
    )
    assert said in done.output
    pytest.importorskip("psycopg")
    done = invoke("--home", tmp_path, "--storage", f"postgresql://user@127.0.0.1:{free_port()}/name", "status")
    assert done.output.endswith("that the server runs and can be reached from here, or name another with --storage\n")
