"""Reports of all but the evaluation on the hold-out: a folder of numbers, and the arrays behind them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rust_optuna.errors import DataError
from rust_optuna.locks import locked
from rust_optuna.model import files

NUMBERS = "numbers.json"


class Arrays(Protocol):
    """Films and scores that a report keeps."""

    def save(self, path: Path) -> None:
        """Write them as ``.npz``."""


def refuse_other_report(folder: Path, subject: Mapping[str, Any]) -> None:
    """Refuse to replace a folder that holds something other than an earlier report on the same subject.

    Args:
        folder: where the report goes.
        subject: what the report is about.

    Raises:
        DataError: the folder holds something else.
    """
    if not folder.exists():
        return
    try:
        known = files.read_json(folder / NUMBERS)
    except (OSError, ValueError):
        known = {}
    if any(known.get(name) != value for name, value in subject.items()):
        raise DataError(f"{folder} holds something else than an earlier report of the same: move it away first")


def write_report(
    folder: Path,
    subject: Mapping[str, Any],
    numbers: Mapping[str, Any],
    arrays: Mapping[str, Arrays],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a report, whole or not at all; an earlier one on the same subject is replaced.

    Args:
        folder: where the report goes.
        subject: what the report is about: the first entries of ``numbers.json``.
        numbers: the other entries.
        arrays: the films behind the numbers, by the name of their file.
        texts: further files, such as pictures, by name.

    Raises:
        DataError: the folder holds something else.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / ".lock"):
        refuse_other_report(folder, subject)
        with files.new_directory(folder, replace=True) as temporary:
            files.write_json(temporary / NUMBERS, {**subject, **numbers})
            for name, films in arrays.items():
                films.save(temporary / f"{name}.npz")
            for name, text in (texts or {}).items():
                (temporary / name).write_text(text, encoding="utf-8")
