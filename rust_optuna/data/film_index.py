"""Where each film lies on this machine, by content: the only place that holds paths of films."""

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
"""Version 1 kept no hashes of pixels; it is read, too."""


@dataclass(frozen=True)
class Entry:
    """A file as it was when it was hashed; while size and time stay, it is not hashed again.

    Args:
        content: the hash of its bytes.
        size: in bytes.
        mtime_ns: when it was written.
        pixels: the hash of its pixels, empty while it has not been decoded.
    """

    content: str
    size: int
    mtime_ns: int
    pixels: str = ""


class FilmIndex:
    """Content hash → path, kept in one JSON file on this machine.

    Any number of threads and processes may use one file at once: additions are merged under a lock and the
    file is replaced as a whole, so nothing is lost and readers need no lock.

    Args:
        path: the JSON file; it and its folder are made by the first `add`.
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
        """Hash the files that are new or changed, remember them, and return the content hash of each path.

        Raises:
            DataError: files that cannot be read, all of them named. The others are remembered.
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
        """Do as `add`, decode the films of which that was never done on this machine, and return the pixels' hashes.

        Returns:
            The `pixel_hash` of each path, or why it cannot be read.
        """
        absolute = {path: os.path.abspath(path) for path in paths}
        self._use(self._load())
        good, failed = self._hash(list(absolute.values()), progress, pixels=True)
        self._remember(good)
        return {path: failed[name] if name in failed else good[name].pixels for path, name in absolute.items()}

    def missing(self, contents: Iterable[str]) -> list[str]:
        """Return those films, each once and in the given order, of which no file is here as it was when hashed."""
        return [
            content
            for content in dict.fromkeys(contents)
            if not any(self._unchanged(name) for name in self._paths.get(content, []))
        ]

    def scan(self, root: Path, wanted: Collection[str], progress: Progress | None = None) -> None:
        """Make sure that films are found: look below a folder for those that are missing, and remember all it holds.

        Every file of a format that is read counts, whatever its name, behind links too. Files that were hashed before
        and have not changed since are not hashed again, and where no film is missing the folder is not looked at.

        Args:
            root: the folder.
            wanted: content hashes of films.
            progress: called as files are hashed.

        Raises:
            DataError: there is no such folder.
            MissingFilmsError: films are missing still. The other films are remembered.
        """
        self._use(self._load())
        missing = self.missing(wanted)
        if not missing:
            return
        require_folder(root)
        folder = _Folder(root)
        good, failed = self._hash(list(folder.image_files(self._entries.keys())), progress)
        unread = [*(str(error) for error in failed.values()), *folder.unread]
        here = {entry.content for entry in good.values()}
        missing = [content for content in missing if content not in here]
        was = {name: self._entries[name].content for name in good if name in self._entries}
        lost = set(missing)
        changed = {name: content for name, content in was.items() if content in lost}
        # What a changed file used to be stays in the index, so that the next look finds it changed, too.
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
        """Return what a file held when it was last hashed on this machine, whether or not it is still there."""
        known = self._entries.get(os.path.abspath(path))
        return None if known is None else known.content

    def require(self, contents: Iterable[str]) -> None:
        """Refuse films of which no file is there, before anything costly begins.

        Raises:
            AbsentFilmsError: how many there are, and what helps.
        """
        self._use(self._load())
        wanted = list(dict.fromkeys(contents))
        absent = [each for each in wanted if not any(map(os.path.isfile, self._paths.get(each, [])))]
        if absent:
            raise AbsentFilmsError(absent, len(wanted), next(iter(self._paths.get(absent[0], [])), None))

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
            raise FilmError(content, "is gone: --data-root names the folder where the films are now", known[0])
        raise FilmError(content, "is not on this machine, or was never indexed here: name its folder by --data-root")

    def _hash(
        self, names: list[str], progress: Progress | None, *, pixels: bool = False
    ) -> tuple[dict[str, Entry], dict[str, DataError]]:
        """Return the entry of each file that can be read, and what is wrong with each other.

        Raises:
            PermissionError: there is something to be remembered, and this process may not write it down.
        """
        if any(name not in self._entries or not self._unchanged(name) for name in names):
            self._require_writable()  # before many films are read in vain
        entries = map_in_threads(self._entry_with_pixels if pixels else self._entry, names, progress)
        found = list(zip(names, entries, strict=True))
        good = {name: entry for name, entry in found if isinstance(entry, Entry)}
        return good, {name: entry for name, entry in found if isinstance(entry, DataError)}

    def _unchanged(self, name: str) -> bool:
        """Tell whether a known file is there in the size and of the time that it was hashed with."""
        known = self._entries[name]
        try:
            now = os.stat(name)
        except OSError:
            return False
        return (known.size, known.mtime_ns) == (now.st_size, now.st_mtime_ns)

    def _entry(self, name: str) -> Entry | DataError:
        try:
            before = os.stat(name)
            known = self._entries.get(name)
            if known and (known.size, known.mtime_ns) == (before.st_size, before.st_mtime_ns):
                return known if known.pixels else replace(known, pixels=self._pixels.get(known.content, ""))
            # The time is taken before the bytes: a file written to in between is hashed anew next time.
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
            # Both hashes are of the same bytes, though the file be written to under our hands.
            found = read_bytes(Path(name))
            content = hashlib.sha256(found).hexdigest()
            return replace(entry, content=content, pixels=pixel_hash(found, name=name))
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
            # Another process may have decoded what this one has only hashed.
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
                f"{self.path}: is not an index of films that this version reads ({error}). "
                "It holds nothing that cannot be found again: delete it and index the films anew"
            ) from error


def require_folder(root: Path) -> None:
    """Refuse what is no folder to look for films in.

    Raises:
        DataValueError: it is none.
    """
    if not root.is_dir():
        raise DataValueError(f"The films are to be looked for in {root}, which is not a folder")


def _pixels_by_content(entries: dict[str, Entry]) -> dict[str, str]:
    return {entry.content: entry.pixels for entry in entries.values() if entry.pixels}


@dataclass
class _Folder:
    """A folder of films: its image files, and what was passed over.

    Args:
        root: the folder.
        others: what is no file of a format that is read.
        unread: files and folders that cannot be read, with the reason.
    """

    root: Path
    others: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def image_files(self, known: Collection[str]) -> Iterator[str]:
        """Yield the absolute path of every file below the folder that `data check` may accept, known ones unopened.

        Links are followed; of a folder that is met twice, by whatever name, the files are told once.
        """
        entered: set[tuple[int, int]] = set()
        folders = deque([os.path.abspath(self.root)])
        while folders:
            # What lies here itself comes before what links lead to.
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
        """Tell by its name or its first bytes whether a file may be a film; keep it in mind if it is not."""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                self.others.append(path)  # a pipe, say: reading it would wait for ever
                return False
            if path.lower().endswith(SUFFIXES):
                return True
            with open(path, "rb") as file:
                begins = file.read(SIGNATURE_BYTES)
        except OSError as error:
            self._note(error)
            return False
        if not has_signature(begins):
            self.others.append(path)
            return False
        return True

    def _note(self, error: OSError) -> None:
        self.unread.append(f"{error.filename}: {error.strerror}")
