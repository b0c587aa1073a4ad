"""Tests run in copies of the working tree, each in a process of its own."""

from __future__ import annotations

import math
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.table import Subject

OPTIONS = ("-x", "-q", "-p", "no:cacheprovider")
SETTINGS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "1"}
"""No plugin is needed, and all together take a second to load; Hypothesis draws the same examples each time."""
LONGEST_BASELINE = 900
"""Seconds that a module's tests may take with nothing planted."""


class StoppedError(Exception):
    """The run was asked to stop: what its tests said means nothing."""


@dataclass(frozen=True)
class Run:
    """How a run of tests ended.

    Args:
        passed: whether all tests passed.
        timed_out: whether it was ended because it took too long.
        by: the first test that failed, as pytest names it; None where pytest named none (a module that cannot be
            imported, a process that died).
        seconds: how long it took.
        output: what it printed.
    """

    passed: bool
    timed_out: bool
    by: str | None
    seconds: float
    output: str


class Copies:
    """Copies of a working tree, one for each process that runs at a time; the working tree is only read.

    Safe to share between threads: a run takes a copy that no other has.
    """

    def __init__(self, subject: Subject, folder: Path, count: int) -> None:
        self.subject = subject
        self.count = count
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._writes = int(time.time())
        for number in range(count):
            copy = folder / str(number) / "tree"
            _copy_tree(subject, copy)
            self._free.put(copy)

    def run(self, tests: Sequence[str], seconds: float, module: str = "", source: str = "") -> Run:
        """Run tests in a copy in which a module has another source, or none has.

        Args:
            tests: files, or tests as pytest names them.
            seconds: after which the run is ended.
            module: the path of the module, below the root.
            source: planted in it.

        Raises:
            StoppedError: `stop` was called meanwhile.
        """
        copy = self._free.get()
        try:
            if not module:
                return self._pytest(copy, tests, seconds)
            with self._planted(copy / module, source):
                return self._pytest(copy, tests, seconds)
        finally:
            self._free.put(copy)

    def check(self, module: str) -> None:
        """Make sure that processes started by a test meet the copy, not the working tree or an installed package.

        Raises:
            RuntimeError: they do not.
        """
        copy = self._free.get()
        name = ".".join(Path(module).with_suffix("").parts)
        script = f"import importlib.util; print(importlib.util.find_spec({name!r}).origin)"
        command = [sys.executable, "-c", script]
        # From elsewhere: a process finds what lies in its own directory anyhow.
        where = {"cwd": copy.parent, "env": _environment(copy)}
        done = subprocess.run(command, **where, capture_output=True, text=True, check=False)
        self._free.put(copy)
        if Path(done.stdout.strip()).resolve() != (copy / module).resolve():
            found = done.stdout.strip() or done.stderr.strip()
            raise RuntimeError(f"a test's own processes import {name} from elsewhere than {copy}: {found}")

    def stop(self) -> None:
        """End all that runs, at once and for good."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill_group(process)

    @contextmanager
    def _planted(self, path: Path, source: str) -> Iterator[None]:
        before = path.read_text(encoding="utf-8")
        self._write(path, source)
        try:
            yield
        finally:
            self._write(path, before)

    def _write(self, path: Path, source: str) -> None:
        path.write_text(source, encoding="utf-8")
        # Python takes compiled code to be current by the second in which its source was written, and by its size.
        with self._lock:
            self._writes += 2
            os.utime(path, (self._writes, self._writes))

    def _pytest(self, copy: Path, tests: Sequence[str], seconds: float) -> Run:
        temporary = copy.parent / "tmp"
        # If this very process is killed, a test without end ends nonetheless: the system counts its processor time.
        limit = ["sh", "-c", 'ulimit -t "$0"; exec "$@"', str(math.ceil(seconds * (os.cpu_count() or 1)))]
        command = [*limit, sys.executable, "-m", "pytest", *OPTIONS, f"--basetemp={temporary}", *tests]
        started = time.monotonic()
        # To a file: a pipe would stay open for as long as anything that a test started lives.
        with (copy.parent / "output").open("w+b") as output:
            with self._started(command, copy, output) as process:
                try:
                    code = process.wait(seconds)
                except subprocess.TimeoutExpired:
                    code = None
            if self._stopped:
                raise StoppedError
            output.seek(0)
            text = output.read().decode(errors="replace")
        shutil.rmtree(temporary, ignore_errors=True)
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
        by = failed.group(1) if failed and code is not None else None
        return Run(code == 0, code is None, by, time.monotonic() - started, text)

    @contextmanager
    def _started(self, command: list[str], copy: Path, output) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process with a group of its own, none of which outlives the block."""
        with self._lock:
            if self._stopped:
                raise StoppedError
            keywords = {"cwd": copy, "env": _environment(copy), "stdin": subprocess.DEVNULL}
            process = subprocess.Popen(
                command, **keywords, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                _kill_group(process)
                self._running.discard(process)
            process.wait()


@contextmanager
def copies_of(subject: Subject, count: int) -> Iterator[Copies]:
    """Make copies of a working tree in a temporary folder; end what runs in them, and delete them, in the end."""
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        copies = Copies(subject, Path(folder).resolve(), count)
        try:
            yield copies
        finally:
            copies.stop()


def _environment(copy: Path) -> dict[str, str]:
    # Only the copy, so that nothing that is named in a path of the caller's comes before it.
    return {**os.environ, "PYTHONPATH": str(copy), **SETTINGS}


def _copy_tree(subject: Subject, copy: Path) -> None:
    copy.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.py[cod]")
    for name in subject.copied:
        source = subject.root / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored, symlinks=True)
        elif source.exists():
            shutil.copy2(source, copy / name)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
