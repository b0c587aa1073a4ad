"""The result lines of rounds: one JSON document a line, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_rows(results: Path | None) -> list[dict[str, Any]]:
    """Return the rounds that a file lists; none where there is no file."""
    if results is None or not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def add_row(results: Path | None, row: dict[str, Any]) -> None:
    """Add a round to a file, if there is one to add it to."""
    if results is not None:
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
