"""The directory of a model: everything that using, checking and reporting it takes, in files that any program can read.

Layout, below ``storage/models/NAME``::

    model.json          backbone, preprocessing, order of the labels, which view shows which cortices, the heads
    calibration.json    thresholds, conformal quantiles, residuals of totals: fitted on out-of-fold scores alone
    metrics.json        every number of the evaluation
    provenance.json     study, trial, fingerprint, versions, and the opening of the hold-out
    heads/NAME.keras    each head, which Keras loads; NAME.npz beside it where it standardises features
    arrays/NAME.npz     labels and scores from which every number can be computed again
    SHA256SUMS          the checksum of each file, as ``sha256sum --check`` reads it

A directory is written under a temporary name and moved into place: it is there whole or not at all. Nothing in it is a
pickle, and nothing in it names a patient, a file or a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.manifest import LABELS
from rust_optuna.errors import DataError
from rust_optuna.learn.fitting import Head
from rust_optuna.learn.head import Standardisation, keras_head
from rust_optuna.learn.runtime import load_keras
from rust_optuna.model.scoring import WHOLE, scores_by_model
from rust_optuna.paths import remove_leftovers, temporary_name

VERSION = 1
CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True)
class HeadRecord:
    """What ``model.json`` says of one head.

    Args:
        name: of its files.
        sha256: of all that its scores depend on (`Head.sha256`).
        precision: of its matrix products.
        fold: the fold that it did not see; None for the head that was fitted on the whole development set.
        repeat: which of the training seeds; None likewise.
        value: its average precision on the films of that fold; None likewise.
    """

    name: str
    sha256: str
    precision: str
    fold: int | None = None
    repeat: int | None = None
    value: float | None = None


@dataclass(frozen=True)
class ModelCard:
    """What ``model.json`` holds.

    Args:
        name: of the model.
        backbone: what computes the features, a weights file without its folder.
        features: what identifies the features: the weights' bytes, layer, pooling, size, versions.
        cortices: view → the cortices its films show.
        heads: all of them.
        primary: the name of the head whose score on the hold-out is the primary number.
    """

    name: str
    backbone: BackboneConfiguration
    features: Mapping[str, Any]
    cortices: Mapping[str, tuple[str, ...]]
    heads: tuple[HeadRecord, ...]
    primary: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ModelCard:
        """Return what `to_json` wrote.

        Raises:
            DataError: a later version wrote it, or its labels are others.
        """
        if document["version"] != VERSION:
            raise DataError(f"the model is of version {document['version']}, and this program reads {VERSION}")
        if tuple(document["labels"]) != LABELS:
            raise DataError("the model predicts other labels than this program reads")
        return cls(
            name=document["name"],
            backbone=BackboneConfiguration(**document["backbone"]),
            features=document["features"],
            cortices={view: tuple(shown) for view, shown in document["cortices"].items()},
            heads=tuple(HeadRecord(**head) for head in document["heads"]),
            primary=document["primary"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "version": VERSION,
            "name": self.name,
            "labels": list(LABELS),
            "backbone": asdict(self.backbone),
            "features": dict(self.features),
            "cortices": {view: list(shown) for view, shown in self.cortices.items()},
            "heads": [asdict(head) for head in self.heads],
            "primary": self.primary,
        }


@contextmanager
def new_directory(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes ``folder`` once the block ends well.

    The block's files are listed in `CHECKSUMS`. What a killed process left of the same directory is removed: the caller
    sees to it that no other process writes ``folder``.

    Args:
        folder: what the directory becomes.
        replace: whether it may replace a directory of that name.

    Raises:
        DataError: ``folder`` is there already, and may not be replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    temporary, replaced = temporary_name(folder), temporary_name(folder)
    try:
        temporary.mkdir()
        yield temporary
        sums = "".join(f"{_sha256(path)}  {name}\n" for name, path in _files(temporary))
        (temporary / CHECKSUMS).write_text(sums, encoding="utf-8")
        _sync(temporary)
        if replace and folder.exists():
            os.rename(folder, replaced)
        if folder.exists():
            raise DataError(f"{folder} is there already: name the model otherwise (--name), or remove that directory")
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def save_head(folder: Path, name: str, head: Head) -> None:
    """Write a head as ``NAME.keras``, and the standardisation of its features, which Keras would round, beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = keras_head(head.width, head.hidden_units, 0.0, head.weights, head.standardisation)
    model.save(folder / f"{name}.keras")
    if head.standardisation is not None:
        with (folder / f"{name}.npz").open("wb") as file:
            np.savez(file, allow_pickle=False, mean=head.standardisation.mean, scale=head.standardisation.scale)


def load_head(folder: Path, record: HeadRecord) -> Head:
    """Return a head as it was saved.

    Raises:
        DataError: the files are not those of the head.
    """
    model = load_keras().saving.load_model(folder / f"{record.name}.keras", compile=False, safe_mode=True)
    weights = tuple(np.asarray(array) for array in model.get_weights())
    beside = folder / f"{record.name}.npz"
    standardisation = None
    if beside.is_file():
        with np.load(beside, allow_pickle=False) as arrays:
            standardisation = Standardisation(arrays["mean"], arrays["scale"])
    head = Head(weights, standardisation, record.precision)
    if head.sha256 != record.sha256:
        raise DataError(f"{folder / record.name}.keras does not hold the head that model.json describes")
    return head


@dataclass(frozen=True, eq=False)
class Model:
    """A model directory, loaded.

    Args:
        folder: where it lies.
        card: what it is.
        heads: by name.
    """

    folder: Path
    card: ModelCard
    heads: Mapping[str, Head]

    def scores(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores of films by each of the models that the evaluation compared.

        Args:
            table: (films, 4, width) float32, the features of the films in all flips.

        Returns:
            the name of each model → (films, 18) float32.
        """
        folds = [record.name for record in self.card.heads if record.fold is not None]
        heads = [self.heads[name] for name in folds]
        return scores_by_model(heads, folds.index(self.card.primary), self.heads[WHOLE], table)


def load_model(folder: Path) -> Model:
    """Load a model directory.

    Raises:
        DataError: a file is missing or not the one that was written, or a later version wrote the directory.
    """
    check_directory(folder)
    card = ModelCard.from_json(read_json(folder / "model.json"))
    return Model(folder, card, {record.name: load_head(folder / "heads", record) for record in card.heads})


def check_directory(folder: Path) -> None:
    """Compare each file of a model directory with its checksum.

    Raises:
        DataError: one is missing, another one than was written, or was added.
    """
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{folder} is no model directory: it has no {CHECKSUMS}") from None
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {name: path for name, path in _files(folder) if name != CHECKSUMS}
    for name in sorted({*listed, *there}):
        if name not in there:
            raise DataError(f"{folder / name} is missing: the model is not the one that was evaluated")
        if listed.get(name) != _sha256(there[name]):
            raise DataError(f"{folder / name} has changed: the model is not the one that was evaluated")


def directory_sha256(folder: Path) -> str:
    """Return the SHA-256 of a directory's `CHECKSUMS`, which stands for all its files."""
    return _sha256(folder / CHECKSUMS)


def read_json(path: Path) -> Any:
    """Return a JSON file's contents."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each file below a folder with its name from there, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Bring files to the disk before their directory gets its name."""
    for _, path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
