"""The index of where each film is on this machine, by content: the only place that holds paths of films."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rust_optuna.data.radiographs import SIGNATURE_BYTES, SUFFIXES, content_hash, has_signature, pixel_hash, read_bytes
from rust_optuna.data.threads import Progress, map_in_threads
from rust_optuna.errors import AbsentFilmsError, DataError, DataValueError, FilmError, MissingFilmsError
from rust_optuna.locks import locked
from rust_optuna.paths import atomic_write
from rust_optuna.permissions import lack

VERSION = 2
"""The version of the index file. Version 1, without hashes of pixels, can still be read."""


@dataclass(frozen=True)
class Entry:
    """The state of a file when it was hashed. The file is hashed again only when its size or time changes.

    Args:
        content: the hash of its bytes.
        size: the size in bytes.
        mtime_ns: the time of its last modification, in nanoseconds.
        pixels: the hash of its pixels, empty until it is decoded.
    """

    content: str
    size: int
    mtime_ns: int
    pixels: str = ""


class FilmIndex:
    """An index from content hashes to paths, kept in one JSON file on this machine.

    Any number of threads and processes may use one file at once: additions are merged under a lock and the file is
    replaced as a whole, so nothing is lost and readers need no lock.

    Args:
        path: the JSON file; the first `add` creates it and its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock_path = self.path.with_name(self.path.name + ".lock")
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._paths: dict[str, list[str]] = {}
        self._pixels: dict[str, str] = {}
        self._use(self._load())

    def add(self, paths: Iterable[Path], progress: Progress | None = None) -> dict[Path, str]:
        """Hash new and changed files, remember them, and return the content hash of each path.

        Raises:
            DataError: files cannot be read; the message names them all. The other files are remembered.
        """
        absolute = {path: os.path.abspath(path) for path in paths}
        self._use(self._load())
        good, failed = self._hash(list(absolute.values()), progress)
        self._remember(good)
        if failed:
            failures = [str(error) for error in failed.values()]
            raise DataError("\n  ".join([f"{len(failures)} of {len(absolute)} films cannot be read:", *failures]))
        return {path: good[name].content for path, name in absolute.items()}

    def add_pixels(self, paths: Iterable[Path], progress: Progress | None = None) -> dict[Path, str | DataError]:
        """Add files as `add` does, decode those never decoded on this machine, and return the hashes of their pixels.

        Returns:
            The `pixel_hash` of each path, or the error that occurred while it was read.
        """
        absolute = {path: os.path.abspath(path) for path in paths}
        self._use(self._load())
        good, failed = self._hash(list(absolute.values()), progress, pixels=True)
        self._remember(good)
        return {path: failed[name] if name in failed else good[name].pixels for path, name in absolute.items()}

    def missing(self, contents: Iterable[str]) -> list[str]:
        """Return the distinct films, in this order, that have no file in the state in which it was hashed."""
        return [
            content
            for content in dict.fromkeys(contents)
            if not any(self._unchanged(name) for name in self._paths.get(content, []))
        ]

    def scan(self, root: Path, wanted: Collection[str], progress: Progress | None = None) -> None:
        """Search a folder for missing films, and remember all films that it holds.

        Every file of a supported format counts, whatever its name, and links are followed. Files that have not changed
        since they were hashed are not hashed again. If no film is missing, the folder is not searched.

        Args:
            root: the folder.
            wanted: the content hashes of the films.
            progress: called as files are hashed.

        Raises:
            DataError: the folder does not exist.
            MissingFilmsError: films are still missing. The other films are remembered.
        """
        self._use(self._load())
        missing = self.missing(wanted)
        if not missing:
            return
        require_folder(root)
        folder = _Folder(root)
        good, failed = self._hash(list(folder.image_files(self._entries.keys())), progress)
        unread = [*(str(error) for error in failed.values()), *folder.unread]
        present = {entry.content for entry in good.values()}
        missing = [content for content in missing if content not in present]
        former = {name: self._entries[name].content for name in good if name in self._entries}
        lost = set(missing)
        changed = {name: content for name, content in former.items() if content in lost}
        # A changed file keeps its old entry, so that the next search reports the change again.
        self._remember({name: entry for name, entry in good.items() if name not in changed})
        if missing:
            films = [
                FilmError(content, "has changed: its content differs from the manifest's", name)
                for name, content in sorted(changed.items())
            ]
            raise MissingFilmsError(
                missing, len(set(wanted)), root, films, unread, compared=len(good), others=folder.others
            )

    def content_of(self, path: Path) -> str | None:
        """Return a path's content hash as of its last hashing on this machine, even if the file is gone; else None."""
        known = self._entries.get(os.path.abspath(path))
        return None if known is None else known.content

    def require(self, contents: Iterable[str]) -> None:
        """Refuse films without a file, before anything costly begins.

        Raises:
            AbsentFilmsError: films have no file; the message says how many and what helps.
        """
        self._use(self._load())
        wanted = list(dict.fromkeys(contents))
        absent = [content for content in wanted if not any(map(os.path.isfile, self._paths.get(content, [])))]
        if absent:
            raise AbsentFilmsError(absent, len(wanted), next(iter(self._paths.get(absent[0], [])), None))

    def locate(self, content: str) -> Path:
        """Return the path of a film.

        Raises:
            DataError: the film was never added on this machine, or its file is gone.
        """
        return self._candidates(content)[0]

    def read(self, content: str) -> bytes:
        """Return a film's bytes, checked against its hash.

        Raises:
            DataError: the film has no file, as in `locate`, or the file has changed since it was added.
        """
        candidates = self._candidates(content)
        for path in candidates:
            try:
                encoded = read_bytes(path)
            except DataError as error:
                raise FilmError(content, "cannot be read", path) from error
            if hashlib.sha256(encoded).hexdigest() == content:
                return encoded
        raise FilmError(content, "has changed since it was indexed", candidates[0])

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Add the path of the film's file to a `FilmError` from the block, for the terminal."""
        try:
            yield
        except FilmError as error:
            raise FilmError(error.content, error.what, self.locate(error.content)) from error

    def _candidates(self, content: str) -> list[Path]:
        """Return the existing files that hold a film according to the index, at least one.

        Raises:
            FilmError: there is none.
        """
        if not any(map(os.path.isfile, self._paths.get(content, []))):
            # Another process may have added it meanwhile.
            self._use(self._load())
        known = self._paths.get(content, [])
        existing = [Path(name) for name in known if os.path.isfile(name)]
        if existing:
            return existing
        if known:
            raise FilmError(content, "is gone: name the folder where the films are now with --data-root", known[0])
        raise FilmError(content, "is not on this machine, or was never indexed here: name its folder with --data-root")

    def _hash(
        self, names: list[str], progress: Progress | None, *, pixels: bool = False
    ) -> tuple[dict[str, Entry], dict[str, DataError]]:
        """Return the entry of each readable file, and the error of each other file.

        Raises:
            PermissionError: there are new entries, and this process may not write the index.
        """
        if any(name not in self._entries or not self._unchanged(name) for name in names):
            self._require_writable()  # before many films are read in vain
        entries = map_in_threads(self._entry_with_pixels if pixels else self._entry, names, progress)
        pairs = list(zip(names, entries, strict=True))
        good = {name: entry for name, entry in pairs if isinstance(entry, Entry)}
        return good, {name: entry for name, entry in pairs if isinstance(entry, DataError)}

    def _unchanged(self, name: str) -> bool:
        """Return whether a known file still exists with the size and time that it was hashed with."""
        known = self._entries[name]
        try:
            status = os.stat(name)
        except OSError:
            return False
        return (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns)

    def _entry(self, name: str) -> Entry | DataError:
        try:
            before = os.stat(name)
            known = self._entries.get(name)
            if known and (known.size, known.mtime_ns) == (before.st_size, before.st_mtime_ns):
                return known if known.pixels else replace(known, pixels=self._pixels.get(known.content, ""))
            # The time is read before the bytes, so that a file written to in between is hashed again next time.
            content = content_hash(Path(name))
            return Entry(content, before.st_size, before.st_mtime_ns, self._pixels.get(content, ""))
        except OSError as error:
            return DataError(f"{name}: {error.strerror or error}")
        except DataError as error:
            return error

    def _entry_with_pixels(self, name: str) -> Entry | DataError:
        entry = self._entry(name)
        if isinstance(entry, DataError) or entry.pixels:
            return entry
        try:
            # Both hashes are of the same bytes, even if another process writes to the file meanwhile.
            encoded = read_bytes(Path(name))
            content = hashlib.sha256(encoded).hexdigest()
            return replace(entry, content=content, pixels=pixel_hash(encoded, name=name))
        except DataError as error:
            return error

    def _require_writable(self) -> None:
        for path in (self._lock_path, self.path.parent):
            if lack(path, write=True) is not None:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def _remember(self, good: dict[str, Entry]) -> None:
        if any(self._entries.get(name) != entry for name, entry in good.items()):
            self._merge(good)

    def _merge(self, new: dict[str, Entry]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._lock_path):
            entries = self._load()
            # Another process may have decoded files that this one has only hashed.
            pixels = _pixels_by_content(entries)
            entries |= {name: replace(e, pixels=e.pixels or pixels.get(e.content, "")) for name, e in new.items()}
            document = {"version": VERSION, "films": {name: asdict(e) for name, e in sorted(entries.items())}}
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(document, indent=0), encoding="utf-8")
            self._use(entries)

    def _use(self, entries: dict[str, Entry]) -> None:
        paths: dict[str, list[str]] = {}
        for name, entry in sorted(entries.items()):
            paths.setdefault(entry.content, []).append(name)
        with self._lock:
            self._entries, self._paths, self._pixels = entries, paths, _pixels_by_content(entries)

    def _load(self) -> dict[str, Entry]:
        try:
            document: Any = json.loads(self.path.read_text(encoding="utf-8"))
            if document["version"] not in (1, VERSION):
                raise ValueError(f"version {document['version']!r}")
            return {name: Entry(**entry) for name, entry in document["films"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path}: is not a film index that this version can read ({error}). "
                "It holds nothing that cannot be rebuilt: delete it and index the films again"
            ) from error


