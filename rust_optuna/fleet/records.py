"""The supervisors of a home: each keeps a file locked for as long as it lives, however it dies.

A process number is no proof of life, it is given to others. A lock is: the system takes it back with the process.
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
"""Of so many ended supervisors the logs are kept."""


@dataclass(frozen=True)
class Record:
    """What a supervisor says of itself in its file.

    Args:
        name: the supervisor's.
        host: its machine.
        pid: its process there.
        daemon: whether it runs in the background.
        studies: the names it serves; none for all open studies.
        grace: the seconds that its workers get to finish their points.
        boot: see `Identity`, as the next two; earlier versions recorded none of them.
        namespace: of its process number.
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
        """Its process, told from all others."""
        return Identity(self.pid, self.host, self.boot, self.namespace, self.started)


def new_name() -> str:
    """Return a name for a supervisor that no other ever had; names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{platform.node()[:40]}-{uuid.uuid4().hex[:8]}"


@contextmanager
def registered(home: Home, name: str, *, daemon: bool, studies: Sequence[str], grace: float) -> Iterator[Record]:
    """Be a living supervisor of this home while the block runs; the logs of long-ended ones go."""
    me = asdict(own_identity())
    record = Record(name=name, daemon=daemon, studies=tuple(studies), grace=grace, **me)
    path = home.record(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    unseen = path.with_suffix(".new")
    with unseen.open("w", encoding="utf-8") as file:
        # Locked before it can be seen: it is never taken for a dead one's.
        hold(file.fileno())
        json.dump(asdict(record), file)
        file.flush()
        os.replace(unseen, path)
        try:
            prune_logs(home)
            yield record
        finally:
            path.unlink(missing_ok=True)


def living(home: Home) -> list[Record]:
    """Return the supervisors of this home that live, oldest first; what dead ones left is removed."""
    found = []
    for path in sorted(home.workers.glob("*.pid")):
        try:
            with path.open(encoding="utf-8") as file:
                if _lives(file):
                    file.seek(0)
                    found.append(_record(json.load(file)))
                else:
                    _remove(path)
        except FileNotFoundError:
            continue  # it ended just now
    return found


def lives(home: Home, name: str) -> bool:
    """Say whether a supervisor of this home lives."""
    try:
        with home.record(name).open(encoding="utf-8") as file:
            return _lives(file)
    except FileNotFoundError:
        return False


def prune_logs(home: Home, keep: int = KEPT_SUPERVISORS) -> None:
    """Remove the logs of all supervisors but the living and the newest."""
    alive = {record.name for record in living(home)}
    ended = {name: paths for name, paths in logs(home).items() if name not in alive}
    for name in list(ended)[: max(0, len(ended) - keep)]:
        for path in ended[name]:
            _remove(path)


def logs(home: Home) -> dict[str, list[Path]]:
    """Return the logs of each supervisor of this home, its own and its workers', oldest supervisor first."""
    found: dict[str, list[Path]] = {}
    for path in home.logs.glob("worker-*.log"):
        if named := re.fullmatch(r"worker-(\d{8}T\d{6}Z-.*-[0-9a-f]{8})(-\d+)?\.log", path.name):
            found.setdefault(named[1], []).append(path)
    return dict(sorted(found.items()))


def _record(document: dict[str, Any]) -> Record:
    """Return what a file says, whichever version wrote it."""
    known = {field.name for field in fields(Record)}
    return Record(**{name: value for name, value in document.items() if name in known})


def _remove(path: Path) -> None:
    with suppress(PermissionError):  # another user's: theirs to remove
        path.unlink(missing_ok=True)


def _lives(file: TextIO) -> bool:
    held = is_held(file.fileno())
    if held is None:  # no locks on this file system
        return _runs(_record(json.load(file)))
    return held


def _runs(record: Record) -> bool:
    """Say whether the process of a record runs; of one in another container or on another machine nothing is known."""
    here = own_identity()
    machine = here.boot if record.boot else here.host
    if (record.boot or record.host, record.namespace) != (machine, here.namespace if record.namespace else ""):
        return True
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return elsewhere(record.process, record.name) is None
