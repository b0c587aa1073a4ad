"""Outputs that cannot show every character: something else stands there, and the command goes on."""

import os
import subprocess

import pytest

from tests.studies import command, make_study, random_document, run_study

PLAINLY = str.maketrans({"–": "-", "×": "x"})
ODD = "R\N{EN DASH}ö日\N{MICROSCOPE}.csv"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("latin-1", r"R-ö\u65e5\U0001f52c.csv"),
        ("cp1252", r"R–ö\u65e5\U0001f52c.csv"),
        ("koi8-r", r"R-\xf6\u65e5\U0001f52c.csv"),
        ("utf-8", ODD),
        ("ascii", ODD),
    ],
)
def test_a_name_that_cannot_be_shown_is_replaced(sqlite, home, encoding, shown):
    # Click writes UTF-8 where it is told ASCII, which is what a terminal of the C locale most likely understands.
    run = run_in(encoding, sqlite, home)
    done = run("data", "check", ODD)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert shown in done.stderr
    done = run("study", "create", ODD)
    assert done.returncode == 2
    assert "does not exist" in done.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "koi8-r"])
def test_what_commands_print_of_their_own_is_shown(sqlite, home, encoding):
    run_study(sqlite, home, random_document(2))
    make_study(sqlite, home, random_document(2, name="waiting"))
    run = run_in(encoding, sqlite, home)
    for words, shown in (
        (("status",), "–"),
        (("best",), "dropout_rate"),
        (("data", "check", "manifest.csv"), "10 × 12"),
    ):
        done = run(*words)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), (words, done.stderr)
        assert "\\u" not in done.stdout
        assert any(each in done.stdout for each in (shown, shown.translate(PLAINLY)))


def test_what_workers_log_is_shown_whatever_the_terminal_is(sqlite, home):
    make_study(sqlite, home, random_document(1))
    words = ("--workers", "1", "--gpus", "none", "--objective", "tests.stand_ins:raising_in_any_script")
    done = run_in("latin-1", sqlite, home)("worker", "start", *words)
    assert r"no \U0001f52c lück \u65e5" in done.stderr, done.stderr
    (log,) = home.logs.glob("*.log")
    assert "no \N{MICROSCOPE} lück 日" in log.read_text(encoding="utf-8")


def test_a_path_that_is_no_unicode_is_shown_as_far_as_it_is(sqlite, home):
    run = run_in("utf-8", sqlite, home)
    name = os.fsdecode(b"R\xf6ntgen.csv")
    done = run("data", "check", name)
    assert done.returncode == 2
    assert r"R\udcf6ntgen.csv" in done.stderr


def run_in(encoding, database, home):
    """Return a function that runs a command whose output has an encoding."""
    url = database.url.render_as_string()

    def run(*words):
        line, keywords = command(home, url, words, PYTHONIOENCODING=encoding)
        read_as = "utf-8" if encoding == "ascii" else encoding
        return subprocess.run(line, capture_output=True, timeout=120, check=False, **keywords | {"encoding": read_as})

    return run
