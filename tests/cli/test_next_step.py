"""Each "Next:" line is a command that runs where it was printed, and does what comes next."""

import os
import shlex
import subprocess

import click
import pytest

from rust_optuna.cli import cli, next_step
from rust_optuna.cli.next_step import print_next
from rust_optuna.search.ledger import Ledger
from rust_optuna.storage.url import hide_passwords
from tests.cli.test_main import invoke
from tests.stand_ins import level
from tests.studies import grid_document, make_study, make_worker, random_document, run_study, toml

STAND_IN = ("--objective", f"{level.__module__}:{level.__name__}")


def next_words(output):
    """Return the words of the one "Next:" line, without the program's name."""
    (line,) = [line for line in output.splitlines() if line.startswith("Next")]
    program, *words = shlex.split(line.partition(": ")[2])
    assert program == "rust-optuna"
    return words


def follow(words, *more):
    done = invoke(*words, *more)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def run(sqlite, home):
    """Call the program on a home and a database named on the command line; of the next command, return the rest."""
    place = ["--home", str(home.root), "--storage", sqlite.url.render_as_string()]

    def call(*arguments, code=0):
        done = invoke(*arguments, *place)
        assert done.exit_code == code, done.output
        words = next_words(done.output)
        assert words[-4:] == place
        return words[:-4]

    return call


@pytest.fixture(autouse=True)
def _signals_stay(monkeypatch):
    monkeypatch.setattr("rust_optuna.worker.stopping.stop_on_signals", lambda stop: None)


def test_the_way_from_no_films_to_the_best_trial_is_walked_by_its_own_signposts(tmp_path):
    """In a home with a space in its name, a database elsewhere, and everything named on the first command's line."""
    root, database = tmp_path / "my home", f"sqlite:///{tmp_path / 'it' / 'is here.db'}"
    place = ["--home", str(root), "--storage", database]
    root.mkdir()
    output = follow(["data", "synthesize", "my films", "--patients", "24", *place[:2]])
    assert next_words(output) == ["data", "split", "my films/manifest.csv", *place[:2]]
    output = follow(next_words(output), "--seed", "1")
    assert next_words(output) == ["data", "check", "my films/manifest.csv", *place[:2]]
    output = follow(next_words(output))
    assert next_words(output) == ["search", "STUDY.toml", *place[:2]]
    assert 'write one with manifest = "my films/manifest.csv"' in output
    (root / "studies").mkdir()
    named = random_document(2, manifest="my films/manifest.csv")
    (root / "studies" / "mine 1.toml").write_text(toml(named))
    output = follow([*place, "data", "check", "my films/manifest.csv"])
    assert next_words(output) == ["search", "studies/mine 1.toml", *place]
    output = follow([*place, "study", "create", "studies/mine 1.toml"])
    assert next_words(output) == ["worker", "run", "regime-1", *place]
    output = follow(next_words(output), *STAND_IN)
    assert next_words(output) == ["best", "regime-1", *place]
    assert "value 0.5000" in follow(next_words(output))


def test_without_a_study_the_next_is_a_study_file_that_exists(run, home):
    for listing in (("study", "list"), ("best",), ("storage", "adopt-artifacts")):
        assert run(*listing) == ["search", "STUDY.toml"]
    (home.root / "studies").mkdir()
    (home.root / "studies" / "broken.toml").write_text("[")
    (home.root / "studies" / "mine.toml").write_text(toml(random_document()))
    for listing in (("study", "list"), ("best",)):
        assert run(*listing) == ["search", "studies/mine.toml"]


def test_an_open_study_is_run_and_one_that_is_done_is_looked_at(run, sqlite, home):
    (home.root / "studies").mkdir()
    (home.root / "studies" / "a.toml").write_text(toml(random_document(2)))
    run("study", "create", "studies/a.toml")
    assert run("best") == run("storage", "adopt-artifacts") == ["worker", "run"]
    assert run("worker", "list") == ["worker", "start"]
    assert run("worker", "run", *STAND_IN) == ["best"]
    assert run("study", "create", "studies/a.toml") == ["best", "regime-1"]
    assert run("storage", "upgrade") == ["status"]
    assert run("study", "extend", "regime-1", "--trials", "3") == ["worker", "run", "regime-1"]
    make_study(sqlite, home, random_document(2, name="another"))
    assert run("worker", "run", "regime-1", *STAND_IN) == ["best", "regime-1"]


