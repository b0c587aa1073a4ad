"""The whole story on SYNTHETIC films: draw, split, search both regimes. Called again, it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rust_optuna.data.manifest import read_manifest
from rust_optuna.data.split import split_manifest
from rust_optuna.data.synthetic import synthesize
from rust_optuna.errors import DataError, WeightsError
from rust_optuna.learn.weights import imagenet_file
from rust_optuna.paths import Home, atomic_write

Progress = Callable[[int, int], None]

STUDIES = ("regime_1.toml", "regime_2.toml")
HOLDOUT = 0.15


@dataclass(frozen=True)
class Demo:
    """The demo's own settings.

    Args:
        patients: how many to make up.
        seed: of the films and of the split.
        contrast: how plainly callus and fracture line show.
        shuffle_scores: negative control: scores that no film shows.
        weights: ``imagenet``, ``random``, a file, or None for ImageNet's where they can be had, else random ones.
    """

    patients: int = 160
    seed: int = 1
    contrast: float = 1.0
    shuffle_scores: bool = False
    weights: str | None = None


def choose_weights(demo: Demo) -> str:
    """Return the weights to use: random ones where ImageNet's are neither here nor can be downloaded."""
    if demo.weights is not None:
        return demo.weights
    try:
        imagenet_file()
    except WeightsError:
        return "random"
    return "imagenet"


def draw_films(demo: Demo, home: Home, progress: Progress | None = None) -> Path:
    """Draw the films and split them, unless that was done before; return the manifest's path.

    Raises:
        DataError: films of another demo are there.
    """
    manifest = home.demo / "manifest.csv"
    recipe = home.demo / "recipe.txt"
    ours = f"patients {demo.patients}, seed {demo.seed}, contrast {demo.contrast}, shuffled {demo.shuffle_scores}\n"
    if manifest.is_file():
        theirs = recipe.read_text(encoding="utf-8") if recipe.is_file() else "unknown\n"
        if theirs != ours:
            raise DataError(
                f"{home.demo} holds the films of another demo ({theirs.strip()}): "
                "delete that folder, or give another --home"
            )
    else:
        with atomic_write(recipe) as temporary:
            temporary.write_text(ours, encoding="utf-8")
        synthesize(
            home.demo,
            patients=demo.patients,
            seed=demo.seed,
            contrast=demo.contrast,
            shuffle_scores=demo.shuffle_scores,
            progress=progress,
        )
    if not read_manifest(manifest).films[0].split:
        split_manifest(manifest, holdout=HOLDOUT, seed=demo.seed)
    return manifest


def write_studies(weights: str, home: Home) -> list[Path]:
    """Write the demo's study files, with the weights chosen, beside its films."""
    paths = []
    for name in STUDIES:
        text = resources.files("rust_optuna").joinpath("demo_studies", name).read_text(encoding="utf-8")
        line = 'weights = "imagenet"'
        if text.count(line) != 1:
            raise ValueError(f"{name} of the demo does not read {line} once")
        path = home.demo / name
        with atomic_write(path) as temporary:
            temporary.write_text(text.replace(line, f'weights = "{weights}"'), encoding="utf-8")
        paths.append(path)
    return paths
