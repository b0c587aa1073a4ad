"""The films themselves, decoded once to 8-bit grey, for training end to end.

Layout, below the folder::

    <first 16 hex digits of the SHA-256 of films and preprocessing>.npy    (films, size, size) uint8
    <the same>.json                                                        what it holds, and its checksum
    .lock                                                                  held by the process that decodes

A file counts once its description is there, which is written last, and if its checksum is right. So a reader finds all
films of a study or none. Processes map the file into memory, and share what the system keeps of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.threads import map_in_threads
from rust_optuna.learn.extraction import PREPROCESSING_VERSION, read_film
from rust_optuna.learn.runtime import minor_versions
from rust_optuna.locks import locked
from rust_optuna.paths import atomic_write, remove_leftovers

LAYOUT_VERSION = 1
LEVELS = 127.5
"""The grey levels of half the scale: −1 is level 0, and 1 is level 255."""
AT_ONCE = 64
"""How many films are decoded between two signs of progress."""

Progress = Callable[[int, int], None]
"""A callback with (films done, films in all)."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """The films of a development set, numbered in the order of its contents. Any number of threads may read them.

    Args:
        images: (films, size, size) uint8, where 0 is black.
        sha256: the checksum of their bytes.
    """

    images: np.ndarray
    sha256: str

    @property
    def films(self) -> int:
        """The number of films."""
        return len(self.images)

    def gather(self, films: np.ndarray, capacity: int) -> np.ndarray:
        """Return these films first in an array for ``capacity`` films; what is left of it is black."""
        gathered = np.zeros((capacity, *self.images.shape[1:]), dtype=np.uint8)
        np.take(self.images, films, axis=0, out=gathered[: len(films)])
        return gathered

    def means(self, films: np.ndarray) -> np.ndarray:
        """Return the mean level of each row of pixels: (films, size) float32. Two machines compare them."""
        means: np.ndarray = self.images[films].mean(axis=2, dtype=np.float64).astype(np.float32)
        return means


def pixels_identity(backbone: BackboneConfiguration) -> dict[str, str | int]:
    """Return every setting that decides a film's pixels."""
    return {
        "pixels": LAYOUT_VERSION,
        "image_size": backbone.image_size,
        "resize": backbone.resize,
        "bits": backbone.bits,
        "preprocessing": PREPROCESSING_VERSION,
        **minor_versions("numpy", "pillow"),
    }


class PixelFile:
    """The decoded films of one development set on disk.

    Args:
        folder: the folder for the pixels of all studies.
        backbone: of which only the size and the way of resizing matter.
        contents: the content hashes of the films, in the order of the development set.
    """

    def __init__(self, folder: Path, backbone: BackboneConfiguration, contents: Sequence[str]) -> None:
        self._backbone = backbone
        self._contents = list(contents)
        self.identity = {**pixels_identity(backbone), "films": self._contents}
        name = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / f"{name}.npy"
        self._description = folder / f"{name}.json"

    def load(self) -> Pixels | None:
        """Return the films, mapped into memory; None if they are not there, or are damaged."""
        try:
            description = json.loads(self._description.read_bytes())
            images = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError):
            return None
        size = self._backbone.image_size
        if description.get("identity") != self.identity or images.shape != (len(self._contents), size, size):
            return None
        sha256 = _checksum(images)
        return Pixels(images, sha256) if sha256 == description.get("sha256") else None

    def build(self, read: Callable[[str], bytes], progress: Progress | None = None) -> Pixels:
        """Decode the films unless they are there, and return them.

        One process decodes at a time; others wait and then find nothing left to do.

        Args:
            read: returns a film's bytes.
            progress: called as films are decoded.

        Raises:
            DataError: a film cannot be read.
            LockedError: another process decodes and makes no progress.
        """
        if (found := self.load()) is not None:
            return found
        report = progress or (lambda done, total: None)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent / ".lock", progress=self._written):
            if (found := self.load()) is not None:
                return found
            remove_leftovers(self.path)
            self._description.unlink(missing_ok=True)
            with atomic_write(self.path) as temporary:
                sha256 = self._decode(temporary, read, report)
            with atomic_write(self._description) as temporary:
                description = {"identity": self.identity, "sha256": sha256}
                temporary.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        found = self.load()
        if found is None:
            raise OSError(f"{self.path} was written and cannot be read back")
        return found

    def _decode(self, path: Path, read: Callable[[str], bytes], report: Progress) -> str:
        """Write all films to a file, a few at a time, and return the checksum of their bytes."""
        size, total = self._backbone.image_size, len(self._contents)
        decode = functools.partial(_decode, self._backbone, read)
        digest = hashlib.sha256()
        with path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (total, size, size)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, total, AT_ONCE):
                report(start, total)
                levels = np.stack(map_in_threads(decode, self._contents[start : start + AT_ONCE]))
                digest.update(levels.data)
                file.write(levels.data)
        report(total, total)
        return digest.hexdigest()

    def _written(self) -> int:
        """Return how many bytes the process that decodes has written so far."""
        written = 0
        for path in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            with suppress(FileNotFoundError):  # the file was finished meanwhile
                written += path.stat().st_size
        return written


def _decode(backbone: BackboneConfiguration, read: Callable[[str], bytes], content: str) -> np.ndarray:
    """Return a film as (size, size) uint8: the levels of `read_film`, rounded to 8 bits."""
    return np.rint((read_film(backbone, content, read) + 1) * LEVELS).astype(np.uint8)


def _checksum(images: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(images), AT_ONCE):
        digest.update(np.ascontiguousarray(images[start : start + AT_ONCE]).data)
    return digest.hexdigest()