def test_where_nothing_but_holes_is_left_the_next_is_what_is_wrong(run, sqlite, home):
    study = make_study(sqlite, home, random_document(1))

    def fail():
        ledger = Ledger(sqlite)
        while claim := ledger.claim([study.id], "ann"):
            ledger.fail(claim, "no luck")

    fail()
    assert run("best") == run("worker", "run", *STAND_IN) == ["status"]
    assert run("study", "retry", "regime-1") == ["worker", "run", "regime-1"]
    fail()
    assert run("study", "accept-holes", "regime-1") == ["study", "show", "regime-1"]
    assert run("study", "retry", "regime-1") == ["study", "show", "regime-1"]  # they are accepted for good


def test_of_the_studies_that_were_named_only_those_are_gone_on_with(run, sqlite, home):
    run_study(sqlite, home, random_document(2), "level")
    make_study(sqlite, home, grid_document())
    (home.root / "copy.toml").write_text(toml(random_document(2)))
    search = ("search", "copy.toml", "--gpus", "none", "--workers", "1", *STAND_IN)
    assert run(*search) == ["best", "regime-1"]
    assert run("worker", "run", "regime-1", *STAND_IN) == ["best", "regime-1"]
    assert run("storage", "adopt-artifacts") == ["worker", "run"]
    make_worker(sqlite, home, "level").run([])
    assert run("worker", "run", *STAND_IN) == ["best"]


def test_what_only_the_environment_says_is_not_repeated(sqlite, home):
    environment = {"RUST_OPTUNA_HOME": str(home.root), "RUST_OPTUNA_STORAGE": sqlite.url.render_as_string()}
    assert next_words(invoke("best", **environment).output) == ["search", "STUDY.toml"]


def test_a_home_that_is_no_unicode_is_named_so_that_a_shell_finds_it(tmp_path, sqlite):
    home = tmp_path / os.fsdecode(b"R\xf6ntgen 'a'")
    home.mkdir()
    line = invoke("best", "--home", home, "--storage", sqlite.url.render_as_string()).output.splitlines()[-1]
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {line.partition(': ')[2]}"], capture_output=True, check=True)
    assert os.fsencode(home) in words.stdout.splitlines()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:secret@host:5432/name", "postgresql://ann:***@host:5432/name"),
        ("postgresql://ann@host/name?password=secret&a=b", "postgresql://ann@host/name?password=***&a=b"),
        ("postgresql://host/name?a=b&sslpassword=secret", "postgresql://host/name?a=b&sslpassword=***"),
        ("postgresql://host/name?passfile=/run/pgpass", "postgresql://host/name?passfile=/run/pgpass"),
        ("postgresql://ann:s@cr@et@host/name", "postgresql://ann:***@host/name"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_no_password_is_shown(url, shown):
    assert hide_passwords(url) == shown


@pytest.mark.parametrize("secret", [":secret", ""])
def test_how_to_give_a_password_that_is_not_shown_is_said(capsys, secret):
    with click.Context(cli) as context:
        context.meta["rust_optuna.storage"] = f"mysql://ann{secret}@host/name"
        print_next("status")
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("Next: rust-optuna status --storage ")
    ways = ("RUST_OPTUNA_STORAGE", "--password-file", "RUST_OPTUNA_PASSWORD_FILE")
    assert [[way in line for way in ways] for line in others] == ([[True] * 3] if secret else [])


def test_alike_names_of_patients_are_settled_first(tmp_path):
    place = ["--home", str(tmp_path)]
    follow(["data", "synthesize", "films", "--patients", "12", *place])
    manifest = tmp_path / "films" / "manifest.csv"
    header, first, *rest = manifest.read_text().splitlines()
    column = header.split(",").index("patient")
    words = first.split(",")
    words[column] = words[column].lower() + ".0"
    manifest.write_text("\n".join([header, ",".join(words), *rest]) + "\n")
    output = follow(["data", "check", "films/manifest.csv", *place])
    commands = [line.partition(": ")[2] for line in output.splitlines() if line.startswith("Next")]
    assert commands == [
        shlex.join(["rust-optuna", "data", "split", "films/manifest.csv", how, *place])
        for how in ("--same", "--different")
    ]
    for command in commands:
        before = manifest.read_text()
        follow(shlex.split(command)[1:])
        manifest.write_text(before)


@pytest.mark.parametrize(
    ("started", "on_path", "shown"),
    [
        ("bin/rust-optuna", False, "bin/rust-optuna"),
        ("{cwd}/bin/rust-optuna", False, "bin/rust-optuna"),
        ("{cwd}/bin/rust-optuna", True, "rust-optuna"),
        ("{cwd}/rust_optuna/__main__.py", False, "rust-optuna"),
    ],
)
def test_a_program_that_is_not_on_the_path_is_named_by_its_own(tmp_path, monkeypatch, started, on_path, shown):
    program = tmp_path / "bin" / "rust-optuna"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(program.parent) if on_path else "/nowhere")
    monkeypatch.setattr("sys.argv", [started.format(cwd=tmp_path)])
    assert next_step.program() == shown
