"""The features that a study's trials start from: noted by its first worker, compared with by all others.

Two workers whose features differ by more than rounding would not run the same study, whatever their versions say: one
of them reads films otherwise, say. So each kind of arithmetic has one checksum for each of a study's backbones, and
kinds are compared with each other on a sample.
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
"""Films of the sample, the first of them as it is, the others each in another flip."""
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.03}
"""By how much kinds of arithmetic may differ, as a share of the sample's largest feature. Measured: 1.2e-6 between AVX2
and AVX-512; bfloat16 keeps eight bits of each layer's output, and another order of sums turns over the last."""


@dataclass(frozen=True)
class PinnedFeatures:
    """The features of a study's films by one backbone, as one kind of arithmetic computes them.

    Args:
        kind: of arithmetic.
        sha256: of all of them.
        sample: (`SAMPLED`, width) float32, of the films and flips of `sampled`.
    """

    kind: str
    sha256: str
    sample: np.ndarray


def sampled(films: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the sample's films among a study's, evenly spaced, and each one's flip."""
    return np.linspace(0, films - 1, SAMPLED).astype(np.int64), np.arange(SAMPLED)


class FeaturePins:
    """The features that a study's workers have pinned.

    Args:
        database: the study's.
        study: whose.
    """

    def __init__(self, database: Database, study: Study) -> None:
        self._database = database
        self._study = study

    def of(self, backbone: Mapping[str, object]) -> list[PinnedFeatures]:
        """Return what was pinned of a backbone, one for each kind of arithmetic.

        Args:
            backbone: its `extraction_identity`.
        """
        table = tables.features
        mine = sa.and_(table.c.study_id == self._study.id, table.c.backbone == _key(backbone))
        query = sa.select(table).where(mine).order_by(table.c.arithmetic)
        rows = self._database.transact(lambda connection: connection.execute(query).all())
        return [PinnedFeatures(row.arithmetic, row.sha256, _decoded(row.sample)) for row in rows]

    def check(self, backbone: Mapping[str, object], kind: str, sample: np.ndarray) -> None:
        """Compare a sample computed here with those that were pinned.

        Args:
            backbone: its `extraction_identity`, with the precision that decides how far kinds may differ.
            kind: of arithmetic, here.
            sample: (`SAMPLED`, width) float32.

        Raises:
            FingerprintError: it differs from its own kind's, or by more than rounding from another's.
        """
        for pinned in self.of(backbone):
            tolerance = 0.0 if pinned.kind == kind else TOLERANCES[str(backbone["precision"])]
            self._compare(pinned, kind, sample, tolerance)

    def pin(self, backbone: Mapping[str, object], computed: PinnedFeatures) -> None:
        """Note the features that this worker computes, unless one of its kind has, and compare them with all others'.

        Raises:
            FingerprintError: as `check`; or a film outside of the sample differs.
            StudyError: the study was deleted meanwhile.
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
        this = {"study_id": self._study.id, "backbone": _key(backbone), "arithmetic": computed.kind}
        mine = sa.and_(*(features.c[name] == value for name, value in this.items()))
        row = features.insert().values(**this, sha256=computed.sha256, sample=_encoded(computed.sample))

        def insert(connection: sa.Connection) -> None:
            # A study of the same row may be another one, made after this was deleted.
            key = sa.and_(study.c.id == self._study.id, study.c.created_at == self._study.created_at)
            if connection.execute(sa.select(study.c.id).where(key)).first() is None:
                raise StudyError(f"{self._study.name} was deleted")
            # There already: it was committed, and the answer was lost.
            if connection.execute(sa.select(features.c.sha256).where(mine)).first() is None:
                connection.execute(row)

        self._database.transact(insert)

    def _compare(self, pinned: PinnedFeatures, kind: str, sample: np.ndarray, tolerance: float) -> None:
        if sample.shape != pinned.sample.shape:
            raise FingerprintError(self._refusal(f"they are {sample.shape[1]} a film, not {pinned.sample.shape[1]}"))
        apart = float(np.abs(sample - pinned.sample).max() / max(float(np.abs(pinned.sample).max()), 1e-30))
        if not apart <= tolerance:
            how = (
                f"though both compute with {kind}"
                if pinned.kind == kind
                else f"they differ by {apart:.1e} of full scale, where rounding ({kind} here, {pinned.kind} there) "
                f"makes {tolerance:.0e} at most"
            )
            raise FingerprintError(self._refusal(how))

    def _refusal(self, how: str) -> str:
        return (
            f"The features of {self._study.name} computed here are not those of its other workers, {how}: "
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
