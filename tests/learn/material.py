"""Small films, labels and development sets; run as a script, a process that builds features."""

import hashlib
import io
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from rust_optuna.config import BackboneConfiguration
from rust_optuna.data.development import DevelopmentSet
from rust_optuna.data.manifest import LABELS, VIEWS

SIZE = 75
SHOWN = {"anteroposterior": ("medial", "lateral"), "lateral": ("anterior", "posterior")}
# Tapped early, where films of 75×75 still have features that differ.
BACKBONE = BackboneConfiguration("random", weights_seed=3, output="mixed2", image_size=SIZE)


class Films:
    """Films in memory: gradients under noise, as PNG by content hash; remembers what is read."""

    def __init__(self, count, seed=0, log=None):
        generator = np.random.default_rng(seed)
        ramp = np.linspace(0, 160, SIZE)
        self.bytes = {}
        self.reads = []
        self._log = log
        for _ in range(count):
            tilt = generator.random(2)
            pixels = tilt[0] * ramp[:, None] + tilt[1] * ramp[None, :] + generator.random((SIZE, SIZE)) * 80
            buffer = io.BytesIO()
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
            self.bytes[hashlib.sha256(buffer.getvalue()).hexdigest()] = buffer.getvalue()
        self.contents = sorted(self.bytes)

    def read(self, content):
        self.reads.append(content)
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(content + "\n")
        return self.bytes[content]


def hashes(count):
    """Return content hashes of no film at all."""
    return sorted(hashlib.sha256(str(i).encode()).hexdigest() for i in range(count))


def make_labels(count, seed=0):
    """Return labels in which every film shows two cortices, some of them unreadable."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((count, len(LABELS)), dtype=np.uint8)
    for film in range(count):
        labels[film, film % 2] = 1
        for cortex in SHOWN[VIEWS[film % 2]]:
            score = generator.integers(0, 5)
            if score:
                labels[film, LABELS.index(f"{cortex}_{score}")] = 1
    return labels


def make_development(contents, folds=3, seed=0):
    """Return a development set of those films, each of its own patient."""
    count = len(contents)
    labels = make_labels(count, seed)
    return DevelopmentSet(
        content=tuple(contents),
        patients=tuple(f"patient-{film}" for film in range(count)),
        views=tuple(VIEWS[row[1]] for row in labels),
        labels=labels,
        folds=np.random.default_rng(seed).permutation(count) % folds,
    )


def build_in_a_child(folder, films):
    """Build the features of that many films, saying on standard output how far it is."""
    from rust_optuna.learn import features

    features.SHARD_FILMS = 8
    material = Films(films, log=Path(folder) / f"reads-{os.getpid()}.txt")
    cache = features.FeatureCache(Path(folder) / "features", BACKBONE)
    cache.build(material.contents, material.read, lambda done, total: print(done, total, flush=True))


if __name__ == "__main__":
    build_in_a_child(sys.argv[1], int(sys.argv[2]))
