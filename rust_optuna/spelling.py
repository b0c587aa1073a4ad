"""Names that look the same and are written otherwise: ``ö`` as one character, or as ``o`` and two dots.

macOS hands names out with their accents decomposed (NFD), while keyboards, spreadsheets and other systems compose them
(NFC). Linux takes the two for different names, so a file that came over by an archive or a share is "not there" under
the name that a table gives it.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def composed(text: str) -> str:
    """Return a text with its accents composed (NFC): texts that look the same are then equal."""
    return unicodedata.normalize("NFC", text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the one of some names that a name was probably meant to be: up to case, punctuation or a few letters."""
    plain = {re.sub(r"[\W_]+", "", each).casefold(): each for each in known if each}
    close = difflib.get_close_matches(re.sub(r"[\W_]+", "", name).casefold(), plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


class Spelling:
    """Finds files whose names look like those asked for. It lists each folder at most once, so do not keep it."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path:
        """Return an absolute path as the file system spells it, or as it is where no name there looks the same.

        A file of the very name wins over others that look alike.
        """
        if str(path).isascii() or os.path.lexists(path) or path == path.parent:
            return path
        folder = self.find(path.parent)
        found = folder / path.name
        if path.name.isascii() or os.path.lexists(found):
            return found
        return folder / self._listing(folder).get(composed(path.name), path.name)

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder), reverse=True)
            except OSError:
                names = []
            self._listings[folder] = {composed(name): name for name in names}
        return self._listings[folder]
