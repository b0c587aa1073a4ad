"""A small disk that can be filled: a tmpfs, which only root can mount."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MEGABYTES = 16


class SmallDisk:
    """A folder on a disk of its own where this process may mount one, else a plain folder.

    Args:
        folder: made here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.small = mount(folder)
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave not a byte."""
        size = 65536
        with self._filler.open("wb", buffering=0) as file:
            while size:
                try:
                    file.write(b"0" * size)
                except OSError:
                    size //= 2

    def free(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Take the disk away, with all that is on it."""
        if self.small:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def mount(folder: Path) -> bool:
    """Mount a small disk over a folder; return whether that was possible."""
    if os.geteuid() != 0:
        return False
    line = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0
