"""The whole story on SYNTHETIC films: draw, split, search both regimes. Called again, it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rust_optuna.data.manifest import read_manifest
from rust_optuna.data.split import split_manifest
from rust_optuna.data.synthetic.draw import synthesize
from rust_optuna.errors import DataError, WeightsError
from rust_optuna.learn.weights import imagenet_file
from rust_optuna.paths import Home, atomic_write
from rust_optuna.study_file import toml_string

Progress = Callable[[int, int], None]

STUDIES = ("regime_1.toml", "regime_2.toml")
HOLDOUT = 0.15
PRETRAINED_OUTPUT, RANDOM_OUTPUT = "mixed3", "mixed0"
"""The layers that suit the films best: random weights lose more with each layer, pretrained ones gain at first."""
RANDOM_CONTRAST = 2.0
"""How plainly the scores must show for random weights to see them; pretrained ones see them on ordinary films."""


@dataclass(frozen=True)
class Demo:
    """The demo's own settings.

    Args:
        patients: how many to make up.
        seed: of the films and of the split.
        contrast: how plainly callus and fracture line show.
        shuffle_scores: negative control: scores that no film shows.
        weights: ``imagenet``, ``random`` or a file.
    """

    patients: int = 300
    seed: int = 1
    contrast: float = RANDOM_CONTRAST
    shuffle_scores: bool = False
    weights: str = "random"


def choose(*, seed: int, shuffle_scores: bool, weights: str | None) -> Demo:
    """Return the demo that a user asked for, its films' contrast suited to the weights.

    Args:
        seed: of the films and of the split.
        shuffle_scores: negative control.
        weights: ``imagenet``, ``random``, a file, or None for ImageNet's where they can be had, else random ones.
    """
    weights = weights or _weights_at_hand()
    contrast = RANDOM_CONTRAST if weights == "random" else 1.0
    return Demo(seed=seed, contrast=contrast, shuffle_scores=shuffle_scores, weights=weights)


def _weights_at_hand() -> str:
    """Return ImageNet weights where they are here or can be downloaded, else random ones."""
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


def write_studies(demo: Demo, home: Home) -> list[Path]:
    """Write the demo's study files, with its weights and the layer that suits them, beside its films."""
    lines = {'weights = "imagenet"': f"weights = {toml_string(demo.weights)}"}
    if demo.weights == "random":
        lines[f'output = "{PRETRAINED_OUTPUT}"'] = f'output = "{RANDOM_OUTPUT}"'
    paths = []
    for name in STUDIES:
        text = resources.files("rust_optuna").joinpath("demo_studies", name).read_text(encoding="utf-8")
        # The second study inherits the first one's model.
        for line, instead in lines.items() if name == STUDIES[0] else ():
            if text.count(line) != 1:
                raise ValueError(f"{name} of the demo does not read {line} once")
            text = text.replace(line, instead)
        path = home.demo / name
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths
