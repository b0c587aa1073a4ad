"""The manifest: one row per film, read into validated records, with every violation reported by its row."""

from __future__ import annotations

import csv
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rust_optuna.data.tables import names_delimiter, parse_csv, read_table
from rust_optuna.errors import ManifestError, Problem
from rust_optuna.paths import atomic_write
from rust_optuna.spelling import Spelling, composed, nearest

VIEWS = ("anteroposterior", "lateral")
CORTICES = ("medial", "lateral", "anterior", "posterior")
SUBSCORES = (1, 2, 3, 4)
SPLITS = ("development", "holdout")
LABELS = (
    *(f"view_{view}" for view in VIEWS),
    *(f"{cortex}_{subscore}" for cortex in CORTICES for subscore in SUBSCORES),
)
COLUMNS = ("image", "patient", "visit", "view", *CORTICES, "split")
DISTINCT = "distinct"
"""An optional column: ``yes`` if the patient is not the same as others whose names are alike."""
SOURCE = "source"
"""An optional column: the hospital, or the earlier study, that a film comes from."""
READER = re.compile(rf"reader([2-9])_({'|'.join(CORTICES)})")
"""The pattern of the optional columns of further readers: ``reader2_medial`` is what a second reader scored."""
SUBSCORE = re.compile(r"([1-4])(\.0*)?")
"""The pattern of a subscore: programs often write the whole numbers of a column with empty cells as ``2.0``."""


@dataclass(frozen=True)
class Film:
    """One row of a manifest.

    Args:
        row: the row of the file that the film was read from; the header is row 1.
        image: the absolute path of the image file.
        patient: the patient's name, the same for all visits, with its accents composed.
        visit: the patient's visit; may be empty.
        view: one of `VIEWS`.
        subscores: one for each of `CORTICES`, 1 to 4, or None if it is unreadable or not shown.
        split: one of `SPLITS`, or empty before the split.
        distinct: whether somebody declared this patient different from those whose names are alike, see
            `rust_optuna.data.patients`.
        source: the hospital or earlier study that the film comes from; empty if the manifest does not say.
        readers: for each further reader the subscores, as in ``subscores``.
    """

    row: int
    image: Path
    patient: str
    visit: str
    view: str
    subscores: tuple[int | None, ...]
    split: str = ""
    distinct: bool = False
    source: str = ""
    readers: tuple[tuple[int | None, ...], ...] = ()

    @property
    def scored(self) -> tuple[str, ...]:
        """The cortices that carry a subscore."""
        return tuple(c for c, score in zip(CORTICES, self.subscores, strict=True) if score is not None)

    @property
    def label(self) -> np.ndarray:
        """The label, (18,) uint8 of 0 and 1 in the order of `LABELS`."""
        label = np.zeros(len(LABELS), dtype=np.uint8)
        label[VIEWS.index(self.view)] = 1
        for position, score in enumerate(self.subscores):
            if score is not None:
                label[len(VIEWS) + len(SUBSCORES) * position + SUBSCORES.index(score)] = 1
        return label


@dataclass(frozen=True)
class Manifest:
    """A manifest that follows its rules.

    Args:
        path: the file.
        films: the films in the order of the rows.
        ignored: the names of unknown columns.
    """

    path: Path
    films: tuple[Film, ...]
    ignored: tuple[str, ...] = ()

    def part(self, split: str) -> tuple[Film, ...]:
        """Return the films of one split, or for an empty string those that have no split yet."""
        return tuple(film for film in self.films if film.split == split)


def stack_labels(films: Sequence[Film]) -> np.ndarray:
    """Return the labels of ``films``, (len(films), 18) uint8."""
    return np.array([film.label for film in films], dtype=np.uint8).reshape(len(films), len(LABELS))


def read_manifest(
    path: str | os.PathLike[str], *, require_split: bool = False, require_files: bool = False
) -> Manifest:
    """Read and validate a manifest.

    Images are named relative to the manifest's folder. ``..`` is allowed; an absolute path is not, because it would be
    valid on one machine only. A file is found even if the disk composes the accents of its name differently. Wholly
    blank lines and unknown columns are ignored.

    Args:
        path: the CSV file, UTF-8 with or without a byte-order mark, with commas, semicolons, tabs or vertical bars
            between the columns.
        require_split: whether to refuse rows whose ``split`` is empty, and patients on both sides of the split.
        require_files: whether to refuse rows whose image file does not exist.

    Raises:
        ManifestError: with every violation found, each with its row.
    """
    path = Path(path)
    header, rows = _read_rows(path)
    problems: list[Problem] = []
    films = _parse_rows(header, rows, path.parent.resolve(), problems)
    if require_split:
        problems += split_problems(films)
    if require_files:
        problems += [
            Problem(f"row {film.row}, image", f"{film.image} is not a file", "is not a file")
            for film in films
            if not film.image.is_file()
        ]
    if problems:
        raise ManifestError(str(path), problems)
    known = {*COLUMNS, DISTINCT, SOURCE, *_reader_columns(header)}
    ignored = [column for column in header if column and column not in known]
    return Manifest(path, tuple(films), tuple(ignored))


