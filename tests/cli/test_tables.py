"""Tables as a person sees them on a terminal, and as a file gets them: nothing of them is ever missing."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import termios

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rust_optuna.cli import cli
from rust_optuna.cli.live import LiveTable
from rust_optuna.cli.tables import print_table
from rust_optuna.data.check import CheckReport, Part
from rust_optuna.data.manifest import LABELS
from rust_optuna.fleet.devices import Device
from rust_optuna.run.forecast import ExtractionForecast, Forecast, StudyForecast
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.results import status
from tests.cli.test_main import invoke
from tests.cli.test_results import complete_one
from tests.reports import report
from tests.studies import command, make_study, random_document, write_study

WIDTH = 80
LONG = "a.study-" * 12
COLUMNS = {"study": "left", "path": "left", "points": "right", "value": "right"}


def cells_of(output):
    """Return the cells of each line of printed tables."""
    return [re.split(" {2,}", line.strip()) for line in output.splitlines()]


class Terminal(io.StringIO):
    """A standard output that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """Return a function that returns what another one prints on a terminal, escape codes and all."""

    def show(printing, width=WIDTH, **environment):
        for name, value in {"COLUMNS": str(width), "TERM": "xterm-256color", **environment}.items():
            monkeypatch.setenv(name, value)
        stream = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            printing()
        return stream.getvalue()

    return show


@pytest.fixture
def show(on_terminal):
    """Return a function that returns the lines of a command on a terminal of 80 columns, without escape codes."""

    def show(*words):
        def call():
            with pytest.raises(SystemExit):
                cli.main([str(word) for word in words])

        return click.unstyle(on_terminal(call)).splitlines()

    return show


def rows_of(lines):
    """Return the lines of the first table among others, without its rule."""
    (first, *_) = (number for number, line in enumerate(lines) if set(line.strip()) == {"─"})
    below = [*lines[first + 1 :], ""]
    return [lines[first - 1], *below[: below.index("")]]


def study_of_ordinary_name(database, home):
    study = make_study(database, home, random_document(100, name="demo-regime-1"))
    complete_one(database, study, 0.75, report())
    return study


@pytest.mark.parametrize("words", [("status",), ("study", "list"), ("study", "show", "demo-regime-1")])
def test_a_table_of_studies_fits_a_terminal_of_80_columns(sqlite, home, show, words):
    study_of_ordinary_name(sqlite, home)
    header, row = rows_of(show("--home", home.root, "--storage", sqlite.url.render_as_string(), *words))[:2]
    assert header.split()[:2] == ["study", "sampler" if "list" in words else "state"]
    assert row.split()[0] == "demo-regime-1"
    assert max(map(len, (header, row))) <= WIDTH


def test_the_best_of_several_studies_stand_side_by_side(sqlite, home, show):
    for name in ("demo-regime-1", "regime-1"):
        complete_one(sqlite, make_study(sqlite, home, random_document(100, name=name)), 0.75, report())
    url = sqlite.url.render_as_string()
    lines = show("--storage", url, "best")
    (document, _) = json.loads(invoke("--storage", url, "best", "--json").output)
    header, first, second = rows_of(lines)
    shown = dict(zip(header.split(), first.split(), strict=True))
    expected = {"study": "demo-regime-1", "value": "0.7500", "baseline": "0.4500", "learning_rate": "0.001"}
    sampled = {name: f"{value:g}" for name, value in document["params"].items()}
    assert shown == {**expected, "epsilon": "1e-07", **sampled}
    assert second.split()[0] == "regime-1"
    scores = rows_of(lines[5:])[:3]
    assert [line.split()[-4:] for line in scores[1:]] == [
        ["0.7500", "±", "0.1000", "0.4500"],
        ["0.5000", "±", "0.1000", "0.3000"],
    ]
    assert max(map(len, (header, first, second, *scores))) <= WIDTH
    assert show("--storage", url, "best", "regime-1")[0].startswith("regime-1: trial 0")


def test_the_live_table_fits_a_terminal_of_80_columns(sqlite, home):
    study = study_of_ordinary_name(sqlite, home)
    live = LiveTable()
    live.console = Console(file=io.StringIO(), width=WIDTH)
    live.show(status(sqlite, study, foreign=False))
    live.console.print(live._table())
    header, row = rows_of(live.console.file.getvalue().splitlines())[:2]
    titles = "study waiting running complete holes best baseline a minute time left"
    assert " ".join(header.split()) == titles
    assert row.split() == ["demo-regime-1", "99", "0", "1", "0", "0.7500", "0.4500"]


