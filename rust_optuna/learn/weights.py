"""The backbone: InceptionV3 without its top, its weights from ImageNet, from a file or from a seed."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import BackboneConfiguration
from rust_optuna.errors import WeightsError
from rust_optuna.learn.runtime import load_keras

IMAGENET_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_ADDRESS = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{IMAGENET_FILE}"
IMAGENET_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"
"""Address and checksum as they stand in ``keras.applications.inception_v3``."""

RANDOM_WEIGHTS = "random-he-normal-1"
SUFFIXES = (".weights.h5", ".h5", ".hdf5", ".keras")
DOWNLOAD_TIMEOUT = 30.0
CHANNELS = 3
MISFIT = "does not fit InceptionV3 without its top"


@dataclass(frozen=True)
class WeightsReport:
    """What `check_weights` found in a file that fits.

    Args:
        path: the file.
        sha256: of its bytes; features and fingerprints go by it.
        layout: how it is laid out, in words.
        layers: layers that carry weights.
        parameters: numbers in them.
        mean_change: mean absolute difference between the file's kernels and He-normal random ones.
        kernel_deviation: standard deviation of the file's kernels.
    """

    path: Path
    sha256: str
    layout: str
    layers: int
    parameters: int
    mean_change: float
    kernel_deviation: float


def weights_identity(backbone: BackboneConfiguration) -> str:
    """Return what the weights are, whatever the file is called: ``sha256:…`` of its bytes, or the scheme and seed.

    TensorFlow is loaded only if ImageNet weights must be downloaded first.

    Raises:
        WeightsError: the file is missing, or ImageNet weights could not be had.
    """
    if backbone.weights == "random":
        return f"{RANDOM_WEIGHTS}:{backbone.weights_seed}"
    return f"sha256:{_digest(_weights_file(backbone), 'sha256')}"


def imagenet_file() -> Path:
    """Return Keras's own copy of the ImageNet weights, downloaded by Keras if it is not there yet.

    Raises:
        WeightsError: the file is absent or damaged, and could not be downloaded.
    """
    folder = _keras_home() / "models"
    path = folder / IMAGENET_FILE
    if path.is_file() and _digest(path, "md5") == IMAGENET_MD5:
        return path
    state = "are damaged" if path.is_file() else "are not on this machine"
    keras = load_keras()
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT):
            found = keras.utils.get_file(
                IMAGENET_FILE,
                IMAGENET_ADDRESS,
                cache_dir=str(_keras_home()),
                cache_subdir="models",
                file_hash=IMAGENET_MD5,
            )
    # Keras turns whatever the network did into a bare Exception.
    except Exception as error:
        raise WeightsError(
            f"ImageNet weights {state} and could not be downloaded ({_one_line(error)}): fetch {IMAGENET_ADDRESS} "
            f"and put it into {folder}, or give the path of a weights file as `weights`"
        ) from error
    return Path(found)


def build_backbone(backbone: BackboneConfiguration) -> Any:
    """Return the frozen backbone: (films, size, size, 3) in [−1, 1] to the output of the named layer.

    Weights are loaded into the whole no-top InceptionV3, then it is cut at the layer: a file holds the whole of it.
    Layers carry the names they have in the first model that a process builds (``conv2d``, ``conv2d_1``, …, ``mixed0``
    to ``mixed10``), however many were built before.

    Raises:
        WeightsError: no such layer, a layer that is not an image, or weights that are missing or do not fit.
    """
    keras = load_keras()
    whole = _inception(backbone.image_size)
    layers = _layers_by_name(whole)
    if backbone.output not in layers:
        mixed = ", ".join(f"mixed{i}" for i in range(11))
        raise WeightsError(
            f"InceptionV3 has no layer {backbone.output!r}: the usual outputs are {mixed}; every other name is in "
            "`keras.applications.InceptionV3(include_top=False, weights=None).summary()`"
        )
    layer = layers[backbone.output]
    if layer is whole.layers[0]:
        raise WeightsError(f"the layer {backbone.output!r} is the input: there are no features to take there")
    if backbone.weights == "random":
        _randomise(layers, backbone.weights_seed)
    else:
        path = _weights_file(backbone)
        _inspect(path)
        _load(whole, path)
    cut = keras.Model(whole.inputs, layer.output)
    cut.trainable = False
    return cut


def check_weights(path: Path) -> WeightsReport:
    """Say what a weights file holds, if it fits the backbone.

    Raises:
        WeightsError: it does not fit, with the reason.
    """
    _inspect(path)
    model = _inception(299)
    _load(model, path)
    loaded = _kernels(_layers_by_name(model))
    random = _random_kernels([kernel.shape for kernel in loaded], seed=0)
    changes = sum(float(np.abs(a - b).sum(dtype=np.float64)) for a, b in zip(loaded, random, strict=True))
    flat = np.concatenate([kernel.ravel() for kernel in loaded])
    return WeightsReport(
        path=path,
        sha256=_digest(path, "sha256"),
        layout=_layout(path),
        layers=sum(1 for layer in model.layers if layer.weights),
        parameters=int(model.count_params()),
        mean_change=changes / flat.size,
        kernel_deviation=float(flat.std(dtype=np.float64)),
    )


def _keras_home() -> Path:
    """Return the folder that Keras keeps its downloads in, by Keras's own rule."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"])
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else tempfile.gettempdir()) / ".keras"