def write_manifest(path: str | os.PathLike[str], films: Iterable[Film]) -> None:
    """Write a manifest atomically, with images relative to its folder and rows in the order of ``films``.

    A replaced file keeps its line ends and its byte-order mark, without which spreadsheets assume Latin-1.
    """
    path = Path(path)
    folder = path.parent.resolve()
    films = tuple(films)
    # A table has only those optional columns that hold something.
    distinct = [DISTINCT] if any(film.distinct for film in films) else []
    source = [SOURCE] if any(film.source for film in films) else []
    readers = max((len(film.readers) for film in films), default=0)
    columns = [*COLUMNS, *distinct, *source]
    columns += [f"reader{number + 2}_{cortex}" for number in range(readers) for cortex in CORTICES]
    encoding, end = _encoding_and_line_end(path)
    with atomic_write(path) as temporary, temporary.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, lineterminator=end)
        writer.writerow(columns)
        for film in films:
            image = Path(os.path.relpath(film.image, folder)).as_posix()
            cells = [image, film.patient, film.visit, film.view, *_cells(film.subscores), film.split]
            cells += ["yes" if film.distinct else ""] * len(distinct) + [film.source] * len(source)
            writer.writerow([*cells, *(cell for scores in film.readers for cell in _cells(scores))])


def _cells(subscores: Sequence[int | None]) -> list[str]:
    return ["" if score is None else str(score) for score in subscores]


def update_manifest(path: Path, films: Iterable[Film]) -> None:
    """Write the patients and splits of films into the rows that they were read from, atomically.

    Everything else in the file stays unchanged: rows, other columns and the delimiter.
    """
    delimiter, rows = read_table(path)
    cells_of = dict(rows)
    header = next(row for _, row in rows if any(cell.strip() for cell in row) and not names_delimiter(row, delimiter))
    names = [cell.strip() for cell in header]
    films = tuple(films)
    if DISTINCT not in names and any(film.distinct for film in films):
        names.append(DISTINCT)
        header.append(DISTINCT)
        for film in films:
            cells_of[film.row].append("")
    for film in films:
        cells = cells_of[film.row]
        if composed(cells[names.index("patient")].strip()) != film.patient:
            cells[names.index("patient")] = film.patient
        cells[names.index("split")] = film.split
        if DISTINCT in names:
            cells[names.index(DISTINCT)] = "yes" if film.distinct else ""
    encoding, end = _encoding_and_line_end(path)
    with atomic_write(path) as temporary, temporary.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(row for _, row in rows)


def _encoding_and_line_end(path: Path) -> tuple[str, str]:
    try:
        with path.open("rb") as file:
            header = file.readline()
    except OSError:
        header = b""
    return ("utf-8-sig" if header.startswith(BOM_UTF8) else "utf-8"), ("\r\n" if header.endswith(b"\r\n") else "\n")


def split_problems(films: Sequence[Film]) -> list[Problem]:
    """Return the problems of a split: films without one, and patients with films on both sides."""
    problems = []
    empty = [film.row for film in films if not film.split]
    if empty:
        # These films have one cause and one remedy, so they are one problem.
        description = f"is empty in {named_rows(empty)}: run `rust-optuna data split MANIFEST`"
        problems.append(Problem("split", description))
    return problems + side_problems(films)


def side_problems(films: Sequence[Film]) -> list[Problem]:
    """Return the patients with films on both sides of the split."""
    problems = []
    sides: dict[str, dict[str, list[int]]] = {}
    for film in films:
        if film.split:
            sides.setdefault(film.patient, {}).setdefault(film.split, []).append(film.row)
    for patient, rows in sides.items():
        if len(rows) > 1:
            sides_named = "; ".join(f"{split}: {named_rows(rows[split])}" for split in SPLITS)
            problems.append(Problem(f"patient {patient}", f"is on both sides of the split ({sides_named})"))
    return problems


def named_rows(rows: Sequence[int], most: int = 10) -> str:
    """Return rows in words: ``row 3``, ``rows 3, 5``, or the number of many rows and the first few."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    if len(rows) <= most:
        return f"rows {', '.join(map(str, rows))}"
    return f"{len(rows):,} rows ({', '.join(map(str, rows[:most]))}, …)"


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the checked header and the rows below it."""
    rows = parse_csv(path)
    if not rows:
        raise ManifestError(str(path), [Problem("file", "is empty")])
    header = rows[0][1]
    problems = _header_problems(header)
    if len(rows) == 1:
        problems.append(Problem("file", "has no films, only a header"))
    if problems:
        raise ManifestError(str(path), problems)
    return header, rows[1:]


