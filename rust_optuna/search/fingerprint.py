"""The fingerprint of a study: everything that its numbers depend on, fixed at its creation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rust_optuna.config import KEYS, LATER_KEYS
from rust_optuna.study_file import toml_value


@dataclass(frozen=True)
class Fingerprint:
    """Everything that a study's numbers depend on except the libraries, which its first worker adds.

    Args:
        settings: the settings of the study file without the number of trials, the lease and paths, as JSON holds them.
        films: the hash of the development films with their labels, patients and folds.
        weights: the identities of the weights that its points may use, such as the hash of a file's bytes, in order.
    """

    settings: Mapping[str, Any]
    films: str
    weights: tuple[str, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint that `to_json` wrote."""
        return cls(document["settings"], document["films"], tuple(document["weights"]))

    def to_json(self) -> dict[str, Any]:
        """Return the document that the database keeps."""
        return {"settings": dict(self.settings), "films": self.films, "weights": list(self.weights)}

    @property
    def sha256(self) -> str:
        """The hash of the document, which the Optuna study shows."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def other_settings(self, file: Mapping[str, Any]) -> list[str]:
        """Describe, one clause each, the settings in which a study file differs from the study.

        Args:
            file: the settings of the file, as a fingerprint holds them.
        """
        file, study = _by_key(file), _by_key(self.settings)
        pairs = {key: (file.get(key), study.get(key)) for key in sorted({*file, *study})}
        return [
            f"{key} is {toml_value(in_file)} in the file and {toml_value(in_study)} in the study"
            for key, (in_file, in_study) in pairs.items()
            if in_file != in_study
        ]


def _by_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a fingerprint by the keys that a study file uses for them."""
    searched = {f"search_space.{key}": axis for key, axis in settings["search_space"].items()}
    renamed = {"sampler": "sampler.type", "sampler_seed": "sampler.seed"}
    others = {renamed.get(key, key): value for key, value in settings.items() if key != "search_space"}
    return {**{key: KEYS[key].default for key in LATER_KEYS}, **others, **searched}
