"""The features of films, computed once and shared by every worker that reaches the folder.

Layout, below the cache's folder::

    arithmetic.json         the kinds of arithmetic of the processors that have used this folder
    <first 16 hex digits of the identity's SHA-256>/
        identity.json       the settings behind the features (weights' bytes, layer, pooling, size, …), the versions and
                            the kind of arithmetic
        index.json          the films and the SHA-256 of each shard; always replaced as a whole
        shard-<name>.npy    (≤ 64 films, 4 flips, width) float32; written once, never changed
        .lock               held by the process that builds

A shard counts once the index names it, so even after a crash a reader sees complete shards only. A shard whose checksum
does not match counts as missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.threads import map_in_threads
from rust_optuna.errors import DataError
from rust_optuna.learn.arithmetic import arithmetic, remember_arithmetic, remembered_arithmetic
from rust_optuna.learn.extraction import Extractor, extraction_identity, extraction_versions, read_film
from rust_optuna.locks import locked
from rust_optuna.paths import atomic_write

SHARD_FILMS = 64
LAYOUT_VERSION = 1
POLL_SECONDS = 0.5

Progress = Callable[[int, int], None]
"""A callback with (films done, films requested)."""


@dataclass(frozen=True)
class Features:
    """The features of some films, in memory.

    Args:
        table: (films, 4, width) float32; the second axis is the flip variant.
        sha256: the checksum of the table's bytes.
    """

    table: np.ndarray
    sha256: str


@dataclass(frozen=True)
class _Shard:
    """One entry of the index."""

    name: str
    sha256: str
    films: tuple[str, ...]


class FeatureCache:
    """The features of one backbone, on disk, as this machine's kind of arithmetic computes them.

    Any number of processes may use one folder at a time, over a network too if its file system has locks. Machines of
    different kinds may share the folder but not each other's features: cached features equal computed ones to the bit.
    A cache object belongs to one thread.

    Args:
        folder: the cache's folder, for all backbones.
        backbone: the backbone's configuration.
        kind: the kind of arithmetic; None for this process's, for which TensorFlow is loaded.

    Raises:
        WeightsError: the weights are missing.
    """

    def __init__(self, folder: Path, backbone: BackboneConfiguration, kind: str | None = None) -> None:
        self.backbone = backbone
        self.kind = kind or arithmetic(backbone.extraction_precision)
        self.identity = {**extraction_identity(backbone), **extraction_versions(), "arithmetic": self.kind}
        canonical = json.dumps(self.identity, sort_keys=True, separators=(",", ":"))
        self.folder = folder / hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self._sound: dict[str, tuple[str, int, int]] = {}

    @classmethod
    def without_tensorflow(cls, folder: Path, backbone: BackboneConfiguration) -> FeatureCache | None:
        """Return the cache of this machine's processor, or None if its kind of arithmetic is not known here yet.

        Raises:
            WeightsError: the weights are missing.
        """
        kind = remembered_arithmetic(folder, backbone.extraction_precision)
        return None if kind is None else cls(folder, backbone, kind)

    def missing(self, contents: Sequence[str]) -> list[str]:
        """Return the distinct films, in this order, that have no features or only damaged ones."""
        rows = self._rows()
        return [content for content in dict.fromkeys(contents) if content not in rows]

    def width(self) -> int | None:
        """Return the number of features of a film, or None while the cache is empty."""
        for shard in self._shards():
            if self._is_sound(shard):
                return int(np.load(self.folder / shard.name, mmap_mode="r", allow_pickle=False).shape[-1])
        return None

    def build(
        self,
        contents: Sequence[str],
        read: Callable[[str], bytes],
        progress: Progress | None = None,
        extractor: Extractor | None = None,
    ) -> None:
        """Compute the features of the films that have none.

        One process builds at a time; others wait, report its progress, and then find nothing left to do. If the process
        is killed, the shards finished so far stay.

        Args:
            contents: the content hashes of the films.
            read: a function that returns a film's bytes.
            progress: called as films are done.
            extractor: the extractor to use; None to create one, and load TensorFlow, if films are missing.

        Raises:
            DataError: a film cannot be read.
            LockedError: another process is building and makes no progress.
            MissingExtraError: films are missing and TensorFlow is not installed.
            ValueError: films are missing, and this is the cache of another kind of arithmetic.
        """
        if not self.missing(contents):
            return
        if self.kind != arithmetic(self.backbone.extraction_precision):
            raise ValueError(f"features of the kind {self.kind!r} cannot be computed on this machine")
        total = len(set(contents))
        report = progress or (lambda done, total: None)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(contents, report):
            self._tidy()
            remember_arithmetic(self.folder.parent, self.backbone.extraction_precision)
            missing = self.missing(contents)
            if not missing:
                report(total, total)
                return
            extractor = extractor or Extractor(self.backbone)
            for start in range(0, len(missing), SHARD_FILMS):
                films = missing[start : start + SHARD_FILMS]
                done = total - len(missing) + start
                report(done, total)
                self._append(films, self._compute(films, read, extractor, done, total, report))

    def load(self, contents: Sequence[str]) -> Features:
        """Return the films' features, in the order of ``contents``.

        Raises:
            DataError: a film has no features, or only damaged ones; `build` computes them.
        """
        rows = self._rows()
        missing = [content for content in contents if content not in rows]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(contents):,} films have no features in {self.folder}, or only damaged ones: "
                "run `rust-optuna features build`"
            )
        shards: dict[str, np.ndarray] = {}
        table: np.ndarray | None = None
        for position, content in enumerate(contents):
            name, row = rows[content]
            if name not in shards:
                shards[name] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
            if table is None:
                table = np.empty((len(contents), *shards[name].shape[1:]), dtype=np.float32)
            table[position] = shards[name][row]
        if table is None:
            raise DataError("There are no films whose features could be loaded")
        return Features(table, hashlib.sha256(table.data).hexdigest())

    def _compute(
        self,
        films: Sequence[str],
        read: Callable[[str], bytes],
        extractor: Extractor,
        done: int,
        total: int,
        report: Progress,
    ) -> np.ndarray:
        """Return one shard's features, (films, 4, width), and report progress after each micro-batch."""
        images = map_in_threads(lambda content: read_film(self.backbone, content, read), films)
        return extractor.extract_all_flips(np.stack(images), lambda in_shard: report(done + in_shard, total))

    def _append(self, films: Sequence[str], table: np.ndarray) -> None:
        """Write one shard, then name it in the index. The caller holds the lock."""
        buffer = io.BytesIO()
        np.save(buffer, table, allow_pickle=False)
        encoded = buffer.getvalue()
        shard = _Shard(f"shard-{uuid.uuid4().hex[:16]}.npy", hashlib.sha256(encoded).hexdigest(), tuple(films))
        with atomic_write(self.folder / shard.name) as temporary:
            temporary.write_bytes(encoded)
        self._write_index([*self._shards(), shard])

    def _tidy(self) -> None:
        """Write the identity and remove damaged shards and leftovers of dead builders. The caller holds the lock."""
        sound = [shard for shard in self._shards() if self._is_sound(shard)]
        _write_json(self.folder / "identity.json", self.identity)
        self._write_index(sound)
        indexed = {shard.name for shard in sound}
        for path in self.folder.iterdir():
            unfinished = path.name.startswith(".") and path.name.endswith(".tmp")
            orphan = path.name.startswith("shard-") and path.name not in indexed
            if unfinished or orphan:
                path.unlink(missing_ok=True)

    def _shards(self) -> list[_Shard]:
        """Return the shards that the index names; none if the index is missing or cannot be read."""
        try:
            index = json.loads((self.folder / "index.json").read_bytes())
            if index["layout"] != LAYOUT_VERSION:
                return []
            return [_Shard(s["name"], s["sha256"], tuple(s["films"])) for s in index["shards"]]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []

    def _write_index(self, shards: Iterable[_Shard]) -> None:
        lines = [{"name": s.name, "sha256": s.sha256, "films": list(s.films)} for s in shards]
        _write_json(self.folder / "index.json", {"layout": LAYOUT_VERSION, "shards": lines})

    def _rows(self) -> dict[str, tuple[str, int]]:
        """Return the shard and row of each film's features, in sound shards only."""
        return {
            content: (shard.name, row)
            for shard in self._shards()
            if self._is_sound(shard)
            for row, content in enumerate(shard.films)
        }

    def _is_sound(self, shard: _Shard) -> bool:
        """Return whether a shard matches its checksum, which is computed again only when the file changes."""
        try:
            with (self.folder / shard.name).open("rb") as file:
                status = os.fstat(file.fileno())
                version = (shard.sha256, status.st_mtime_ns, status.st_size)
                if self._sound.get(shard.name) == version:
                    return True
                sound = hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
        except FileNotFoundError:
            return False
        if sound:
            self._sound[shard.name] = version
        return sound

    @contextmanager
    def _locked(self, contents: Sequence[str], report: Progress) -> Iterator[None]:
        """Hold the builder's lock; while another process holds it, report that process's progress."""
        total = len(set(contents))
        polled = -math.inf
        done = 0

        def progress() -> int:
            nonlocal polled, done
            if time.monotonic() - polled > POLL_SECONDS:
                polled, done = time.monotonic(), total - len(self.missing(contents))
                report(done, total)
            return done

        with locked(self.folder / ".lock", progress=progress):
            yield


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
