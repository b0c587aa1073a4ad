"""CSV files as people save them, with byte-order marks, blank lines and other encodings."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from rust_optuna.errors import ManifestError, Problem, UnreadableManifestError

DELIMITERS = ",;\t|"
"""The delimiters of columns: spreadsheets in many languages save CSV with semicolons, databases with vertical bars."""
_SEP = re.compile(rf'"?sep=(?P<delimiter>[{DELIMITERS}])"?[{DELIMITERS}]*', re.IGNORECASE)
"""The pattern of a first line that only Excel reads, which names the delimiter."""
_ZIP, _OLD_EXCEL = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"


def parse_csv(path: Path, delimiters: str = DELIMITERS) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not blank, as (row counted from 1, stripped cells).

    Args:
        path: the file.
        delimiters: the possible delimiters; the first row decides which one is used.

    Raises:
        ManifestError: the file is not valid CSV.
        UnreadableManifestError: the file does not exist or is not text.
    """
    delimiter, rows = read_table(path, delimiters)
    stripped = [(number, [cell.strip() for cell in row]) for number, row in rows]
    return [(number, cells) for number, cells in stripped if any(cells) and not names_delimiter(cells, delimiter)]


def names_delimiter(row: Sequence[str], delimiter: str) -> bool:
    """Return whether a row is Excel's own first line ``sep=;``, which is not part of the table."""
    return "".join(row).strip().lower() in ("sep=", f"sep={delimiter}")


def read_table(path: Path, delimiters: str = DELIMITERS) -> tuple[str, list[tuple[int, list[str]]]]:
    """Return a CSV file's delimiter and all its unchanged rows, as (row counted from 1, cells).

    Raises:
        ManifestError: the file cannot be read, as in `parse_csv`.
    """
    text = _decode(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    named = _SEP.fullmatch(first.strip(" "))
    # The comma wins ties, as in a table of one column.
    delimiter = named["delimiter"] if named else max(delimiters, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return delimiter, list(enumerate(reader, start=1))
    except csv.Error as error:
        raise ManifestError(str(path), [Problem(f"line {reader.line_num}", str(error))]) from error


def _decode(path: Path) -> str:
    """Return a CSV file's text.

    Raises:
        UnreadableManifestError: the file cannot be read, is in a spreadsheet's own format or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableManifestError(str(path), f"cannot be read: {error.strerror or error}") from error
    if workbook := _workbook(content):
        description = f"is {workbook}, not a CSV file: open it there and save the sheet as CSV UTF-8"
        raise UnreadableManifestError(str(path), description)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        description = f"is not UTF-8 (byte {content[error.start]:#04x} in line {line}): save the file as CSV UTF-8"
        raise UnreadableManifestError(str(path), description) from error


def _workbook(content: bytes) -> str:
    """Return the kind of spreadsheet or archive that a file is, or an empty string."""
    if content.startswith(_OLD_EXCEL) or (content.startswith(_ZIP) and b"xl/" in content):
        return "an Excel workbook"
    if content.startswith(_ZIP):
        return "an OpenDocument spreadsheet" if b"opendocument.spreadsheet" in content[:200] else "a ZIP archive"
    return ""
