"""Two people without privileges in one folder, from the films to the export; and the same without flock."""

import csv
import errno
import re
import signal
import stat
import subprocess
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests import stand_ins, without_locks
from tests.studies import random_document, toml, wait_until
from tests.unprivileged import two_people

GATED = ("--objective", "tests.stand_ins:gated")
READING = (
    ("status",),
    ("best",),
    ("study", "list"),
    ("study", "show", "regime-1"),
    ("worker", "list"),
    ("data", "check", "films/manifest.csv", "--folds", "2"),
)


def good(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder):
    """Every file below a folder, with its permissions and its owner."""
    return {str(path.relative_to(folder)): path.stat()[:1] + path.stat()[4:6] for path in sorted(folder.rglob("*"))}


def assert_modes(folder, umask):
    for name, (mode, *_) in files(folder).items():
        whole = 0o777 if stat.S_ISDIR(mode) else 0o666
        assert mode & 0o777 == whole & ~umask, (name, oct(mode))


def prepare(person, films="films", patients=12, **changes):
    """Make films and a study of one person."""
    document = random_document(3, manifest=f"{films}/manifest.csv", **changes)
    document["cross_validation"] = {"folds": 2, "epochs": 1, "seed": 5}
    line, keywords = person.command(["tee", person.shared / f"{films}.toml"])
    subprocess.run(line, input=toml(document), check=True, stdout=subprocess.DEVNULL, **keywords)
    commands = (
        ("data", "synthesize", films, "--patients", patients, "--seed", patients),
        ("data", "split", f"{films}/manifest.csv", "--holdout", "0.15"),
        ("study", "create", f"{films}.toml"),
    )
    for done in person.run_all(*commands):
        good(done)


def look(person):
    """All commands that read, each of which must work and leave nothing behind."""
    before = files(person.shared)
    for done in person.run_all(*READING):
        good(done)
    assert files(person.shared) == before


def show(person):
    """Ask the dashboard."""
    before = files(person.shared)
    running = person.start("dashboard", "--port", "0")
    try:
        (port,) = re.findall(r"http://127.0.0.1:(\d+)/dashboard", running.stdout.readline())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=60) as answer:
            assert b"regime-1" in answer.read()
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, "Traceback" in output) == (0, False), output
    assert files(person.shared).keys() == before.keys()


