"""A study's fingerprint: all that its numbers depend on, fixed at its creation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rust_optuna.config import KEYS
from rust_optuna.study_file import toml_value


@dataclass(frozen=True)
class Fingerprint:
    """All that a study's numbers depend on, but for the libraries, which its first worker adds.

    Args:
        settings: those of the study file, without the number of trials, the lease and paths, as JSON holds them.
        films: the hash of the development films with their labels, patients and folds.
        weights: what the weights are that its points may use, such as the hash of a file's bytes, in order.
    """

    settings: Mapping[str, Any]
    films: str
    weights: tuple[str, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Fingerprint:
        """Return what `to_json` wrote."""
        return cls(document["settings"], document["films"], tuple(document["weights"]))

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold: the document that the database keeps."""
        return {"settings": dict(self.settings), "films": self.films, "weights": list(self.weights)}

    @property
    def sha256(self) -> str:
        """The hash of the document, by which Optuna's study shows it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def other_settings(self, file: Mapping[str, Any]) -> list[str]:
        """Return in words which settings of a study file differ from the study's.

        Args:
            file: the settings of the file, as a fingerprint holds them.
        """
        ours, theirs = _by_key(file), _by_key(self.settings)
        pairs = {key: (ours.get(key), theirs.get(key)) for key in sorted({*ours, *theirs})}
        return [
            f"{key} is {toml_value(here)} in the file and {toml_value(there)} in the study"
            for key, (here, there) in pairs.items()
            if here != there
        ]


def _by_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a fingerprint by the keys that a study file has for them."""
    searched = {f"search_space.{key}": axis for key, axis in settings["search_space"].items()}
    renamed = {"sampler": "sampler.type", "sampler_seed": "sampler.seed"}
    others = {renamed.get(key, key): value for key, value in settings.items() if key != "search_space"}
    return {"bits": KEYS["bits"].default, **others, **searched}
