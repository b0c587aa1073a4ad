"""Where each film lies on this machine, by content: the only place that holds paths of films."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from rust_optuna.data.radiographs import content_hash, read_bytes
from rust_optuna.data.threads import Progress, map_in_threads
from rust_optuna.errors import DataError, FilmError
from rust_optuna.paths import atomic_write

VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A file as it was when it was hashed; while size and time stay, it is not hashed again."""

    content: str
    size: int
    mtime_ns: int


class FilmIndex:
    """Content hash → path, kept in one JSON file on this machine.

    Any number of threads and processes may use one file at once: additions are merged under a lock and the
    file is replaced as a whole, so nothing is lost and readers need no lock.

    Args:
        path: the JSON file; it and its folder are made by the first `add`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._paths: dict[str, list[str]] = {}
        self._use(self._load())

    def add(self, paths: Iterable[Path], progress: Progress | None = None) -> dict[Path, str]:
        """Hash the files that are new or changed, remember them, and return the content hash of each path.

        Raises:
            DataError: files that cannot be read, all of them named. The others are remembered.
        """
        absolute = {path: os.path.abspath(path) for path in paths}
        self._use(self._load())
        entries = map_in_threads(self._entry, list(absolute.values()), progress)
        good = {name: e for name, e in zip(absolute.values(), entries, strict=True) if isinstance(e, Entry)}
        if any(self._entries.get(name) != entry for name, entry in good.items()):
            self._merge(good)
        failures = [str(entry) for entry in entries if isinstance(entry, DataError)]
        if failures:
            raise DataError("\n  ".join([f"{len(failures)} of {len(entries)} films cannot be read:", *failures]))
        return {path: good[name].content for path, name in absolute.items()}

    def locate(self, content: str) -> Path:
        """Return the path of a film.

        Raises:
            DataError: no such film was ever added here, or its file is gone.
        """
        return self._candidates(content)[0]

    def read(self, content: str) -> bytes:
        """Return a film's bytes, which are what their hash says.

        Raises:
            DataError: as `locate`, or the file has changed since it was added.
        """
        candidates = self._candidates(content)
        for path in candidates:
            try:
                found = read_bytes(path)
            except DataError as error:
                raise FilmError(content, "cannot be read", path) from error
            if hashlib.sha256(found).hexdigest() == content:
                return found
        raise FilmError(content, "has changed since it was indexed", candidates[0])

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Give an error about a film that the block raises the path of its file, for the terminal."""
        try:
            yield
        except FilmError as error:
            raise FilmError(error.content, error.what, self.locate(error.content)) from error

    def _candidates(self, content: str) -> list[Path]:
        """Return the files that are said to hold a film and still exist: at least one."""
        if not any(map(os.path.isfile, self._paths.get(content, []))):
            # Another process may have added it meanwhile.
            self._use(self._load())
        known = self._paths.get(content, [])
        existing = [Path(name) for name in known if os.path.isfile(name)]
        if existing:
            return existing
        if known:
            raise FilmError(content, "is gone", known[0])
        raise FilmError(content, "is not on this machine, or was never indexed here: rust-optuna features build FILE")

    def _entry(self, name: str) -> Entry | DataError:
        try:
            before = os.stat(name)
            known = self._entries.get(name)
            if known and (known.size, known.mtime_ns) == (before.st_size, before.st_mtime_ns):
                return known
            # The time is taken before the bytes: a file written to in between is hashed anew next time.
            return Entry(content_hash(Path(name)), before.st_size, before.st_mtime_ns)
        except OSError as error:
            return DataError(f"{name}: {error.strerror or error}")
        except DataError as error:
            return error

    def _merge(self, new: dict[str, Entry]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(self.path.name + ".lock")):
            entries = self._load() | new
            document = {"version": VERSION, "films": {name: asdict(e) for name, e in sorted(entries.items())}}
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(document, indent=0), encoding="utf-8")
            self._use(entries)

    def _use(self, entries: dict[str, Entry]) -> None:
        paths: dict[str, list[str]] = {}
        for name, entry in sorted(entries.items()):
            paths.setdefault(entry.content, []).append(name)
        with self._lock:
            self._entries, self._paths = entries, paths

    def _load(self) -> dict[str, Entry]:
        try:
            document: Any = json.loads(self.path.read_text(encoding="utf-8"))
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']!r}")
            return {name: Entry(**entry) for name, entry in document["films"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path}: is not an index of films that this version reads ({error}). "
                "It holds nothing that cannot be found again: delete it and index the films anew"
            ) from error