@pytest.fixture
def gate():
    """Where stand-ins say that they began, and what they wait for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o777)
        yield path


@contextmanager
def working(person, gate):
    """A worker of a person that is at its first point while the block runs."""
    for file in gate.iterdir():
        file.unlink()
    running = person.start("worker", "run", *GATED, **{stand_ins.GATE: str(gate)})
    try:
        wait_until(lambda: list(gate.glob("*.began")), 60)
        yield running
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=60)
        assert "Traceback" not in output, output
    finally:
        running.kill()
        running.communicate()


def finish(person, gate, *words):
    """Let a person run what is left."""
    (gate / "open").touch()
    good(person.run("worker", *(words or ("run",)), *GATED, **{stand_ins.GATE: str(gate)}))


def test_two_who_share_a_group_take_turns_from_the_films_to_the_export(gate):
    with two_people(0o002) as (one, other):
        prepare(one)
        look(other)
        with working(one, gate):
            look(other)
        finish(other, gate)
        good(one.run("study", "extend", "regime-1", "--trials", "4"))
        finish(other, gate, "start", "--gpus", "none", "--workers", "1")
        look(other)
        show(other)
        good(one.run("study", "extend", "regime-1", "--trials", "5"))
        finish(one, gate)
        for person in (one, other):
            good(person.run("study", "export", "regime-1", "report"))
        good(other.run("storage", "backup", "backup"))
        with (one.shared / "report/trials.csv").open() as table:
            assert len(list(csv.DictReader(table))) == 5
        assert {path.name for path in (one.shared / "storage").glob("rust_optuna.db*")} == {
            "rust_optuna.db",
            "rust_optuna.db.lock",
        }
        assert_modes(one.shared / "storage", one.umask)
        assert_modes(one.shared / "report", one.umask)
        assert stat.S_IMODE((one.shared / "backup").stat().st_mode) == 0o664


def test_who_may_only_read_looks_before_during_and_after_a_run_and_is_told_what_is_lacking(gate):
    with two_people(0o022) as (one, other):
        prepare(one)
        look(other)
        for denied in other.run_all(
            ("worker", "run", *GATED),
            ("worker", "start", "--gpus", "none", *GATED),
            ("study", "extend", "regime-1", "--trials", "4"),
            ("study", "create", "films.toml"),
            ("storage", "upgrade"),
        ):
            assert (denied.returncode, "Traceback" in denied.stderr) == (1, False), denied.stderr
            (line,) = [each for each in denied.stderr.splitlines() if each.startswith("Error")]
            assert f"{one.shared}/storage/rust_optuna.db cannot be written to" in line
            assert f"chmod -R g+rwX {one.shared}/storage" in line
        with working(one, gate):
            assert (one.shared / "storage/rust_optuna.db-wal").exists()
            look(other)
            show(other)
        finish(one, gate)
        look(other)
        show(other)
        own = other.place / str(other.uid)
        good(other.run("study", "export", "regime-1", own / "report"))
        good(other.run("storage", "backup", own / "backup"))
        assert_modes(one.shared / "storage", one.umask)
        # A worker that is killed leaves its log, which can be read, too.
        good(one.run("study", "extend", "regime-1", "--trials", "4"))
        (gate / "open").unlink()
        with working(one, gate) as running:
            running.kill()
        assert (one.shared / "storage/rust_optuna.db-wal").exists()
        look(other)


def test_a_database_that_may_not_even_be_read_is_named_with_what_helps(gate):
    with two_people(0o002) as (one, other):
        prepare(one)
        (one.shared / "storage/rust_optuna.db").chmod(0o600)
        denied = other.run("status")
        assert denied.returncode == 1
        assert f"{one.shared}/storage/rust_optuna.db cannot be read: it belongs to 61001" in denied.stderr
        assert f"chmod -R g+rX {one.shared}/storage" in denied.stderr


def test_an_artifact_store_that_may_not_be_written_to_is_named_before_anything_is_computed(gate):
    with two_people(0o002) as (one, other):
        prepare(one)
        store = one.shared / "storage/artifacts"
        store.chmod(0o2755)
        for denied in other.run_all(
            ("worker", "run"), ("worker", "run", "--forever"), ("search", "films.toml", "--gpus", "none")
        ):
            assert (denied.returncode, "Traceback" in denied.stderr) == (1, False), denied.stderr
            assert f"{store} cannot be written to: it belongs to 61001" in denied.stderr
            assert f"chmod -R g+rwX {store}" in denied.stderr
            assert not (one.shared / "storage/features").exists()


@pytest.mark.parametrize("made", ["nothing", "a folder", "a lock"])
def test_where_no_film_can_be_remembered_none_is_hashed(made):
    with two_people(0o022) as (one, other):
        for done in one.run_all(
            ("data", "synthesize", "films", "--patients", "8"),
            ("data", "split", "films/manifest.csv", "--holdout", "0.3"),
        ):
            good(done)
        (one.shared / "study.toml").write_text(toml(random_document(1, manifest="films/manifest.csv")))
        lacking = one.shared
        if made == "nothing":
            lacking.chmod(0o2755)
        else:
            lacking = one.shared / "storage"
            lacking.mkdir(mode=0o755)
        if made == "a lock":
            lacking.chmod(0o777)
            lacking = lacking / "films.json.lock"
            lacking.touch(0o644)
        for denied in other.run_all(("features", "build", "study.toml"), ("search", "study.toml", "--dry-run")):
            assert (denied.returncode, "Traceback" in denied.stderr) == (1, False), denied.stderr
            assert f"{lacking} cannot be written to" in denied.stderr
            assert "Hashing films" not in denied.stderr


def test_a_whole_run_where_the_file_system_has_no_flock(gate):
    with two_people(0o002) as (one, other):
        lacking = without_locks.variables(without_locks.library(one.place), errno.ENOSYS)
        one, other = (replace(person, variables=lacking) for person in (one, other))
        prepare(one)
        with working(one, gate):
            good(other.run("status"))
        finish(other, gate)
        good(one.run("study", "extend", "regime-1", "--trials", "5"))
        finish(other, gate, "start", "--gpus", "none", "--workers", "2")
        good(one.run("study", "export", "regime-1", "report"))
        with (one.shared / "report/trials.csv").open() as table:
            assert len(list(csv.DictReader(table))) == 5
        assert list(one.shared.rglob("*.held")) == []


@pytest.mark.tensorflow
@pytest.mark.long
def test_two_fill_one_cache_of_features(gate):
    pytest.importorskip("tensorflow")
    small = {"weights": "random", "output": "mixed0", "image_size": 75}
    with two_people(0o002) as (one, other):
        prepare(one, model=small, patients=4)
        good(one.run("features", "build", "regime-1"))
        prepare(other, films="others", name="regime-2", patients=6, model=small)
        good(other.run("features", "build", "regime-2"))
        assert len(list((one.shared / "storage/features").glob("*/shard-*"))) == 2
        assert_modes(one.shared / "storage/features", one.umask)
