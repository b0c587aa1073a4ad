"""What a pruned trial reports, as the database and Optuna's trial keep it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PrunedReport:
    """The curve of a trial that ended early. Its scores are not kept, because it is never the best.

    Args:
        curve: after each epoch, the mean over the folds of average precision.
    """

    curve: tuple[float, ...]
    arithmetic: None = None
    """Points that were pruned are not counted by the kind of arithmetic."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PrunedReport:
        """Return what `to_json` wrote."""
        return cls(tuple(document["curve"]))

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {"curve": list(self.curve)}


def curve_of(result: str | None) -> tuple[float, ...]:
    """Return the curve in the stored result of a complete or pruned trial; it is empty for a stand-in's."""
    return () if result is None else tuple(json.loads(result)["curve"])
