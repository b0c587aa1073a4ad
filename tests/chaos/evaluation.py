"""Rounds of kills for `rust-optuna evaluate`: ``python -m tests.chaos.evaluation --backend sqlite --rounds 30``.

Each round begins from the same finished search of a tiny home (films are read, heads are trained) and runs the command
as a process, which is killed at moments that the round's seed draws; the same command is then started again until it
ends. Half of the rounds begin where the folds are trained as well, since all their kills are aimed at what comes after:
the whole model, the record, the model directory, the numbers. At the end there is one opening, whatever was killed, and
every number is that of a run that nothing disturbed.

Seeds that stand in the file of results are not run again. The exit code is 1 if any round, of this run or of the file,
broke a rule, and 2 if the backend cannot run here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rust_optuna.errors import RustOptunaError
from rust_optuna.model.files import CHECKSUMS, load_model
from rust_optuna.paths import Home
from rust_optuna.search.creation import create_study
from rust_optuna.search.evaluation import evaluation_name, evaluation_of
from rust_optuna.search.studies import load_study
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import create_database, open_database
from rust_optuna.storage.url import parse_url
from rust_optuna.worker.worker import Worker
from tests.chaos.backends import missing
from tests.chaos.check import LOST, TWICE, WRONG, Finding, check
from tests.chaos.harness import CRASHED, HANGS
from tests.chaos.records import connect, query
from tests.chaos.results import add_row, read_rows
from tests.chaos.servers import SERVERS, children, runs
from tests.chaos.truth import Truth
from tests.data.films import make_manifest
from tests.studies import command, configuration, random_document

SEARCH, FOLDS = "regime-1", 4
ARGUMENTS = ("evaluate", "--study", SEARCH, "--workers", "2", "--folds", str(FOLDS), "--gpus", "none")
DOCUMENT = random_document(
    2,
    lease_seconds=2,
    model={"weights": "random", "output": "mixed0", "image_size": 75, "hidden_units": [8, 4], "standardize": True},
    cross_validation={"folds": 2, "epochs": 3, "seed": 5},
)
LEFT = "left behind"
RUN_SECONDS = 600
"""A run that has not ended, or come to the moment of its kill, so long after its start hangs."""
UNDISTURBED_RUNS = 3
"""How often the command is started in the end: a worker's late orphans may still hold a point at the first."""


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Args:
        moment: one of `MOMENTS`, or ``clock``.
        at: on the clock, the part of an undisturbed run's time; else seconds after the moment.
        victim: ``worker`` (if there is one; else the command), ``evaluate`` (the command alone) or ``all`` (the command
            and what it started).
    """

    moment: str
    at: float
    victim: str


@dataclass(frozen=True)
class Script:
    """A round: whether it begins with trained folds, and the kill of each disturbed run."""

    trained: bool
    kills: tuple[Kill, ...]


def draw(seed: int) -> Script:
    """Draw a round; the same seed gives the same one."""
    dice = random.Random(seed)
    trained = seed % 2 == 0
    kills = []
    for number in range(dice.randint(2, 3) if trained else dice.randint(1, 2)):
        if trained or (number > 0 and dice.random() < 0.5):
            kills.append(Kill(dice.choice(list(MOMENTS)), dice.choice((0.0, dice.uniform(0, 0.5))), "all"))
        else:
            victim = dice.choice(("worker", "evaluate", "all"))
            kills.append(Kill("clock", dice.uniform(0.2 if victim == "worker" else 0.02, 0.8), victim))
    return Script(trained, tuple(kills))


def _fits(home: Home) -> set[str]:
    return {path.name for path in home.fits.glob("*")}


def _record(home: Home) -> set[str]:
    """Tell one writing of the record from the next."""
    with suppress(FileNotFoundError):
        return {str(_file(home).stat().st_mtime_ns)}
    return set()


def _features(home: Home) -> set[str]:
    return {path.name for path in home.holdout.glob("features/*/*")}


def _temporary(home: Home) -> set[str]:
    return {path.name for path in home.models.glob(".*.tmp")}


def _directory(home: Home) -> set[str]:
    return {path.name for path in home.models.glob("[!.]*")}


def _numbers(home: Home) -> set[str]:
    with suppress(FileNotFoundError):
        return {"numbers"} - ({"numbers"} if '"numbers": null' in _file(home).read_text() else set())
    return set()


MOMENTS: Mapping[str, Callable[[Home], set[str]]] = {
    "fit": _fits,
    "record": _record,
    "features": _features,
    "temporary": _temporary,
    "directory": _directory,
    "numbers": _numbers,
}
"""What a run does late, and what is new on the disk once it has."""


def _file(home: Home) -> Path:
    return home.root / "manifest.openings.json"


@dataclass(frozen=True)
class Place:
    """Where a round takes place: a home, its database, and a folder for temporary files."""

    home: Home
    url: str

    @property
    def temporary(self) -> Path:
        """Where the command's temporary files go."""
        return self.home.root / "tmp"


