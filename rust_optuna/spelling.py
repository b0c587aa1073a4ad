"""Names that look the same but are encoded differently: ``ö`` as one character, or as ``o`` and a combining diaeresis.

macOS decomposes the accents of file names (NFD), while keyboards, spreadsheets and other systems compose them (NFC).
Linux treats the two as different names, so a file that arrived in an archive or over a share cannot be found under the
name that stands in a table.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def composed(text: str) -> str:
    """Return a text with its accents composed (NFC), so that texts that look the same are equal."""
    return unicodedata.normalize("NFC", text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a name was probably meant to be, apart from case, punctuation and a few letters."""
    plain = {re.sub(r"[\W_]+", "", candidate).casefold(): candidate for candidate in known if candidate}
    close = difflib.get_close_matches(re.sub(r"[\W_]+", "", name).casefold(), plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


class Spelling:
    """A finder of files whose names look like the requested ones. It lists each folder only once: use it briefly."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path:
        """Return an absolute path as the file system spells it, or unchanged if no file name looks the same.

        A file with exactly this name wins over files whose names only look the same.
        """
        if str(path).isascii() or os.path.lexists(path) or path == path.parent:
            return path
        folder = self.find(path.parent)
        exact = folder / path.name
        if path.name.isascii() or os.path.lexists(exact):
            return exact
        return folder / self._listing(folder).get(composed(path.name), path.name)

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder), reverse=True)
            except OSError:
                names = []
            self._listings[folder] = {composed(name): name for name in names}
        return self._listings[folder]
