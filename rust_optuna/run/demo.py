"""The whole story on SYNTHETIC films: draw, split, search both regimes. Called again, it goes on where it stopped."""

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
"""The layers that suit the films best: random weights lose more with each layer, pretrained ones gain at first."""
RANDOM_CONTRAST, PRETRAINED_CONTRAST = 2.0, CONTRAST
"""How plainly the scores must show for random weights to see them; pretrained ones see them on ordinary films."""

SUITED_TO = {str(RANDOM_CONTRAST): "random", str(PRETRAINED_CONTRAST): "pretrained"}


@dataclass(frozen=True, kw_only=True)
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
    seed: int
    contrast: float = RANDOM_CONTRAST
    shuffle_scores: bool = False
    weights: str = "random"

    @property
    def recipe(self) -> str:
        """What the films depend on, as it is kept beside them."""
        return f"patients {self.patients}, seed {self.seed}, contrast {self.contrast}, shuffled {self.shuffle_scores}\n"


def choose(home: Home, *, seed: int, shuffle_scores: bool, weights: str | None) -> Demo:
    """Return the demo that a user asked for, its films' contrast suited to the weights.

    Args:
        home: where relative paths begin.
        seed: of the films and of the split.
        shuffle_scores: negative control.
        weights: ``imagenet``, ``random``, a file, or None for ImageNet's where they can be had, else random ones.

    Raises:
        WeightsError: the weights that were asked for are not there, or do not fit.
    """
    weights = weights or _weights_at_hand()
    if weights == "imagenet":
        imagenet_file()
    elif weights != "random":
        inspect_weights(home.resolve(weights))
    contrast = RANDOM_CONTRAST if weights == "random" else PRETRAINED_CONTRAST
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
        DataError: films of another demo are there; the message says in what they differ.
    """
    manifest = home.demo / "manifest.csv"
    recipe = home.demo / "recipe.txt"
    if manifest.is_file():
        theirs = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
        if theirs != demo.recipe:
            raise DataError(
                f"The films in {short(home.demo)} {'; they '.join(_differences(demo, theirs))}: "
                f"rm -r {shlex.quote(short(home.demo))} lets this command draw them anew; --home names another place"
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


def _differences(demo: Demo, theirs: str) -> Iterator[str]:
    """Say in words in what the films of another recipe differ from those of a demo."""
    drawn, wanted = _settings(theirs), _settings(demo.recipe)
    if drawn.keys() != wanted.keys():
        yield "are not known to be a demo's, for recipe.txt is not beside them"
        return
    if drawn["patients"] != wanted["patients"]:
        yield f"are of {drawn['patients']} patients; this call needs {wanted['patients']}"
    if drawn["seed"] != wanted["seed"]:
        yield f"were drawn with seed {drawn['seed']}; this call needs seed {wanted['seed']}"
    if drawn["contrast"] != wanted["contrast"]:
        was, now = (f"{c}, for {SUITED_TO.get(c, 'other')} weights" for c in (drawn["contrast"], wanted["contrast"]))
        yield f"were drawn with contrast {was}; this call needs {now}"
    if drawn["shuffled"] != wanted["shuffled"]:
        now, was = "shuffled scores", "scores that they show"
        if drawn["shuffled"] == "True":
            now, was = was, now
        yield f"have {was}; this call needs {now} ({'with' if demo.shuffle_scores else 'without'} --shuffle-scores)"


def _settings(recipe: str) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in recipe.strip().split(", ") if " " in part)


def short(path: Path) -> str:
    """Return a path relative to the current directory where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


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