class Templates:
    """The prepared homes with their databases, and copies of them.

    Args:
        backend: ``sqlite`` or ``postgresql``.
        folder: a new one.
    """

    def __init__(self, backend: str, folder: Path) -> None:
        self._folder = folder
        self._server = SERVERS[backend](folder / "server") if backend in SERVERS else None
        if self._server is not None:
            self._server.create()

    def make(self) -> None:
        """Run the search in one home, and train the folds of its evaluation in a copy."""
        make_manifest(self._folder / "searched", patients=14, holdout=4)
        home = Home((self._folder / "searched").resolve())
        if self._server is not None:
            self._server.execute("CREATE DATABASE searched")
        with create_database(parse_url(self._url("searched"), home), "storage/artifacts") as database:
            create_study(database, configuration(DOCUMENT), home)
            Worker(database, home, open_store(database.artifacts(), home)).run([SEARCH])
        place = self.copy("searched", "trained")
        with open_database(parse_url(place.url, place.home)) as database:
            manifest = str(place.home.root / "manifest.csv")
            folds = evaluation_of(database, load_study(database, SEARCH), manifest, folds=FOLDS, seeds=1)
            create_study(database, folds, place.home)
            Worker(database, place.home, open_store(database.artifacts(), place.home)).run([folds.name])

    def copy(self, name: str, copy: str) -> Place:
        """Return a copy of a home and its database."""
        shutil.copytree(self._folder / name, self._folder / copy)
        if self._server is not None:
            self._server.execute(f"CREATE DATABASE {copy} TEMPLATE {name}")
        place = Place(Home((self._folder / copy).resolve()), self._url(copy))
        place.temporary.mkdir(exist_ok=True)
        return place

    def remove(self, copy: str) -> None:
        """Remove a copy."""
        if self._server is not None:
            self._server.execute(f"DROP DATABASE {copy} WITH (FORCE)")
        shutil.rmtree(self._folder / copy)

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.remove()

    def _url(self, name: str) -> str:
        if self._server is not None:
            return self._server.url(database=name)
        return f"sqlite:///{Home(self._folder / name).database}"


@dataclass(frozen=True)
class Undisturbed:
    """What a run comes to that nothing disturbs.

    Args:
        seconds: how long it took.
        files: the SHA-256 of each file of the model directory that holds numbers.
        numbers: of its opening.
        models: the SHA-256 of each head.
        values: of its folds, by the fold's number.
    """

    seconds: float
    files: Mapping[str, str]
    numbers: Mapping[str, Any]
    models: Mapping[str, str]
    values: Mapping[int, float]


def undisturbed(place: Place) -> Undisturbed:
    """Run the command to its end, and return what it comes to."""
    began = time.monotonic()
    code, said = _Run(place).wait()
    if code != 0:
        raise RuntimeError(f"an undisturbed evaluation ended with {code}: {said}")
    seconds = time.monotonic() - began
    (opening,) = json.loads(_file(place.home).read_text())["openings"]
    with closing(connect(place.url)) as connection:
        points = query(
            connection,
            "SELECT p.parameters, p.value FROM rust_optuna_point p JOIN rust_optuna_study s ON s.id = p.study_id"
            " WHERE s.name = ?",
            evaluation_name(SEARCH),
        )
    values = {json.loads(row["parameters"])["fold"]: row["value"] for row in points}
    return Undisturbed(seconds, _files(place.home.models / SEARCH), opening["numbers"], opening["models"], values)


