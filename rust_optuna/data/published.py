"""The published data set's own two files → a manifest.

The labels are one-hot in a CSV without a header, and the file names are in a second file in the same order. Only that
order ties the two together, so everything that a file name encodes is compared with its row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rust_optuna.data.manifest import CORTICES, SUBSCORES, Film, Manifest, read_manifest, write_manifest
from rust_optuna.data.tables import parse_csv
from rust_optuna.errors import DataError, ManifestError, Problem
from rust_optuna.spelling import Spelling

VIEW_COLUMNS = {"view_antpr": "anteroposterior", "view_later": "lateral"}
IDENTITY_COLUMNS = ("index", "study_id", "record_id", "event_arm")
SCORE_COLUMNS = tuple(f"{cortex}_cortex_{subscore}" for cortex in CORTICES for subscore in SUBSCORES)
COLUMNS = (*IDENTITY_COLUMNS, *VIEW_COLUMNS, *SCORE_COLUMNS)
NAME_HEADERS = {"filename", "filenames", "file_name", "file", "image", "0"}

Table = list[tuple[int, list[str]]]


@dataclass(frozen=True)
class _Files:
    """The two files, and their names in messages."""

    labels: Path
    filenames: Path

    def label_row(self, row: int, column: str = "") -> str:
        """Return the name of a row of the labels in messages."""
        return f"{self.labels.name} row {row}" + (f", {column}" if column else "")

    def name_row(self, row: int) -> str:
        """Return the name of a row of the file names in messages."""
        return f"{self.filenames.name} row {row}"


def import_published(labels: Path, filenames: Path, images: Path, output: Path, *, overwrite: bool = False) -> Manifest:
    """Write a manifest of the published data set atomically.

    A patient is a record of a study, a visit an event, a source a study. A header line in either file is skipped.

    Args:
        labels: the one-hot CSV.
        filenames: the list of file names, one per line.
        images: the folder with the images.
        output: the manifest to write; it names images relative to its own folder.
        overwrite: whether to replace an existing manifest.

    Raises:
        ManifestError: with all problems in the two files, and missing images.
        DataError: ``output`` exists.
    """
    if output.exists() and not overwrite:
        raise DataError(f"{output} already exists: pass --force to replace it")
    files = _Files(labels, filenames)
    problems: list[Problem] = []
    rows = _label_rows(files, problems)
    names = _as_spelled(_name_rows(files), images)
    if len(rows) != len(names):
        description = f"has {len(rows):,} rows, but {filenames.name} has {len(names):,}"
        problems.append(Problem(labels.name, description))
    films = []
    # In files of different lengths only the common rows can be compared; the difference itself has been reported.
    for (row, cells), (name_row, name) in zip(rows, names, strict=False):
        films.append(_film(files, row, cells, images.resolve() / name, problems))
        problems += _name_problems(files, name_row, name, cells)
    problems += _repeated(files, names) + _missing(files, names, images)
    if problems:
        raise ManifestError(f"{labels} and {filenames}", problems)
    write_manifest(output, [film for film in films if film is not None])
    return read_manifest(output)


def _label_rows(files: _Files, problems: list[Problem]) -> Table:
    rows = parse_csv(files.labels)
    if rows and rows[0][1][0].lower() in ("", "index"):
        header = [cell.lower() for cell in rows.pop(0)[1]]
        if tuple(header) not in {COLUMNS, ("", *COLUMNS[1:])}:
            description = f"is a header, but not that of the published layout: {','.join(COLUMNS)}"
            raise ManifestError(str(files.labels), [Problem("row 1", description)])
    if not rows:
        raise ManifestError(str(files.labels), [Problem("file", "has no films")])
    for row, cells in rows:
        if len(cells) != len(COLUMNS):
            problems.append(Problem(files.label_row(row), f"has {len(cells)} cells, not {len(COLUMNS)}"))
    return rows


def _name_rows(files: _Files) -> list[tuple[int, str]]:
    # The file has one column, so a name may contain every delimiter but a comma.
    rows = parse_csv(files.filenames, ",")
    if rows and rows[0][1][0].lower() in NAME_HEADERS:
        rows = rows[1:]
    problems = [
        Problem(f"row {row}", f"has {len(cells)} cells, not one file name") for row, cells in rows if len(cells) != 1
    ]
    problems += [
        Problem(f"row {row}", f"{cells[0]!r} is not a path below the images' folder")
        for row, cells in rows
        if Path(cells[0]).is_absolute() or ".." in Path(cells[0]).parts
    ]
    if problems:
        raise ManifestError(str(files.filenames), problems)
    return [(row, cells[0]) for row, cells in rows]


def _as_spelled(names: list[tuple[int, str]], images: Path) -> list[tuple[int, str]]:
    """Return the file names as the images' folder spells them."""
    spelling = Spelling()
    folder = spelling.find(images.resolve())
    return [(row, str(spelling.find(folder / name).relative_to(folder))) for row, name in names]


