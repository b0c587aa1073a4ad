"""The driver itself, on a toy package with one test that looks at one of two functions."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace

import pytest

from tests.mutants import __main__ as driver
from tests.mutants.__main__ import FailsUnmutatedError, run_sample
from tests.mutants.planting import LEAST, Mutant, draw, meaning, share_out
from tests.mutants.results import (
    HARMLESS,
    Harmless,
    Outcome,
    Results,
    States,
    key_of,
    read_harmless,
    summarise,
    survivors,
)
from tests.mutants.running import StoppedError, copies_of
from tests.mutants.table import COPIED, TESTS, Subject, modules_to_mutate, this_project
from tests.studies import REPOSITORY, wait_until

needs_cosmic_ray = pytest.mark.skipif(
    importlib.util.find_spec("cosmic_ray") is None, reason="Cosmic Ray is not installed: an extra, mutants"
)

MODULE = '''"""Sums."""

def add(a, b):
    return a + b

def twice(a):
    return 2 * a
'''
TEST = """import subprocess
import sys
import pytest

@pytest.mark.parametrize("sum", ["of two"])
def test_add_in_a_process_of_its_own(sum, tmp_path):
    script = "from toy.sums import add; print(add(2, 3))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "5"
"""
CAUGHT = Mutant("toy/sums.py", "Sub", 4, "return a + b", "return a - b", MODULE.replace("a + b", "a - b"))
SURVIVOR = Mutant("toy/sums.py", "Div", 7, "return 2 * a", "return 2 / a", MODULE.replace("2 * a", "2 / a"))
ENDLESS = MODULE.replace("return a + b", "while True: pass")


@pytest.fixture
def toy(tmp_path) -> Subject:
    root = tmp_path / "toy-project"
    (root / "toy").mkdir(parents=True)
    (root / "toy" / "__init__.py").touch()
    (root / "toy" / "sums.py").write_text(MODULE)
    (root / "test_sums.py").write_text(TEST)
    return Subject(root, {"toy/sums.py": ("test_sums.py",)}, ("toy", "test_sums.py"))


def run(subject, sample, path=None, **keywords):
    results = Results(path, States(subject))
    run_sample(subject, sample, results, keywords.pop("processes", 1), **keywords)
    return results


def test_a_fault_that_the_tests_see_is_caught_and_another_survives(toy):
    results = run(toy, sorted([CAUGHT, SURVIVOR], key=key_of, reverse=True))
    assert list(results.rows) == sorted(results.rows)  # in an order of its own, whatever the sample's
    assert results.of(CAUGHT).outcome is Outcome.CAUGHT
    assert results.of(CAUGHT).by == "test_sums.py::test_add_in_a_process_of_its_own[of two]"
    assert results.of(SURVIVOR).outcome is Outcome.SURVIVED
    assert (toy.root / "toy" / "sums.py").read_text() == MODULE


def test_a_run_goes_on_where_it_stopped(toy, tmp_path, capsys):
    path = tmp_path / "results" / "mutants.jsonl"
    Results(path, States(toy)).add(CAUGHT, Outcome.TIMED_OUT, None, 1.0)
    with path.open("a") as file:
        file.write('{"key": "half a li')  # as a run that was killed leaves it
    run(toy, [CAUGHT, SURVIVOR], path)
    assert "1 have been run before" in capsys.readouterr().out
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["new"], row["outcome"]) for row in rows] == [
        ("return a - b", "timed out"),
        ("return 2 / a", "survived"),
    ]
    # Nothing is left to be run, so nothing is.
    results = run(toy, [CAUGHT, SURVIVOR], path, processes=0)
    assert [results.of(CAUGHT).outcome, results.of(SURVIVOR).outcome] == [Outcome.TIMED_OUT, Outcome.SURVIVED]


@pytest.mark.parametrize(
    ("changed", "text", "kept"),
    [
        ("test_sums.py", "# changed", False),
        ("toy/sums.py", "changed = 1", False),
        ("toy/sums.py", "# changed", True),
        ("toy/sums.py", '"""Changed."""', True),
    ],
)
def test_a_result_of_other_code_or_other_tests_is_not_used_again(toy, tmp_path, changed, text, kept):
    path = tmp_path / "mutants.jsonl"
    Results(path, States(toy)).add(CAUGHT, Outcome.CAUGHT, None, 1.0)
    before = path.read_text()
    (toy.root / changed).write_text(f"{(toy.root / changed).read_text()}\n{text}\n")
    assert (Results(path, States(toy)).of(CAUGHT) is not None) == kept
    assert path.read_text() == (before if kept else "")


def test_a_result_without_a_database_is_not_used_where_there_is_one(toy, monkeypatch):
    monkeypatch.delenv("RUST_OPTUNA_TEST_POSTGRESQL", raising=False)
    before = States(toy).of("toy/sums.py", Outcome.SURVIVED, None)
    monkeypatch.setenv("RUST_OPTUNA_TEST_POSTGRESQL", "postgresql://")
    assert States(toy).of("toy/sums.py", Outcome.SURVIVED, None) != before


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("import sys", "import sys\n\ndef test_more():\n    pass", True),
        ('== "5"', '!= ""', False),
        ('["of two"]', '["of two", "again"]', False),
        ("def test_add_in_a_process_of_its_own", "def test_add", False),
    ],
)
def test_what_a_test_caught_stays_caught_while_that_test_is_as_it_was(toy, tmp_path, old, new, kept):
    path = tmp_path / "mutants.jsonl"
    by = "test_sums.py::test_add_in_a_process_of_its_own[of two]"
    Results(path, States(toy)).add(CAUGHT, Outcome.CAUGHT, by, 1.0)
    (toy.root / "test_sums.py").write_text(TEST.replace(old, new))
    assert (Results(path, States(toy)).of(CAUGHT) is not None) == kept


def test_nothing_is_begun_after_the_last_minute(toy):
    assert run(toy, [CAUGHT, SURVIVOR], minutes=0).rows == {}


def test_tests_that_fail_with_nothing_planted_stop_the_run(toy):
    (toy.root / "toy" / "sums.py").write_text(CAUGHT.source)
    with pytest.raises(FailsUnmutatedError, match=r"tests of toy/sums\.py do not pass with nothing planted"):
        run(toy, [SURVIVOR])


def test_a_mutant_whose_tests_do_not_end_is_caught_in_a_multiple_of_their_time(toy, monkeypatch):
    monkeypatch.setattr(driver, "PATIENCE", 1)
    monkeypatch.setattr(driver, "GRACE", 0.5)
    mutant = replace(CAUGHT, source=ENDLESS)
    results = run(toy, [mutant])
    assert (results.of(mutant).outcome, results.of(mutant).by) == (Outcome.TIMED_OUT, None)
    assert "caught: 1 of 1 (100.0%)" in summarise([results.of(mutant)], [])


@pytest.mark.parametrize(
    ("module", "sample", "arguments", "code"),
    [
        pytest.param(MODULE, [CAUGHT], [], 0, id="all caught"),
        pytest.param(MODULE, [CAUGHT, SURVIVOR], [], 1, id="a survivor"),
        pytest.param(MODULE, [CAUGHT], ["--minutes", "0"], 1, id="no time"),
        pytest.param(MODULE, [SURVIVOR], ["--only", "another/module"], 0, id="nothing to run"),
        pytest.param(CAUGHT.source, [SURVIVOR], [], 2, id="tests that fail"),
    ],
)
def test_the_exit_code_says_whether_there_is_anything_to_do(toy, monkeypatch, module, sample, arguments, code):
    (toy.root / "toy" / "sums.py").write_text(module)
    monkeypatch.setattr(driver, "draw", lambda *_: sample)
    monkeypatch.setattr(driver.signal, "signal", lambda *_: None)
    assert driver.main(toy, ["--processes", "1", *arguments]) == code


def test_tests_that_do_not_end_are_ended_with_all_they_started(toy, tmp_path):
    with copies_of(toy, 1) as copies:
        done = copies.run(["test_sums.py"], 0.5, "toy/sums.py", ENDLESS)
        again = copies.run(["test_sums.py"], 60)
    assert (done.passed, done.timed_out) == (False, True)
    assert again.passed  # the copy is as it was


def test_python_does_not_take_one_planted_source_for_the_one_before(toy):
    """Compiled code is current by the second in which its source was written, and by its size."""
    (toy.root / "test_sums.py").write_text(
        "import os\nimport toy.sums\n\ndef test():\n    print(int(os.stat(toy.sums.__file__).st_mtime))\n"
    )
    with copies_of(toy, 1) as copies:
        seconds = [
            re.search(r"^\d{9,}$", copies.run(["-s", "test_sums.py"], 60, "toy/sums.py", mutant.source).output, re.M)[0]
            for mutant in (CAUGHT, SURVIVOR)
        ]
    assert seconds[0] != seconds[1]


def test_the_processor_time_of_a_run_is_limited_by_the_system(toy):
    (toy.root / "test_sums.py").write_text(
        "import resource\n\ndef test():\n    print('limit', resource.getrlimit(resource.RLIMIT_CPU)[0])\n"
    )
    with copies_of(toy, 1) as copies:
        output = copies.run(["-s", "test_sums.py"], 59.5).output
    assert f"limit {math.ceil(59.5 * os.cpu_count())}" in output


def test_a_stop_ends_what_runs_and_gives_no_result(toy):
    here = toy.root / "here"
    (toy.root / "test_sums.py").write_text(f"def test():\n    open({str(here)!r}, 'w')\n    while 1: pass\n")
    with copies_of(toy, 1) as copies:
        ended = []

        def wait():
            with pytest.raises(StoppedError):
                copies.run(["test_sums.py"], 600)
            ended.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(here.exists)
        copies.stop()
        thread.join()
    assert ended


def test_a_package_that_the_tests_processes_find_elsewhere_stops_the_run(toy, monkeypatch):
    with copies_of(toy, 1) as copies:
        copies.check("toy/sums.py")
        monkeypatch.setattr("tests.mutants.running._environment", lambda copy: {"PYTHONPATH": str(toy.root)})
        with pytest.raises(RuntimeError, match=r"import toy\.sums from elsewhere"):
            copies.check("toy/sums.py")


def test_the_processes_that_tests_start_meet_the_copy_of_this_project():
    with copies_of(this_project(), 1) as copies:
        copies.check("rust_optuna/learn/program.py")


def test_the_summary_takes_off_what_is_named_harmless(toy):
    results = Results(None, States(toy))
    rows = [results.add(CAUGHT, Outcome.CAUGHT, None, 1.0), results.add(SURVIVOR, Outcome.SURVIVED, None, 1.0)]
    lines = summarise(rows, [])
    assert "caught: 1 of 2 (50.0%)" in lines
    assert lines[-3:] == ["toy/sums.py:7 (Div)", "- return 2 * a", "+ return 2 / a"]
    assert survivors(rows, []) == [rows[1]]
    named = [Harmless("toy/sums.py", "return 2 * a", "return 2 / a", "nobody calls it")]
    assert survivors(rows, named) == []
    assert summarise(rows, named)[-1] == "caught: 1 of 1 (100.0%)"


def test_every_module_has_a_row_and_every_test_is_there():
    assert sorted(TESTS) == modules_to_mutate(REPOSITORY)
    for module, tests in TESTS.items():
        assert tests, module
        for test in tests:
            file, *names = test.split("::")
            assert (REPOSITORY / file).is_file(), f"{module}: {file}"
            for name in names:
                assert f"def {name}(" in (REPOSITORY / file).read_text(), f"{module}: {test}"
            assert file.split("/")[0] in COPIED


def test_what_is_named_harmless_is_still_there_with_its_reason():
    for entry in read_harmless():
        lines = [line.strip() for line in (REPOSITORY / entry.module).read_text().splitlines()]
        assert all(line in lines for line in entry.old.splitlines()), entry
        assert entry.old != entry.new
        assert len(entry.reason) > 20, entry


def test_each_harmless_mutant_is_named_once():
    entries = tomllib.loads(HARMLESS.read_text())["harmless"]
    assert len({(e["module"], e["old"], e["new"]) for e in entries}) == len(entries)


@pytest.mark.parametrize(
    ("plain", "mutated"),
    [
        ('"""Sums."""', '"""Differences."""'),
        ("def add(a, b): return 1", "def add(a: int & None, b) -> int: return 1"),
        ("def add(a, *, b=1): return 1", "def add(a, /, b=1): return 1"),
        ("class A:\n    x: int | str = 1", "class A:\n    x: int & str = 1"),
        ("@dataclass(frozen=True)\nclass A: pass", "@dataclass(frozen=False)\nclass A: pass"),
        ("if TYPE_CHECKING:\n    import a", "if not TYPE_CHECKING:\n    import a"),
        ("logger.info(2 - 3)", "logger.info(2 + 3)"),
        ("zip(a, b, strict=True)", "zip(a, b, strict=False)"),
    ],
)
def test_what_cannot_matter_has_no_meaning(plain, mutated):
    assert meaning(mutated) == meaning(plain)


def test_what_can_matter_has_a_meaning():
    assert meaning(CAUGHT.source) != meaning(MODULE)
    assert meaning("def f(:") is None
    assert meaning("logger.info(1)") != meaning("raise_alarm(1)")
    assert meaning("class A:\n    x: int = 1\n") != meaning("class A:\n    x: int = 2\n")


def test_a_sample_is_shared_out_by_size_and_leaves_nobody_out():
    shares = share_out(100, {"long": 900, "short": 100, "tiny": 3})
    assert shares == {"long": 88, "short": 9, "tiny": 3}
    assert share_out(30, {"long": 900, "short": 10}) == {"long": 25, "short": LEAST}
    assert share_out(500, {"a": 4, "b": 7}) == {"a": 4, "b": 7}
    assert sum(share_out(3, {"a": 4, "b": 7}).values()) == 3


LINES = "".join(f"n{number} = {10 * number}\n" for number in range(1, 9))


@needs_cosmic_ray
def test_the_same_seed_draws_the_same_and_another_draws_others(toy):
    (toy.root / "toy" / "sums.py").write_text(LINES)

    def draw_lines(count, seed):
        return [mutant.line for mutant in draw(toy.root, list(toy.tests), count, seed)]

    assert draw_lines(5, 1) == draw_lines(5, 1)
    assert set(draw_lines(5, 1)) != set(draw_lines(5, 2))
    assert draw_lines(5, 1) == draw_lines(6, 1)[:5]
    assert sorted(draw_lines(100, 1)) == [1, 2, 3, 4, 5, 6, 7, 8]  # one at a place


@needs_cosmic_ray
def test_a_change_elsewhere_draws_the_same_again(toy):
    def drawn():
        return [(mutant.old, mutant.new) for mutant in draw(toy.root, list(toy.tests), 5, 1)]

    (toy.root / "toy" / "sums.py").write_text(LINES)
    before = drawn()
    (toy.root / "toy" / "sums.py").write_text("# A line above.\n" + LINES)
    assert drawn() == before


@needs_cosmic_ray
def test_annotations_and_the_like_are_not_drawn(toy):
    (toy.root / "toy" / "sums.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass(frozen=True)\nclass A:\n    x: int | str\n\n"
        "    def f(self, *, y: int | None) -> int | str:\n        pass\n"
    )
    assert [mutant.operator for mutant in draw(toy.root, list(toy.tests), 100, 1)] == ["RemoveDecorator"]


MAIN = """
import sys
from pathlib import Path
from tests.mutants.__main__ import main
from tests.mutants.table import Subject