def _header_problems(header: Sequence[str]) -> list[Problem]:
    optional = (DISTINCT, SOURCE, *_reader_columns(header))
    others = [column for column in header if column not in (*COLUMNS, *optional)]
    problems = []
    for column in COLUMNS:
        if column not in header:
            near = nearest(column, others)
            hint = f": rename the column {near!r}, if that is the one" if near else ""
            problems.append(Problem("row 1", f"column {column!r} is missing{hint}"))
    columns = dict.fromkeys((*COLUMNS, *optional))
    problems += [
        Problem("row 1", f"column {c!r} occurs {header.count(c)} times") for c in columns if header.count(c) > 1
    ]
    numbers = _readers(header)
    needed = [f"reader{number}_{cortex}" for number in range(2, max(numbers, default=1) + 1) for cortex in CORTICES]
    missing = [column for column in needed if column not in header]
    return problems + [
        Problem("row 1", f"column {c!r} is missing, and other columns of readers are there") for c in missing
    ]


def _reader_columns(header: Sequence[str]) -> list[str]:
    return [column for column in header if READER.fullmatch(column)]


def _readers(header: Iterable[str]) -> list[int]:
    """Return the numbers of the further readers, in order."""
    return sorted({int(match[1]) for column in header if (match := READER.fullmatch(column))})


def _parse_rows(
    header: Sequence[str], rows: Iterable[tuple[int, list[str]]], folder: Path, problems: list[Problem]
) -> list[Film]:
    """Return the films of the valid rows; append the problems of the others to ``problems``."""
    films: list[Film] = []
    row_of_image: dict[Path, int] = {}
    spelling = Spelling()
    for number, cells in rows:
        if len(cells) != len(header):
            description = f"has {len(cells)} cells, but the header has {len(header)}"
            problems.append(Problem(f"row {number}", description, "cells"))
            continue
        values = {DISTINCT: "", SOURCE: ""} | dict(zip(header, cells, strict=True))
        row_problems = _row_problems(number, values)
        image = spelling.find(Path(os.path.normpath(folder / values["image"])))
        if values["image"] and row_of_image.setdefault(image, number) != number:
            description = f"{values['image']!r} is already in row {row_of_image[image]}"
            row_problems.append(Problem(f"row {number}, image", description, "is repeated"))
        problems += row_problems
        if not row_problems:
            films.append(_film(number, image, values))
    return films


def _row_problems(number: int, values: dict[str, str]) -> list[Problem]:
    violations = [(c, "is empty") for c in ("image", "patient") if not values[c]]
    printable = (*COLUMNS, SOURCE)
    violations += [(c, f"{values[c]!r} has control characters") for c in printable if not values[c].isprintable()]
    if os.path.isabs(values["image"]):
        violations.append(("image", f"{values['image']!r} is absolute, not relative to the manifest"))
    if values["view"] not in VIEWS:
        violations.append(("view", f"{values['view']!r} is not {' or '.join(VIEWS)}"))
    wrong = [c for c in (*CORTICES, *_reader_columns([*values])) if values[c] and not SUBSCORE.fullmatch(values[c])]
    violations += [(c, f"{values[c]!r} is not 1, 2, 3, 4 or empty") for c in wrong]
    if values["split"] not in {"", *SPLITS}:
        violations.append(("split", f"{values['split']!r} is not {', '.join(SPLITS)} or empty"))
    if values[DISTINCT] not in ("", "yes"):
        violations.append((DISTINCT, f"{values[DISTINCT]!r} is not yes or empty"))
    kinds = [description.removeprefix(repr(values[column])) for column, description in violations]
    return [
        Problem(f"row {number}, {c}", description, kind)
        for (c, description), kind in zip(violations, kinds, strict=True)
    ]


def _film(number: int, image: Path, values: dict[str, str]) -> Film:
    return Film(
        row=number,
        image=image,
        patient=composed(values["patient"]),
        visit=values["visit"],
        view=values["view"],
        subscores=_subscores(values, ""),
        split=values["split"],
        distinct=values[DISTINCT] == "yes",
        source=composed(values[SOURCE]),
        readers=tuple(_subscores(values, f"reader{reader}_") for reader in _readers(values)),
    )


def _subscores(values: dict[str, str], prefix: str) -> tuple[int | None, ...]:
    cells = (values[f"{prefix}{cortex}"] for cortex in CORTICES)
    return tuple(int(cell[0]) if cell else None for cell in cells)