def _film(files: _Files, row: int, cells: Sequence[str], image: Path, problems: list[Problem]) -> Film | None:
    """Return the film of a row, or None after appending its problems to ``problems``."""
    if len(cells) != len(COLUMNS):
        return None
    values = dict(zip(COLUMNS, cells, strict=True))
    violations = [(c, "is empty") for c in ("study_id", "record_id") if not values[c]]
    onehot = {c: values[c] for c in (*VIEW_COLUMNS, *SCORE_COLUMNS)}
    violations += [(c, f"{v!r} is not 0 or 1") for c, v in onehot.items() if v not in ("0", "1", "0.0", "1.0")]
    hot = {column for column, value in onehot.items() if value in ("1", "1.0")}
    views = [view for column, view in VIEW_COLUMNS.items() if column in hot]
    if len(views) != 1:
        violations.append(("view", f"is {' and '.join(views) or 'neither view'}, not exactly one"))
    subscores: list[int | None] = []
    for cortex in CORTICES:
        scores = [subscore for subscore in SUBSCORES if f"{cortex}_cortex_{subscore}" in hot]
        if len(scores) > 1:
            violations.append((cortex, f"has the subscores {' and '.join(map(str, scores))} at once"))
        subscores.append(scores[0] if scores else None)
    problems += [Problem(files.label_row(row, column), description) for column, description in violations]
    if violations:
        return None
    patient = f"{_number(values['study_id'])}-{_number(values['record_id'])}"
    source = _number(values["study_id"])
    return Film(row, image, patient, values["event_arm"], views[0], tuple(subscores), source=source)


def _name_problems(files: _Files, row: int, name: str, cells: Sequence[str]) -> list[Problem]:
    """Return the problem that a file name of the published form contradicts its row of labels, or nothing."""
    # The form is `index-study-record-event-view.jpg`; a name of another form cannot contradict.
    parsed = re.fullmatch(r"(\d+)-(.+)-([^-]+)-([^-]+)-(antpr|later)\.\w+", Path(name).name)
    if parsed is None or len(cells) != len(COLUMNS):
        return []
    values = dict(zip(COLUMNS, cells, strict=True))
    encoded = dict(zip(IDENTITY_COLUMNS, parsed.groups(), strict=False))
    differing = [c for c, value in encoded.items() if _number(values[c]) != _number(value)]
    if values[f"view_{parsed[5]}"] not in ("1", "1.0"):
        differing.append("view")
    if not differing:
        return []
    description = f"{name!r} does not match its row in {files.labels.name}: different {', '.join(differing)}"
    return [Problem(files.name_row(row), description)]


def _repeated(files: _Files, names: Sequence[tuple[int, str]]) -> list[Problem]:
    first: dict[str, int] = {}
    return [
        Problem(files.name_row(row), f"{name!r} is already in row {first[name]}")
        for row, name in names
        if first.setdefault(name, row) != row
    ]


def _missing(files: _Files, names: Sequence[tuple[int, str]], images: Path) -> list[Problem]:
    if not images.is_dir():
        return [Problem(str(images), "is not a folder")]
    missing = [(row, name) for row, name in names if not (images / name).is_file()]
    if missing and len(missing) == len(names):
        return [Problem(str(images), f"holds none of the {len(names):,} images")]
    return [Problem(files.name_row(row), f"{name!r} is not in {images}") for row, name in missing]


def _number(value: str) -> str:
    """Return ``2864`` for ``2864.0``, a whole number that went through a table of floats."""
    return re.sub(r"^(\d+)\.0$", r"\1", value)