sys.exit(main(Subject(Path(sys.argv[1]), {"toy/sums.py": ("test_sums.py",)}, ("toy", "test_sums.py")), sys.argv[2:]))
"""


def start(toy, tmp_path, *arguments):
    """Start the command line on the toy package."""
    line = [sys.executable, "-c", MAIN, str(toy.root), "--processes", "1", *arguments]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    keywords = {"cwd": REPOSITORY, "env": environment, "text": True}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **keywords)


@needs_cosmic_ray
def test_the_command_line_says_what_survives_and_goes_on_where_it_stopped(toy, tmp_path):
    results = tmp_path / "mutants.jsonl"
    process = start(toy, tmp_path, "--minutes", "0", "--results", str(results))
    assert "3 mutants of 3 are still to be run" in process.communicate()[0]
    assert process.returncode == 1
    printed, _ = start(toy, tmp_path, "--results", str(results)).communicate()
    assert "caught: 1 of 3 (33.3%)" in printed
    assert "- return 2 * a\n+ return 2 / a" in printed
    assert len(results.read_text().splitlines()) == 3
    again = start(toy, tmp_path, "--results", str(results))
    assert "3 mutants, of which 3 have been run before" in again.communicate()[0]
    assert again.returncode == 1


@needs_cosmic_ray
def test_a_run_that_is_stopped_leaves_nothing_behind(toy, tmp_path):
    (toy.root / "test_sums.py").write_text("def test():\n    while True: pass\n")
    process = start(toy, tmp_path)
    try:
        (output,) = wait_until(lambda: list(tmp_path.glob("mutants-*/0/output")))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert not output.parent.parent.exists()
    assert (toy.root / "toy" / "sums.py").read_text() == MODULE
