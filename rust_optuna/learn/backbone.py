"""The backbone: InceptionV3 without its top, frozen, cut at a named layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import LAYERS, BackboneConfiguration
from rust_optuna.errors import WeightsError
from rust_optuna.learn.runtime import load_keras
from rust_optuna.learn.weights import digest, inspect_weights, load_weights, weights_file, weights_layout

CHANNELS = 3


@dataclass(frozen=True)
class WeightsReport:
    """The findings of `check_weights` about a file that fits.

    Args:
        path: the file.
        sha256: the checksum of its bytes, which features and fingerprints are keyed by.
        layout: the file's layout, in words.
        layers: the number of layers that carry weights.
        parameters: the number of weights in them.
        mean_change: the mean absolute difference between the file's kernels and He-normal random ones.
        kernel_deviation: the standard deviation of the file's kernels.
    """

    path: Path
    sha256: str
    layout: str
    layers: int
    parameters: int
    mean_change: float
    kernel_deviation: float


def build_backbone(backbone: BackboneConfiguration) -> Any:
    """Return the frozen backbone, which maps (films, size, size, 3) in [−1, 1] to the output of the named layer.

    The model is cut at that layer only after the weights are loaded, because a weights file holds the whole no-top
    InceptionV3. Layers are found by the names that they have in the first model that a process builds (``conv2d``,
    ``conv2d_1``, …, ``mixed0`` to ``mixed10``), however many models were built before.

    Raises:
        WeightsError: there is no such layer, it is the input layer, or the weights are missing or do not fit.
    """
    keras = load_keras()
    whole = _inception(backbone.image_size, backbone.extraction_precision)
    layers = _layers_by_name(whole)
    if backbone.output not in LAYERS or backbone.output not in layers:
        raise WeightsError(
            f"InceptionV3 has no layer {backbone.output!r} with features: the usual ones are mixed0 to mixed10"
        )
    layer = layers[backbone.output]
    if backbone.weights == "random":
        _randomise(layers, backbone.weights_seed)
    else:
        path = weights_file(backbone)
        inspect_weights(path)
        load_weights(whole, path)
    cut = keras.Model(whole.input, layer.output)
    cut.trainable = False
    return cut


def check_weights(path: Path) -> WeightsReport:
    """Return what a weights file that fits the backbone holds.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        WeightsError: the file does not fit; the message gives the reason.
    """
    load_keras()
    inspect_weights(path)
    model = _inception(299, "float32")
    load_weights(model, path)
    loaded = _kernels(_layers_by_name(model))
    random = random_kernels([kernel.shape for kernel in loaded], seed=0)
    changes = sum(float(np.abs(a - b).sum(dtype=np.float64)) for a, b in zip(loaded, random, strict=True))
    flat = np.concatenate([kernel.ravel() for kernel in loaded])
    return WeightsReport(
        path=path,
        sha256=digest(path, "sha256"),
        layout=weights_layout(path),
        layers=sum(1 for layer in model.layers if layer.weights),
        parameters=int(model.count_params()),
        mean_change=changes / flat.size,
        kernel_deviation=float(flat.std(dtype=np.float64)),
    )


def _inception(size: int, precision: str) -> Any:
    """Return the whole no-top InceptionV3, whose weights are float32 whatever the precision of its convolutions."""
    keras = load_keras()
    policies = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
    before = keras.config.dtype_policy()
    # InceptionV3 takes no policy as an argument, so Keras's global one is set.
    keras.config.set_dtype_policy(policies[precision])
    try:
        # Weights files fit any image size: the layers' shapes depend only on the three channels.
        return keras.applications.InceptionV3(
            include_top=False, weights=None, input_shape=(size, size, CHANNELS), name="inception_v3"
        )
    finally:
        keras.config.set_dtype_policy(before)


def _layers_by_name(model: Any) -> dict[str, Any]:
    """Return the layers in order of creation, by the names that they would have in the first model of a process.

    Keras numbers unnamed layers with a counter of the process, so within one model the numbers still give the order.
    InceptionV3 itself names only the ``mixed`` layers.
    """
    named: dict[str, Any] = {}
    unnamed: dict[str, list[tuple[int, Any]]] = {}
    for layer in model.layers:
        parts = re.fullmatch(r"(.+?)(?:_(\d+))?", layer.name)
        if layer.name.startswith("mixed") or parts is None:
            named[layer.name] = layer
        else:
            unnamed.setdefault(parts[1], []).append((int(parts[2] or 0), layer))
    for kind, layers in unnamed.items():
        for position, (_, layer) in enumerate(sorted(layers, key=lambda numbered: numbered[0])):
            named[f"{kind}_{position}" if position else kind] = layer
    return named


def _convolutions(layers: dict[str, Any]) -> list[Any]:
    """Return the convolutions in order of creation."""
    return [layer for layer in layers.values() if type(layer).__name__ == "Conv2D"]


def _kernels(layers: dict[str, Any]) -> list[np.ndarray]:
    return [layer.kernel.numpy() for layer in _convolutions(layers)]


def random_kernels(shapes: Sequence[tuple[int, ...]], seed: int | Sequence[int]) -> list[np.ndarray]:
    """Return kernels of standard deviation √(2/fan-in) (He et al. 2015, arXiv:1502.01852), the same on every device.

    Args:
        shapes: the (height, width, channels in, channels out) of each kernel, in order of creation.
        seed: the seed of NumPy's generator, which does not change with the version of Keras.
    """
    generator = np.random.default_rng(seed)
    deviations = [np.float32(np.sqrt(2.0 / np.prod(shape[:-1]))) for shape in shapes]
    return [
        generator.standard_normal(shape, dtype=np.float32) * deviation
        for shape, deviation in zip(shapes, deviations, strict=True)
    ]


def _randomise(layers: dict[str, Any], seed: int) -> None:
    """Set random kernels in the convolutions; batch normalisations are created as the identity and stay so."""
    convolutions = _convolutions(layers)
    kernels = random_kernels([tuple(layer.kernel.shape) for layer in convolutions], seed)
    for layer, kernel in zip(convolutions, kernels, strict=True):
        layer.kernel.assign(kernel)