def test_a_table_of_workers_fits_a_terminal_of_80_columns(sqlite, home, show):
    study = study_of_ordinary_name(sqlite, home)
    worker = "gpu-node-17-0123456789ab"
    Ledger(sqlite).register(worker, host="gpu-node-17", process=1234567, device="3")
    Ledger(sqlite).claim([study.id], worker)
    lines = rows_of(show("--storage", sqlite.url.render_as_string(), "worker", "list"))
    assert lines[1].split()[:6] == [worker, "gpu-node-17", "1234567", "3", "0", "s"]
    start = lines[0].index("runs")
    doing = " ".join(line[start:].strip() for line in lines[1:])
    assert re.fullmatch(r"demo-regime-1 point 1, attempt 1, for \d s", doing)
    assert max(map(len, lines)) <= WIDTH


def test_the_table_of_the_published_films_fits_a_terminal_of_80_columns(home, show, monkeypatch):
    parts = [
        Part(name, films, patients, dict.fromkeys(LABELS, films // 2))
        for name, films, patients in (
            ("all", 2936, 1207),
            ("development", 2496, 1026),
            ("holdout", 440, 181),
            *((f"fold {fold}", 416, 171) for fold in range(6)),
        )
    ]
    report = CheckReport("manifest.csv", (), parts=tuple(parts))
    monkeypatch.setattr("rust_optuna.data.check.check_manifest", lambda *_, **__: report)
    header, *rows = rows_of(show("--home", home.root, "data", "check", "manifest.csv"))
    assert header.split() == ["all", "develop.", "holdout", "fold", "0", "1", "2", "3", "4", "5"]
    assert [row.split()[0] for row in rows] == ["films", "patients", *LABELS]
    assert rows[0].split()[1:4] == ["2,936", "2,496", "440"]
    assert max(map(len, (header, *rows))) <= WIDTH


def test_a_dry_run_shows_the_seconds_of_each_batch_size(home, show, monkeypatch):
    study = StudyForecast(
        "regime-1", 100, 100, 6, 20, 2496, [(16, 1234.56), (1024, 78.9), (2080, 40.0)], 2048, 100.0, 10_000.0, None
    )
    plan = Forecast([Device("cpu", {})], ExtractionForecast(), [study], 10**6, 10**9)
    monkeypatch.setattr("rust_optuna.run.forecast.forecast", lambda *_, **__: plan)
    lines = show("--home", home.root, "search", "--dry-run", write_study(home, random_document()))
    assert [line.split() for line in lines if line.startswith("  ") and "batch size with" not in line][:5] == [
        ["batch", "size", "seconds", "a", "trial"],
        [lines[lines.index("  batch size  seconds a trial") + 1].strip()],
        ["16", "1234.6"],
        ["1,024", "78.9"],
        ["2,080", "40.0"],
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_table_fills_no_more_than_the_window_that_it_is_shown_in(sqlite, home, columns):
    """In a real terminal, whose size nothing in the environment says."""
    make_study(sqlite, home, random_document(2, name=LONG))
    line, keywords = command(home, sqlite.url.render_as_string(), ("status",), TERM="xterm")
    keywords["env"].pop("COLUMNS", None)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(line, stdout=slave, stderr=slave, **{**keywords, "encoding": None}) as process:
        os.close(slave)
        shown = read_to_the_end(master)
    assert process.returncode == 0, shown
    lines = click.unstyle(shown).splitlines()
    assert "".join(line.split()[0] for line in lines[2:]) == LONG
    assert max(map(len, lines)) == columns


def read_to_the_end(master):
    read = b""
    try:
        while part := os.read(master, 4096):
            read += part
    except OSError:  # on Linux, how a terminal says that nobody will write to it any more
        pass
    os.close(master)
    return read.decode()


@pytest.mark.parametrize("words", [("status",), ("study", "list")])
def test_a_row_is_one_line_where_a_program_reads_it(sqlite, home, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    make_study(sqlite, home, random_document(2, name=LONG))
    done = invoke("--storage", sqlite.url.render_as_string(), *words)
    header, rule, row = done.output.splitlines()
    assert set(rule) == {"─"}
    assert len(row.split()) == len(header.split()) - ("remark" in header)
    assert row.split()[0] == LONG
    assert "\x1b" not in done.output


@pytest.mark.parametrize("odd", ["[red]node[/red]", ":smile:", "[/]", "[link=https://a.b]c[/link]", "1234 0x3f 'a'"])
def test_what_looks_like_markup_is_shown_as_it_is(on_terminal, capsys, odd):
    def printing():
        print_table({odd: "left", f"{odd} ": "right"}, [(f"a {odd}", f"b {odd}")])

    shown = on_terminal(printing, 200)
    printing()
    lines = capsys.readouterr().out.splitlines()
    assert click.unstyle(shown).splitlines() == lines
    assert lines[0].count(odd) == lines[2].count(odd) == 2
    assert "\x1b" not in shown.partition("─")[2]


def test_only_a_terminal_is_sent_escape_codes(on_terminal, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")

    def printing():
        print_table({"study": "left"}, [("a",)])

    printing()
    assert capsys.readouterr().out == "study\n─────\na\n"
    assert on_terminal(printing) == "\x1b[1mstudy\x1b[0m\n─────\na\n"
    assert on_terminal(printing, TERM="dumb") == "study\n─────\na\n"
    colours = re.compile(r"\x1b\[[\d;]*[34]\d")
    assert not colours.search(on_terminal(printing, NO_COLOR="1"))


def test_numbers_stand_right_and_text_left(capsys):
    print_table(COLUMNS, [("a", "x", "1", "–"), ("bcd", "yz", "1,000", "0.5000")], indent=2)
    assert capsys.readouterr().out.splitlines() == [
        "  study  path  points   value",
        "  ───────────────────────────",
        "  a      x          1       –",
        "  bcd    yz     1,000  0.5000",
    ]


def test_an_indented_table_fits_the_terminal(on_terminal):
    def printing():
        print_table({"study": "left", "path": "left"}, [("a" * 60, "b" * 60)], indent=4)

    rule = click.unstyle(on_terminal(printing, 40)).splitlines()[1]
    assert rule == "    " + "─" * 36


def test_columns_move_together_before_text_is_folded(on_terminal):
    def printing():
        print_table(COLUMNS, [("abcdefgh", "ijklmnop", "1", "0.5000")])

    assert click.unstyle(on_terminal(printing, 34)).splitlines()[0] == "study     path      points   value"
    assert click.unstyle(on_terminal(printing, 33)).splitlines()[0] == "study    path     points  value"
    assert click.unstyle(on_terminal(printing, 31)).splitlines()[2] == "abcdefgh ijklmnop      1 0.5000"


def test_characters_as_wide_as_two_keep_their_columns_straight(capsys):
    print_table({"study": "left", "n": "right"}, [("日本語の研究", "1"), ("ab", "2")])
    assert capsys.readouterr().out.splitlines()[2:] == ["日本語の研究  1", "ab            2"]


def test_a_table_without_rows_has_its_header(capsys):
    print_table(COLUMNS, [])
    assert capsys.readouterr().out == "study  path  points  value\n──────────────────────────\n"


NAMES = st.text(st.sampled_from("abc-._/日é[]:1"), min_size=1, max_size=60)


@given(
    rows=st.lists(st.tuples(NAMES, NAMES, st.integers(0, 10**7), st.floats(0, 1)), min_size=1, max_size=4),
    width=st.integers(1, 130),
)
def test_nothing_of_a_table_is_lost_at_any_width(rows, width):
    """Each column holds, read from top to bottom, what was put into it; numbers stay whole."""
    cells = [(study, path, f"{points:,}", f"{value:.4f}") for study, path, points, value in rows]
    stream = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "dumb")
        patch.setattr("sys.stdout", stream)
        print_table(COLUMNS, cells)
    text = stream.getvalue()
    printed = sorted(re.sub(r"[\s─]", "", text))
    assert printed == sorted("".join(["".join(COLUMNS), *("".join(row) for row in cells)]))
    found = text.split()
    for _, _, points, value in cells:
        assert points in found
        assert value in found
    assert "…" not in text