def _weights_file(backbone: BackboneConfiguration) -> Path:
    if backbone.weights == "imagenet":
        return imagenet_file()
    path = Path(backbone.weights)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    return path


def _digest(path: Path, algorithm: str) -> str:
    """Return the checksum of a file, computed once as long as the file stays as it is."""
    status = path.stat()
    return _digest_of_version(path, algorithm, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _digest_of_version(path: Path, algorithm: str, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Bound every wait for the network, for Keras's download has no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _inception(size: int) -> Any:
    keras = load_keras()
    # Weights files hold no image size; only the layers' shapes, which depend on the three channels, must agree.
    return keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(size, size, CHANNELS), name="inception_v3"
    )


def _layers_by_name(model: Any) -> dict[str, Any]:
    """Return the layers in order of creation, by the names they would have in the first model of a process.

    Keras numbers unnamed layers through a counter of the process; within one model the numbers still tell the order.
    Only the ``mixed`` layers are named by InceptionV3 itself.
    """
    named: dict[str, Any] = {}
    unnamed: dict[str, list[tuple[int, Any]]] = {}
    for layer in model.layers:
        found = re.fullmatch(r"(.+?)(?:_(\d+))?", layer.name)
        if layer.name.startswith("mixed") or found is None:
            named[layer.name] = layer
        else:
            unnamed.setdefault(found[1], []).append((int(found[2] or 0), layer))
    for kind, layers in unnamed.items():
        for position, (_, layer) in enumerate(sorted(layers, key=lambda numbered: numbered[0])):
            named[f"{kind}_{position}" if position else kind] = layer
    return named


def _convolutions(layers: dict[str, Any]) -> list[Any]:
    """Return the convolutions in order of creation."""
    return [layer for layer in layers.values() if type(layer).__name__ == "Conv2D"]


def _kernels(layers: dict[str, Any]) -> list[np.ndarray]:
    return [np.asarray(layer.kernel) for layer in _convolutions(layers)]


def _random_kernels(shapes: list[tuple[int, ...]], seed: int) -> list[np.ndarray]:
    """Return kernels of deviation √(2/fan-in) (He et al. 2015, arXiv:1502.01852), the same on every device.

    Args:
        shapes: (height, width, channels in, channels out) of each, in order of creation.
        seed: of NumPy's generator, which no version of Keras changes.
    """
    generator = np.random.default_rng(seed)
    deviations = [np.float32(np.sqrt(2.0 / np.prod(shape[:-1]))) for shape in shapes]
    return [
        generator.standard_normal(shape, dtype=np.float32) * deviation
        for shape, deviation in zip(shapes, deviations, strict=True)
    ]


def _randomise(layers: dict[str, Any], seed: int) -> None:
    """Draw the convolutions; batch normalisations are created as the identity and stay so."""
    convolutions = _convolutions(layers)
    kernels = _random_kernels([tuple(layer.kernel.shape) for layer in convolutions], seed)
    for layer, kernel in zip(convolutions, kernels, strict=True):
        layer.kernel.assign(kernel)


def _load(model: Any, path: Path) -> None:
    """Load a file that `_inspect` passed into the whole backbone, and make sure that it filled all of it.

    Raises:
        WeightsError: it did not.
    """
    for variable in model.weights:
        variable.assign(np.full(variable.shape, np.nan, dtype=np.float32))
    try:
        with warnings.catch_warnings():
            # Keras warns of what it leaves unfilled, among much else; here that is counted.
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(str(path))
    # Whatever a strange file makes h5py or Keras raise, the answer is that it does not fit.
    except Exception as error:
        raise WeightsError(f"{path.name} {MISFIT}: {_one_line(error)}") from error
    unfilled = [v.path for v in model.weights if not np.isfinite(np.asarray(v)).all()]
    if unfilled:
        raise WeightsError(
            f"{path.name} {MISFIT}: {len(unfilled)} of its {len(model.weights)} arrays are missing from the file or "
            f"not finite, such as {unfilled[0]}"
        )


def _inspect(path: Path) -> None:
    """Refuse a file that plainly does not fit, with a better reason than Keras would give, and sooner.

    Raises:
        WeightsError: it does not.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    if not path.name.endswith(SUFFIXES):
        raise WeightsError(f"{path.name} is not a weights file: its name must end in {', '.join(SUFFIXES)}")
    reason = _unfit(path)
    if reason:
        raise WeightsError(f"{path.name} {MISFIT}: {reason}")


def _unfit(path: Path) -> str | None:
    """Say what is plainly wrong with a file, better than Keras would, or None."""
    try:
        names = _in_file(path, _array_names)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        return f"it cannot be read, or was cut off on its way ({_one_line(error)})"
    if not names:
        return "it holds no weights"
    legacy = not any("layers/" in name for name in names)
    if path.name.endswith(".weights.h5") and legacy:
        return "it has the older layout: rename it to end in .h5 only"
    if path.suffix in (".h5", ".hdf5") and not path.name.endswith(".weights.h5") and not legacy:
        return "it has the newer layout: rename it to end in .weights.h5"
    if any(re.search(r"(^|/)(dense|predictions|logits)[^/]*/", name) for name in names):
        return "it has a classifier on top: save the model without it (include_top=False)"
    if any(name.count("layers/") > 1 or re.search(r"(^|/)inception_v3[^/]*/", name) for name in names):
        return "its InceptionV3 is nested in another model: save the inner model's weights alone"
    return None


def _in_file(path: Path, question: Callable[[Any], Any]) -> Any:
    """Return ``question`` asked of the HDF5 file that ``path`` is, or that lies in it."""
    import h5py

    if path.suffix != ".keras":
        with h5py.File(path, "r") as file:
            return question(file)
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member, h5py.File(member, "r") as file:
        return question(file)


def _array_names(file: Any) -> list[str]:
    """Return the names of a model's arrays (not of its optimizer's)."""
    names: list[str] = []
    file.visititems(lambda name, found: names.append(name) if hasattr(found, "shape") else None)
    return [name for name in names if not name.startswith("optimizer")]


def _layout(path: Path) -> str:
    if path.suffix == ".keras":
        return "Keras 3 archive"
    if path.name.endswith(".weights.h5"):
        return "Keras 3 weights"
    whole = _in_file(path, lambda file: "model_weights" in file)
    return "HDF5 of a whole model" if whole else "HDF5 of weights"


def _one_line(error: BaseException) -> str:
    """Return the start of an error's text, fit to stand in a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 200 else text[:200] + "…"
