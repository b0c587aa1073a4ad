"""The demo on SYNTHETIC films: it draws and splits them and prepares both regimes' study files.

If it is interrupted, the same call goes on where it stopped.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rust_optuna.config import CONTRAST, HOLDOUT
from rust_optuna.data.manifest import read_manifest
from rust_optuna.data.split import split_manifest
from rust_optuna.data.synthetic.draw import synthesize
from rust_optuna.errors import DataError, WeightsError
from rust_optuna.learn.weights import imagenet_file, inspect_weights
from rust_optuna.paths import Home, atomic_write
from rust_optuna.study_file import toml_string

Progress = Callable[[int, int], None]

STUDIES = ("regime_1.toml", "regime_2.toml")
PRETRAINED_OUTPUT, RANDOM_OUTPUT = "mixed3", "mixed0"
"""The layers that suit the films best: random weights get worse with each layer, pretrained ones get better at first.
"""
RANDOM_CONTRAST, PRETRAINED_CONTRAST = 2.0, CONTRAST
"""How plainly films must show their scores: random weights need more contrast than ordinary films have, pretrained ones
do not."""

SUITED_TO = {str(RANDOM_CONTRAST): "random", str(PRETRAINED_CONTRAST): "pretrained"}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The settings of the demo.

    Args:
        patients: the number of patients to make up.
        seed: the seed of the films and of the split.
        contrast: how plainly callus and fracture line show.
        shuffle_scores: whether to shuffle the scores so that no film shows its own, as a negative control.
        weights: ``imagenet``, ``random`` or a file.
    """

    patients: int = 300
    seed: int
    contrast: float = RANDOM_CONTRAST
    shuffle_scores: bool = False
    weights: str = "random"

    @property
    def recipe(self) -> str:
        """The settings that the films depend on, in the form in which they are kept beside the films."""
        return f"patients {self.patients}, seed {self.seed}, contrast {self.contrast}, shuffled {self.shuffle_scores}\n"


def choose(home: Home, *, seed: int, shuffle_scores: bool, weights: str | None) -> Demo:
    """Return the demo that the user asked for, with a contrast that suits the weights.

    Args:
        home: the folder in which relative paths begin.
        seed: the seed of the films and of the split.
        shuffle_scores: whether to shuffle the scores, as a negative control.
        weights: ``imagenet``, ``random`` or a file; None for ImageNet weights if they can be had, else random ones.

    Raises:
        WeightsError: the weights do not exist, or do not fit.
    """
    weights = weights or _default_weights()
    if weights == "imagenet":
        imagenet_file()
    elif weights != "random":
        inspect_weights(home.resolve(weights))
    contrast = RANDOM_CONTRAST if weights == "random" else PRETRAINED_CONTRAST
    return Demo(seed=seed, contrast=contrast, shuffle_scores=shuffle_scores, weights=weights)


def _default_weights() -> str:
    """Return ``imagenet`` if its weights are on this machine or can be downloaded, else ``random``."""
    try:
        imagenet_file()
    except WeightsError:
        return "random"
    return "imagenet"


def draw_films(demo: Demo, home: Home, progress: Progress | None = None) -> Path:
    """Draw the films and split them, unless that was done before; return the manifest's path.

    Raises:
        DataError: the folder holds films of a demo with other settings; the message names the differences.
    """
    manifest = home.demo / "manifest.csv"
    recipe = home.demo / "recipe.txt"
    if manifest.is_file():
        existing = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
        if existing != demo.recipe:
            raise DataError(
                f"The films in {short(home.demo)} {'; they '.join(_differences(demo, existing))}: remove them "
                f"(rm -r {shlex.quote(short(home.demo))}) to let this command draw new ones, or use another --home"
            )
    else:
        with atomic_write(recipe) as temporary:
            temporary.write_text(demo.recipe, encoding="utf-8")
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


def _differences(demo: Demo, recipe: str) -> Iterator[str]:
    """Yield, as predicates, how the films of a recipe differ from those of a demo."""
    drawn, wanted = _settings(recipe), _settings(demo.recipe)
    if drawn.keys() != wanted.keys():
        yield "are not known to be a demo's, since there is no recipe.txt beside them"
        return
    if drawn["patients"] != wanted["patients"]:
        yield f"are of {drawn['patients']} patients; this call needs {wanted['patients']}"
    if drawn["seed"] != wanted["seed"]:
        yield f"were drawn with seed {drawn['seed']}; this call needs seed {wanted['seed']}"
    if drawn["contrast"] != wanted["contrast"]:
        old, new = (f"{c}, for {SUITED_TO.get(c, 'other')} weights" for c in (drawn["contrast"], wanted["contrast"]))
        yield f"were drawn with contrast {old}; this call needs {new}"
    if drawn["shuffled"] != wanted["shuffled"]:
        new, old = "shuffled scores", "scores that they show"
        if drawn["shuffled"] == "True":
            new, old = old, new
        yield f"have {old}; this call needs {new} ({'with' if demo.shuffle_scores else 'without'} --shuffle-scores)"


def _settings(recipe: str) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in recipe.strip().split(", ") if " " in part)


def short(path: Path) -> str:
    """Return a path relative to the current directory if it is below it; else the whole path."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def write_studies(demo: Demo, home: Home) -> list[Path]:
    """Write the demo's study files, with its weights and the layer that suits them, beside its films."""
    replacements = {'weights = "imagenet"': f"weights = {toml_string(demo.weights)}"}
    if demo.weights == "random":
        replacements[f'output = "{PRETRAINED_OUTPUT}"'] = f'output = "{RANDOM_OUTPUT}"'
    paths = []
    for name in STUDIES:
        text = resources.files("rust_optuna").joinpath("demo_studies", name).read_text(encoding="utf-8")
        # The second study inherits the first one's model.
        for old, new in replacements.items() if name == STUDIES[0] else ():
            if text.count(old) != 1:
                raise ValueError(f"{name} of the demo does not contain {old} exactly once")
            text = text.replace(old, new)
        path = home.demo / name
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths
