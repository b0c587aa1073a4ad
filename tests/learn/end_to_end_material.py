"""Films with a planted square, and trials that train end to end on them."""

import numpy as np

from rust_optuna.config import BackboneConfiguration, TrialConfiguration
from rust_optuna.data.manifest import LABELS
from rust_optuna.learn.pixels import Pixels

LENET_SIZE, INCEPTION_SIZE = 40, 75


def lenet(**changes):
    """Return a trial of LeNet-1998 on small films."""
    values = {
        "batch_size": 12,
        "dropout_rate": 0.0,
        "learning_rate": 1e-3,
        "epsilon": 1e-7,
        "backbone": BackboneConfiguration("imagenet", image_size=LENET_SIZE),
        "epochs": 2,
        "architecture": "lenet_1998",
        "train": "all",
        "micro_batch": 5,
        "flips": "none",
    }
    return TrialConfiguration(**{**values, **changes})


def inception(**changes):
    """Return a trial of InceptionV3, cut early and with a small head."""
    backbone = BackboneConfiguration("random", output="mixed0", image_size=INCEPTION_SIZE)
    return lenet(**{"architecture": "inception_v3", "backbone": backbone, "hidden_units": (16, 8), **changes})


def planted(count, size, seed=0, *, noise=False):
    """Return films of noise, and labels that say whether a film shows a bright square, every other one whether not.

    Args:
        count: the number of films.
        size: their width and height in pixels.
        seed: of the noise.
        noise: whether all labels but the first say nothing.
    """
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 200, (count, size, size)).astype(np.uint8)
    square = np.arange(count) % 2
    labels = (square[:, None] + np.arange(len(LABELS))) % 2
    if noise:
        labels[:, 1:] = generator.integers(0, 2, labels[:, 1:].shape)
    images[square == 1, size // 4 : size // 2, size // 4 : size // 2] = 255
    return Pixels(images, "made up"), labels.astype(np.uint8)
