"""CSV files as people save them: byte-order marks, blank lines, other encodings."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rust_optuna.errors import ManifestError, Problem


def parse_csv(path: Path) -> list[tuple[int, list[str]]]:
    """Return a CSV file's rows that are not blank, as (row counted from 1, stripped cells).

    Raises:
        ManifestError: the file cannot be read, is not UTF-8 or not CSV.
    """
    reader = csv.reader(io.StringIO(_decode(path), newline=""), strict=True)
    try:
        rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(reader, start=1)]
    except csv.Error as error:
        raise ManifestError(str(path), [Problem(f"line {reader.line_num}", str(error))]) from error
    return [(number, cells) for number, cells in rows if any(cells)]


def _decode(path: Path) -> str:
    """Return a CSV file's text.

    Raises:
        ManifestError: the file cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(str(path), [Problem("file", error.strerror or str(error))]) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte {content[error.start]:#04x} in line {line} is not UTF-8: save the file as CSV UTF-8"
        raise ManifestError(str(path), [Problem("file", what)]) from error
