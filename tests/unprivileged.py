"""Two people without privileges who share a folder: processes of other users, started by root."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.studies import REPOSITORY

GROUP = 61003
"""The group that both are members of; no entry in /etc/group is needed."""

BIND = """
set -e
aside=$1; blocked=$2; needed=$3; shift 3
IFS=:
number=0
for path in $needed; do
    number=$((number + 1)); mkdir "$aside/$number"; mount --bind "$path" "$aside/$number"
done
for path in $blocked; do mount -t tmpfs -o mode=755 none "$path"; done
number=0
for path in $needed; do
    number=$((number + 1)); mkdir -p "$path"; mount --bind "$aside/$number" "$path"
done
exec "$@"
"""
"""Shell: let everybody reach folders that lie below folders of root's own, in this mount namespace alone."""


ONE_AFTER_ANOTHER = """
import json, sys, traceback
from click.testing import CliRunner
from rust_optuna.cli import cli
done = [CliRunner().invoke(cli, words) for words in json.load(sys.stdin)]
crashes = [each.exception and not isinstance(each.exception, SystemExit) for each in done]
traces = ["".join(traceback.format_exception(*each.exc_info)) if crash else "" for each, crash in zip(done, crashes)]
json.dump([[each.exit_code, each.stdout, each.stderr + trace] for each, trace in zip(done, traces)], sys.stdout)
"""
"""Python: run the commands that standard input gives, and print exit code, output and errors of each."""


@dataclass(frozen=True)
class Person:
    """A user of this machine.

    Args:
        uid: the number; no entry in /etc/passwd is needed.
        umask: of all that is started.
        place: a folder that holds both the shared one and the person's own.
        variables: of the environment.
    """

    uid: int
    umask: int
    place: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def shared(self) -> Path:
        """The folder that both may write to."""
        return self.place / "shared"

    def command(self, words: Sequence[str | Path], **environment: str) -> tuple[list[str], dict[str, Any]]:
        """Return a command line that runs as this person, and the keyword arguments of ``subprocess``."""
        own = self.place / str(self.uid)
        variables = {"HOME": str(own), "RUST_OPTUNA_HOME": str(self.shared), "PYTHONUNBUFFERED": "1", **self.variables}
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={GROUP}", "--clear-groups", "--no-new-privs"]
        line = [*_reaching(self.place), *become, *map(str, words)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables, **environment}
        return line, {"cwd": REPOSITORY, "env": environment, "umask": self.umask, "text": True}

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run this program to its end."""
        line, keywords = self.command([sys.executable, "-m", "rust_optuna", *arguments], **environment)
        return subprocess.run(line, capture_output=True, timeout=240, check=False, **keywords)

    def run_all(self, *commands: Sequence[str | Path]) -> list[subprocess.CompletedProcess[str]]:
        """Run commands of this program in one process, which saves the start of one for each."""
        words = [list(map(str, command)) for command in commands]
        line, keywords = self.command([sys.executable, "-c", ONE_AFTER_ANOTHER])
        done = subprocess.run(
            line, input=json.dumps(words), stdout=subprocess.PIPE, timeout=240, check=True, **keywords
        )
        results = json.loads(done.stdout)
        return [subprocess.CompletedProcess(each, *result) for each, result in zip(words, results, strict=True)]

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start this program."""
        line, keywords = self.command([sys.executable, "-m", "rust_optuna", *arguments], **environment)
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **keywords)


@functools.cache
def why_not() -> str | None:
    """Say why this process cannot become other users, None where it can."""
    if os.geteuid() != 0:
        return "acting as two users needs root"
    if shutil.which("setpriv") is None:
        return "acting as two users needs setpriv (util-linux)"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        line, keywords = Person(61001, 0o022, place).command([sys.executable, "-c", "import rust_optuna, sqlalchemy"])
        tried = subprocess.run(line, capture_output=True, check=False, **keywords)
    if tried.returncode:
        return f"other users cannot run this Python here: {tried.stderr.strip().splitlines()[-1]}"
    return None


@contextmanager
def two_people(umask: int) -> Iterator[tuple[Person, Person]]:
    """Make two people of one group, and a folder that they share; skip the test where that cannot be done."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    place = Path(tempfile.mkdtemp(prefix="rust_optuna_people_"))
    try:
        place.chmod(0o755)
        people = Person(61001, umask, place), Person(61002, umask, place)
        for person in people:
            own = place / str(person.uid)
            own.mkdir(mode=0o700)
            os.chown(own, person.uid, GROUP)
        shared = people[0].shared
        shared.mkdir()
        os.chown(shared, people[0].uid, GROUP)
        shared.chmod(0o2775)
        yield people
    finally:
        shutil.rmtree(place)


def _reaching(place: Path) -> list[str]:
    """Return the words before a command that let every user reach this Python and this package."""
    needed = list(dict.fromkeys(map(os.path.realpath, (sys.base_prefix, sys.prefix, REPOSITORY))))
    needed = [path for path in needed if _blocked(path)]
    needed = [path for path in needed if not any(path.startswith(f"{other}/") for other in needed)]
    if not needed:
        return []
    blocked = dict.fromkeys(_blocked(path) for path in needed)
    aside = tempfile.mkdtemp(dir=place)
    words = ["sh", "-c", BIND, "sh", aside, ":".join(map(str, blocked)), ":".join(needed)]
    return ["unshare", "--mount", "--propagation", "private", *words]


def _blocked(path: str) -> Path | None:
    """Return the outermost folder above a path that other users cannot pass, None where they can reach it."""
    return next((above for above in reversed(Path(path).parents) if not above.stat().st_mode & 0o001), None)
