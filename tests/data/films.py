"""Small films and manifests for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rust_optuna.data.manifest import Film, Manifest, read_manifest, write_manifest

SHOWN = {"anteroposterior": (0, 1), "lateral": (2, 3)}


def draw_film(path: Path, number: int) -> None:
    """Write a film whose pixels depend on its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, size=(12, 10), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_manifest(
    folder: Path, patients: int = 12, holdout: int = 2, *, split: bool = True, first: int = 0
) -> Manifest:
    """Write a manifest of one visit with both views a patient, and its films; the last patients are held out.

    Films of the same number are the same; ``first`` is that of the first.
    """
    films = []
    for patient in range(patients):
        for view, shown in SHOWN.items():
            number = len(films)
            image = folder / "films" / f"{number}.png"
            draw_film(image, first + number)
            scores = tuple((patient + c) % 4 + 1 if c in shown else None for c in range(4))
            part = "holdout" if patient >= patients - holdout else "development"
            films.append(Film(0, image, f"MRN-{patient:05d}", "visit", view, scores, part if split else ""))
    path = folder / "manifest.csv"
    write_manifest(path, films)
    return read_manifest(path)


def rewrite(manifest: Manifest, **changes: dict[int, object]) -> Manifest:
    """Write the manifest again, with fields changed: ``rewrite(manifest, patient={row: "p"})``."""
    films = []
    for film in manifest.films:
        values = {name: change[film.row] for name, change in changes.items() if film.row in change}
        films.append(Film(**(vars(film) | values)))
    write_manifest(manifest.path, films)
    return read_manifest(manifest.path)
