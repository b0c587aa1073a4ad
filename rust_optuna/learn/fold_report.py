"""What a trained fold reports where it is a point of its own, as the database and Optuna's trial keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FoldReport:
    """Every number that is kept of one fold of a final model, or of a configuration that is compared with others.

    Args:
        epoch: the number of epochs, which was fixed before training.
        value: the average precision on the films left out, after the last epoch.
        curve: the same after each epoch.
        seed: of the head's training.
        head_sha256: of the head (`rust_optuna.learn.fitting.Head.sha256`); None in a comparison, which keeps no head.
        features_sha256: of the features that it trained on, or of the films of a network trained end to end.
        arithmetic: the kind of arithmetic.
        device: what computed it.
        host: the name of the machine.
        versions: of Python and the libraries, by package.
        seconds: how long it took.
        weights: identify the backbone's weights.
        artifact: the identifier of the stored head and scores.
        micro_batch: the most films that were computed at a time, where memory was short or the network was trained end
            to end; else None.
        curve_16: in a comparison, the average precision over the 16 subscores after each epoch; None where no film of
            the fold has a subscore.
        diverged: in a comparison, whether loss, scores or weights stopped being finite.
    """

    epoch: int
    value: float
    curve: tuple[float, ...]
    seed: int
    head_sha256: str | None
    features_sha256: str
    arithmetic: str
    device: str
    host: str
    versions: Mapping[str, str]
    seconds: float
    weights: str
    artifact: str
    micro_batch: int | None
    curve_16: tuple[float, ...] | None = None
    diverged: bool = False

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FoldReport:
        """Return what `to_json` wrote."""
        curves = {name: tuple(document[name]) for name in ("curve", "curve_16") if document.get(name) is not None}
        return cls(**{**document, **curves})

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        document = {**asdict(self), "curve": list(self.curve)}
        if self.head_sha256 is None:
            return document | {"curve_16": None if self.curve_16 is None else list(self.curve_16)}
        # A final model's fold is written as versions without comparisons wrote it.
        return {name: value for name, value in document.items() if name not in ("curve_16", "diverged")}