def _files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a model directory, but for those that hold a time.

    Keras writes the time into its files; what a head is, `Undisturbed.models` says.
    """
    names = [
        "model.json",
        "metrics.json",
        "calibration.json",
        *sorted(f"arrays/{p.name}" for p in folder.glob("arrays/*")),
    ]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


class _Run:
    """One run of the command, and the processes that it started."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._before = {moment: look(place.home) for moment, look in MOMENTS.items()}
        self._began = time.monotonic()
        self._log = place.home.root / "log"
        line, keywords = command(place.home, place.url, ARGUMENTS, TMPDIR=str(place.temporary))
        with self._log.open("w") as log:
            self.process = subprocess.Popen(line, stdout=log, stderr=log, **keywords)
        self.family: set[int] = set()

    def strike(self, kill: Kill, undisturbed_seconds: float) -> str:
        """Wait for the moment of a kill, and do it; return what was killed, ``nothing`` if the command was faster."""
        if kill.moment == "clock":
            self._sleep_until(lambda: time.monotonic() - self._began >= kill.at * undisturbed_seconds)
        else:
            look, before = MOMENTS[kill.moment], self._before[kill.moment]
            self._sleep_until(lambda: bool(look(self._place.home) - before))
            reached = time.monotonic()
            self._sleep_until(lambda: time.monotonic() - reached >= kill.at)
        if self.process.poll() is not None:
            return "nothing"
        started = children(self.process.pid)
        self.family |= {self.process.pid, *started}
        workers = [pid for pid in started if _is_worker(pid)]
        if kill.victim == "worker" and workers:
            _kill(workers[0])
            return "worker"
        _kill(self.process.pid)
        if kill.victim == "all":
            for pid in started:
                _kill(pid)
        self.process.wait()
        return "evaluate" if kill.victim == "worker" else kill.victim

    def wait(self) -> tuple[int | None, str]:
        """Wait for the end; return the exit code, None if there is no end, and the last line that it printed."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(RUN_SECONDS)
        code = self.process.poll()
        if code is None:
            self.kill()
        lines = self._log.read_text(errors="replace").splitlines()
        return code, (lines or ["nothing said"])[-1]

    def kill(self) -> None:
        """Leave no process behind."""
        if self.process.poll() is None:
            self.family |= {self.process.pid, *children(self.process.pid)}
        for pid in filter(runs, self.family):
            _kill(pid)
        self.process.wait()

    def _sleep_until(self, condition: Callable[[], bool]) -> None:
        while not condition() and self.process.poll() is None and time.monotonic() - self._began < RUN_SECONDS:
            time.sleep(0.002)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_worker(pid: int) -> bool:
    with suppress(OSError):
        return b"\0worker\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@dataclass
class Round:
    """What became of a round."""

    seed: int
    seconds: float = 0.0
    trained: bool = False
    runs: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def run_round(seed: int, templates: Templates, expected: Undisturbed) -> Round:
    """Run one round and check it."""
    began = time.monotonic()
    script = draw(seed)
    place = templates.copy("trained" if script.trained else "searched", f"round_{seed}")
    done = Round(seed, trained=script.trained)
    started: list[_Run] = []
    try:
        for kill in script.kills:
            started.append(_Run(place))
            killed = started[-1].strike(kill, expected.seconds)
            done.killed[f"{killed} at {kill.moment}"] += 1
            if killed in ("nothing", "worker"):
                done.findings += _ended(*started[-1].wait())
        for _ in range(UNDISTURBED_RUNS):
            started.append(_Run(place))
            code, said = started[-1].wait()
            if code == 0:
                break
        done.findings += _ended(code, said)
        family = set().union(*(run.family for run in started))
        deadline = time.monotonic() + 60
        while any(map(runs, family)) and time.monotonic() < deadline:
            time.sleep(0.05)
        done.findings += [Finding(HANGS, f"process {pid} outlives its command") for pid in filter(runs, family)]
    finally:
        for run in started:
            run.kill()
    done.findings += check_round(place, expected)
    done.runs, done.seconds = len(started), time.monotonic() - began
    templates.remove(f"round_{seed}")
    return done


def _ended(code: int | None, said: str) -> Iterator[Finding]:
    if code is None:
        yield Finding(HANGS, f"the command has not ended after {RUN_SECONDS} s: {said}")
    elif code != 0:
        yield Finding(CRASHED, f"the command ended with {code}: {said}")


def check_round(place: Place, expected: Undisturbed) -> Iterator[Finding]:
    """Yield every rule that an evaluation broke: one opening, the numbers of an undisturbed run, each fold once."""
    home, folder = place.home, place.home.models / SEARCH
    openings = json.loads(_file(home).read_text())["openings"] if _file(home).is_file() else []
    with closing(connect(place.url)) as connection:
        entered = query(connection, "SELECT * FROM rust_optuna_holdout_opening")
        models = query(connection, "SELECT * FROM rust_optuna_model")
        yield from check(
            connection,
            evaluation_name(SEARCH),
            FOLDS,
            home.storage / "artifacts",
            lambda point: _truth(point, expected),
        )
    for name, found in (("file", len(openings)), ("database", len(entered)), ("table of models", len(models))):
        if found != 1:
            yield Finding(TWICE if found else LOST, f"{found} openings or models in the {name}")
    for opening in openings:
        if opening["numbers"] != expected.numbers or opening["models"] != expected.models:
            yield Finding(WRONG, "the record does not hold the models and numbers of an undisturbed run")
    for row in entered:
        if row["id"] != openings[0]["id"] or json.loads(row["numbers"] or "null") != expected.numbers:
            yield Finding(WRONG, "the database does not hold the opening and numbers of the record")
    yield from _check_directory(folder, expected, models)
    for path in _left(home):
        yield Finding(LEFT, f"{path.relative_to(home.root)}")


def _left(home: Home) -> list[Path]:
    """Return what an evaluation should have removed: folders, and files with the record, the whole head or the model.

    A small file that was killed while it was written elsewhere (which processor computed the features, say) stays.
    """
    folders = [path for path in home.storage.rglob(".*.tmp") if path.is_dir()]
    files = [path for folder in (home.root, home.fits, home.models) for path in folder.glob(".*.tmp") if path.is_file()]
    return sorted([*folders, *files])


def _truth(point: Mapping[str, Any], expected: Undisturbed) -> Truth:
    return Truth("complete", expected.values[point["fold"]], False, 0.0, 0)


def _check_directory(folder: Path, expected: Undisturbed, models: list[dict[str, Any]]) -> Iterator[Finding]:
    if not (folder / CHECKSUMS).is_file():
        yield Finding(LOST, "there is no model directory")
        return
    if subprocess.run(["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS], cwd=folder, check=False).returncode:
        yield Finding(WRONG, "sha256sum finds another file than was written")
    sums = hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest()
    if any(row["sha256"] != sums for row in models):
        yield Finding(WRONG, "the database names another directory")
    for name, digest in _files(folder).items():
        if digest != expected.files.get(name):
            yield Finding(WRONG, f"{name} is not that of an undisturbed run")
    try:
        heads = {name: head.sha256 for name, head in load_model(folder).heads.items()}
    except RustOptunaError as error:
        yield Finding(WRONG, f"the directory cannot be loaded: {error}")
        return
    if heads != expected.models:
        yield Finding(WRONG, "the directory holds other heads than an undisturbed run's")


def run_rounds(backend: str, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Run rounds on one backend, print a line for each, and yield each as a row of the results."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # the server's unprivileged user passes through it
        templates = Templates(backend, folder)
        try:
            templates.make()
            expected = undisturbed(templates.copy("searched", "undisturbed"))
            for seed in seeds:
                done = run_round(seed, templates, expected)
                row = _row(backend, done)
                _print_round(row)
                yield row
        finally:
            templates.close()


def _row(backend: str, done: Round) -> dict[str, Any]:
    findings = [{"kind": finding.kind, "words": finding.words} for finding in done.findings]
    row = {"backend": backend, "seed": done.seed, "seconds": round(done.seconds, 1), "trained": done.trained}
    return row | {"runs": done.runs, "killed": dict(done.killed), "findings": findings}


def _print_round(row: dict[str, Any]) -> None:
    killed = ", ".join(f"{count} {what}" for what, count in row["killed"].items())
    verdict = "one opening, the same numbers" if not row["findings"] else f"{len(row['findings'])} FINDINGS"
    print(f"{row['backend']} {row['seed']}: {row['seconds']} s, {row['runs']} runs; {killed}: {verdict}", flush=True)
    for finding in row["findings"]:
        print(f"  {finding['kind']}: {finding['words']}", flush=True)


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.evaluation", description="Rounds of kills, each checked."
    )
    parser.add_argument("--backend", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the others follow")
    parser.add_argument("--results", type=Path, help="a JSON line for each round; seeds that stand in it are not run")
    options = parser.parse_args()
    # Asked to stop, it still ends its processes and its server, and gives its disk back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if reason := missing(options.backend):
        print(f"NOT RUN: {reason}")
        return 2
    mine = {row["seed"]: row for row in read_rows(options.results) if row["backend"] == options.backend}
    seeds = range(options.seed, options.seed + options.rounds)
    if left := [seed for seed in seeds if seed not in mine]:
        for row in run_rounds(options.backend, left):
            mine[row["seed"]] = row
            add_row(options.results, row)
    killed: Counter[str] = Counter()
    for seed in seeds:
        killed.update(mine[seed]["killed"])
    bad = [seed for seed in seeds if mine[seed]["findings"]]
    print(f"\n{options.backend}: {len(seeds)} rounds, {len(bad)} with findings")
    for what, count in sorted(killed.items()):
        print(f"  {what:26} {count:4}")
    for seed in bad:
        print(f"repeat: python -m tests.chaos.evaluation --backend {options.backend} --rounds 1 --seed {seed}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