def require_folder(root: Path) -> None:
    """Refuse a path that is not a folder to search for films.

    Raises:
        DataValueError: the path is not a folder.
    """
    if not root.is_dir():
        raise DataValueError(f"Cannot look for films in {root}, which is not a folder")


def _pixels_by_content(entries: dict[str, Entry]) -> dict[str, str]:
    return {entry.content: entry.pixels for entry in entries.values() if entry.pixels}


@dataclass
class _Folder:
    """A folder of films: its image files, and the other files.

    Args:
        root: the folder.
        others: the paths of files that are not in a supported format.
        unread: the files and folders that cannot be read, each with the reason.
    """

    root: Path
    others: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def image_files(self, known: Collection[str]) -> Iterator[str]:
        """Yield the absolute path of every file below the folder that may be a film, without opening known files.

        Links are followed. The files of a folder that is reached twice are yielded once.
        """
        entered: set[tuple[int, int]] = set()
        folders = deque([os.path.abspath(self.root)])
        while folders:
            # Files in the folder itself come before those that links lead to.
            for folder, inner, names in os.walk(folders.popleft(), onerror=self._note):
                status = os.stat(folder)
                identity = (status.st_dev, status.st_ino)
                if identity in entered:
                    inner.clear()
                    continue
                entered.add(identity)
                paths = (os.path.join(folder, name) for name in inner)
                folders.extend(path for path in paths if os.path.islink(path))
                for path in (os.path.join(folder, name) for name in names):
                    if path in known or self._is_image(path):
                        yield path

    def _is_image(self, path: str) -> bool:
        """Return whether a file may be a film by its name or first bytes; if it is not, note it in ``others``."""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                self.others.append(path)  # reading a pipe, for example, would wait for ever
                return False
            if path.lower().endswith(SUFFIXES):
                return True
            with open(path, "rb") as file:
                start = file.read(SIGNATURE_BYTES)
        except OSError as error:
            self._note(error)
            return False
        if not has_signature(start):
            self.others.append(path)
            return False
        return True

    def _note(self, error: OSError) -> None:
        self.unread.append(f"{error.filename}: {error.strerror}")
