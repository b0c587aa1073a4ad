"""The records of a home's supervisors. Each supervisor keeps its record locked for as long as it lives.

A process number proves nothing, because the system reuses it. A lock does: the system releases it when the process
ends, however it ends.
"""

from __future__ import annotations

import json
import os
import platform
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from rust_optuna.fleet.identity import Identity, elsewhere, own_identity
from rust_optuna.locks import hold, is_held
from rust_optuna.paths import Home

KEPT_SUPERVISORS = 20
"""How many ended supervisors keep their logs."""


@dataclass(frozen=True)
class Record:
    """What a supervisor records about itself.

    Earlier versions recorded no ``boot``, ``namespace`` or ``started``; `Identity` describes these three.

    Args:
        name: the supervisor's name.
        host: the host name of its machine.
        pid: its process number there.
        daemon: whether it runs in the background.
        studies: the names of the studies that it serves; none for all open studies.
        grace: the seconds that its workers get to finish their points.
        boot: the identifier of the machine's boot.
        namespace: the PID namespace of the process number.
        started: when its process began.
    """

    name: str
    host: str
    pid: int
    daemon: bool
    studies: Sequence[str]
    grace: float
    boot: str = ""
    namespace: str = ""
    started: str = ""

    @property
    def process(self) -> Identity:
        """The identity of its process."""
        return Identity(self.pid, self.host, self.boot, self.namespace, self.started)


def new_name() -> str:
    """Return a unique name for a supervisor; names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{platform.node()[:40]}-{uuid.uuid4().hex[:8]}"


@contextmanager
def registered(home: Home, name: str, *, daemon: bool, studies: Sequence[str], grace: float) -> Iterator[Record]:
    """Register this process as a supervisor of a home while the block runs, and prune the logs of ended ones."""
    own = asdict(own_identity())
    record = Record(name=name, daemon=daemon, studies=tuple(studies), grace=grace, **own)
    path = home.record(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as file:
        # It is locked before it gets its name, so that nobody takes it for a dead supervisor's record.
        hold(file.fileno())
        json.dump(asdict(record), file)
        file.flush()
        os.replace(temporary, path)
        try:
            prune_logs(home)
            yield record
        finally:
            path.unlink(missing_ok=True)


def living(home: Home) -> list[Record]:
    """Return the living supervisors of this home, oldest first, and remove the records of dead ones."""
    alive = []
    for path in sorted(home.workers.glob("*.pid")):
        try:
            with path.open(encoding="utf-8") as file:
                if _lives(file):
                    file.seek(0)
                    alive.append(_record(json.load(file)))
                else:
                    _remove(path)
        except FileNotFoundError:
            continue  # the supervisor ended just now
    return alive


def lives(home: Home, name: str) -> bool:
    """Return whether a supervisor of this home lives."""
    try:
        with home.record(name).open(encoding="utf-8") as file:
            return _lives(file)
    except FileNotFoundError:
        return False


def prune_logs(home: Home, keep: int = KEPT_SUPERVISORS) -> None:
    """Remove the logs of all ended supervisors but the newest ``keep``."""
    alive = {record.name for record in living(home)}
    ended = {name: paths for name, paths in logs(home).items() if name not in alive}
    for name in list(ended)[: max(0, len(ended) - keep)]:
        for path in ended[name]:
            _remove(path)


def logs(home: Home) -> dict[str, list[Path]]:
    """Return the logs of each supervisor of this home and of its workers, by the supervisor's name, oldest first."""
    paths: dict[str, list[Path]] = {}
    for path in home.logs.glob("worker-*.log"):
        if match := re.fullmatch(r"worker-(\d{8}T\d{6}Z-.*-[0-9a-f]{8})(-\d+)?\.log", path.name):
            paths.setdefault(match[1], []).append(path)
    return dict(sorted(paths.items()))


def _record(document: dict[str, Any]) -> Record:
    """Return the record in a file, whichever version wrote it."""
    known = {field.name for field in fields(Record)}
    return Record(**{name: value for name, value in document.items() if name in known})


def _remove(path: Path) -> None:
    with suppress(PermissionError):  # another user's file is left for that user to remove
        path.unlink(missing_ok=True)


def _lives(file: TextIO) -> bool:
    held = is_held(file.fileno())
    if held is None:  # the file system has no locks
        return _runs(_record(json.load(file)))
    return held


def _runs(record: Record) -> bool:
    """Return whether the process of a record runs, or may run in another container or on another machine."""
    here = own_identity()
    machine = here.boot if record.boot else here.host
    if (record.boot or record.host, record.namespace) != (machine, here.namespace if record.namespace else ""):
        return True
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process belongs to another user
    return elsewhere(record.process, record.name) is None
