"""The features that a study's trials start from: its first worker pins them, and all others are compared with them.

Two workers whose features differ by more than rounding would not run the same study, even if their versions agree: one
of them may read films differently, for example. So each kind of arithmetic has one checksum for each of a study's
backbones, and kinds are compared with each other on a sample.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from rust_optuna.errors import FingerprintError, StudyError
from rust_optuna.search.studies import Study
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database

SAMPLED = 4
"""The number of films in the sample. The first is taken as it is, and each of the others in another flip."""
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.03}
"""How much kinds of arithmetic may differ, as a share of the sample's largest feature. The measured difference is
1.2e-6 between AVX2 and AVX-512. bfloat16 keeps eight bits of each layer's output, the last of which depends on the
order of summation."""


@dataclass(frozen=True)
class PinnedFeatures:
    """The features of a study's films by one backbone, as one kind of arithmetic computes them.

    Args:
        kind: the kind of arithmetic.
        sha256: the checksum of all features.
        sample: (`SAMPLED`, width) float32, the features of the films and flips that `sampled` returns.
    """

    kind: str
    sha256: str
    sample: np.ndarray


def sampled(films: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the sample's films among so many films, evenly spaced, and the flip of each."""
    return np.linspace(0, films - 1, SAMPLED).astype(np.int64), np.arange(SAMPLED)


class FeaturePins:
    """The features that a study's workers have pinned.

    Args:
        database: the study's database.
        study: the study.
    """

    def __init__(self, database: Database, study: Study) -> None:
        self._database = database
        self._study = study

    def of(self, backbone: Mapping[str, object]) -> list[PinnedFeatures]:
        """Return the pinned features of a backbone, one for each kind of arithmetic.

        Args:
            backbone: the backbone's `extraction_identity`.
        """
        table = tables.features
        of_backbone = sa.and_(table.c.study_id == self._study.id, table.c.backbone == _key(backbone))
        query = sa.select(table).where(of_backbone).order_by(table.c.arithmetic)
        rows = self._database.transact(lambda connection: connection.execute(query).all())
        return [PinnedFeatures(row.arithmetic, row.sha256, _decoded(row.sample)) for row in rows]

    def check(self, backbone: Mapping[str, object], kind: str, sample: np.ndarray) -> None:
        """Compare a sample computed here with the pinned ones.

        Args:
            backbone: the backbone's `extraction_identity`; its precision decides how much kinds may differ.
            kind: the kind of arithmetic used here.
            sample: (`SAMPLED`, width) float32.

        Raises:
            FingerprintError: the sample differs from that of its own kind, or by more than rounding from another's.
        """
        for pinned in self.of(backbone):
            tolerance = 0.0 if pinned.kind == kind else TOLERANCES[str(backbone["precision"])]
            self._compare(pinned, kind, sample, tolerance)

    def pin(self, backbone: Mapping[str, object], computed: PinnedFeatures) -> None:
        """Compare this worker's features with all pinned ones, and pin them if they are the first of their kind.

        Raises:
            FingerprintError: as in `check`, or a film outside the sample differs.
            StudyError: the study was deleted in the meantime.
        """
        with self._database.exclusive(f"features:{self._study.name.lower()}"):
            self.check(backbone, computed.kind, computed.sample)
            same = [pinned for pinned in self.of(backbone) if pinned.kind == computed.kind]
            if any(pinned.sha256 != computed.sha256 for pinned in same):
                raise FingerprintError(self._refusal(f"though both compute with {computed.kind}"))
            if not same:
                self._insert(backbone, computed)

    def _insert(self, backbone: Mapping[str, object], computed: PinnedFeatures) -> None:
        study, features = tables.study, tables.features
        identity = {"study_id": self._study.id, "backbone": _key(backbone), "arithmetic": computed.kind}
        pinned = sa.and_(*(features.c[name] == value for name, value in identity.items()))
        row = features.insert().values(**identity, sha256=computed.sha256, sample=_encoded(computed.sample))

        def insert(connection: sa.Connection) -> None:
            # The row may belong to another study by now, created after this one was deleted.
            key = sa.and_(study.c.id == self._study.id, study.c.created_at == self._study.created_at)
            if connection.execute(sa.select(study.c.id).where(key)).first() is None:
                raise StudyError(f"{self._study.name} was deleted")
            # If the row exists, an earlier try was committed, but its answer was lost.
            if connection.execute(sa.select(features.c.sha256).where(pinned)).first() is None:
                connection.execute(row)

        self._database.transact(insert)

    def _compare(self, pinned: PinnedFeatures, kind: str, sample: np.ndarray, tolerance: float) -> None:
        if sample.shape != pinned.sample.shape:
            raise FingerprintError(
                self._refusal(f"there are {sample.shape[1]} for each film, not {pinned.sample.shape[1]}")
            )
        difference = float(np.abs(sample - pinned.sample).max() / max(float(np.abs(pinned.sample).max()), 1e-30))
        if not difference <= tolerance:
            detail = (
                f"though both compute with {kind}"
                if pinned.kind == kind
                else f"they differ by {difference:.1e} of full scale, while rounding ({kind} here, {pinned.kind} "
                f"there) explains {tolerance:.0e} at most"
            )
            raise FingerprintError(self._refusal(detail))

    def _refusal(self, detail: str) -> str:
        return (
            f"The features of {self._study.name} computed here are not those of its other workers ({detail}): "
            "the code, a library or the cached features differ, and nothing was run. "
            "Compare `pip freeze` on both machines, and delete storage/features on this one"
        )


def _key(backbone: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(dict(backbone), sort_keys=True).encode()).hexdigest()


def _encoded(sample: np.ndarray) -> str:
    return json.dumps({"width": sample.shape[1], "float32": base64.b64encode(sample.astype("<f4").tobytes()).decode()})


def _decoded(text: str) -> np.ndarray:
    document = json.loads(text)
    values = np.frombuffer(base64.b64decode(document["float32"]), dtype="<f4")
    return values.reshape(-1, document["width"]).astype(np.float32)
