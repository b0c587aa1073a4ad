"""``python -m tests.small_demo …``: the demo command as it is, but for fewer films, points and epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rust_optuna.cli import main
from rust_optuna.run import demo

PATIENTS = 60
SMALLER = {
    "n_trials = 8": "n_trials = 1",
    'batch_size = {type = "int", low = 16, high = 256}': "batch_size = [32]",
    "learning_rate = [3e-4, 1e-3]": "learning_rate = [1e-3]",
    "epsilon = [1e-7, 1e-4, 1e-1]": "epsilon = [1e-7]",
    "image_size = 149": "image_size = 75",
    "epochs = 20": "epochs = 12",
}

choose, write_studies = demo.choose, demo.write_studies


def choose_few(home: demo.Home, **options: object) -> demo.Demo:
    return replace(choose(home, **options), patients=PATIENTS)


def write_small_studies(chosen: demo.Demo, home: demo.Home) -> list[Path]:
    """Write the demo's own study files, then make each of the values above smaller where it stands."""
    paths = write_studies(chosen, home)
    texts = [path.read_text(encoding="utf-8") for path in paths]
    for line, instead in SMALLER.items():
        if not any(line in text for text in texts):
            raise ValueError(f"no study of the demo reads {line}")
        texts = [text.replace(line, instead) for text in texts]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


if __name__ == "__main__":
    demo.choose, demo.write_studies = choose_few, write_small_studies
    main()
