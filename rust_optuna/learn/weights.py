"""The weights of the backbone: their identity, their file, and whether a file fits."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import socket
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import BackboneConfiguration, TrialConfiguration
from rust_optuna.errors import MissingWeightsError, WeightsError
from rust_optuna.learn.runtime import keras_home, load_keras
from rust_optuna.spelling import nearest

IMAGENET_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_ADDRESS = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{IMAGENET_FILE}"
IMAGENET_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"
"""The address and checksum from ``keras.applications.inception_v3``."""

NAMED = ("imagenet", "random")
"""The values that `weights` may have besides the path of a file."""
RANDOM_WEIGHTS = "random-he-normal-1"
LENET_WEIGHTS = "lenet-1998-glorot-uniform-1"
SUFFIXES = (".weights.h5", ".h5", ".hdf5", ".keras")
DOWNLOAD_TIMEOUT = 30.0
MISFIT = "does not fit InceptionV3 without its top"


def weights_identity(backbone: BackboneConfiguration) -> str:
    """Return the identity of the weights, whatever the file's name: ``sha256:…`` of its bytes, or scheme and seed.

    TensorFlow is loaded only if ImageNet weights must be downloaded first.

    Raises:
        WeightsError: the file is missing, or the ImageNet weights could not be downloaded.
    """
    if backbone.weights == "random":
        return f"{RANDOM_WEIGHTS}:{backbone.weights_seed}"
    return f"sha256:{digest(weights_file(backbone), 'sha256')}"


def weights_scheme(backbone: BackboneConfiguration) -> str:
    """Return `weights_identity` without the seed of random weights, which is a setting like any other.

    Raises:
        WeightsError: as `weights_identity`.
    """
    return RANDOM_WEIGHTS if backbone.weights == "random" else weights_identity(backbone)


def trial_weights_identity(trial: TrialConfiguration) -> str:
    """Return the identity of the weights that a trial starts from, see `weights_identity`.

    Random weights that are trained are drawn from each fold's seed, which their identity does not name.

    Raises:
        WeightsError: as `weights_identity`.
    """
    return trial_weights_scheme(trial) if trial.end_to_end else weights_identity(trial.backbone)


def trial_weights_scheme(trial: TrialConfiguration) -> str:
    """Return `trial_weights_identity` without the seed of random weights.

    Raises:
        WeightsError: as `weights_identity`.
    """
    return LENET_WEIGHTS if trial.architecture == "lenet_1998" else weights_scheme(trial.backbone)


def imagenet_file() -> Path:
    """Return Keras's own copy of the ImageNet weights, which Keras downloads if it is missing.

    Raises:
        WeightsError: the file is missing or damaged, and could not be downloaded.
    """
    folder = keras_home() / "models"
    path = folder / IMAGENET_FILE
    if path.is_file() and digest(path, "md5") == IMAGENET_MD5:
        return path
    state = "are damaged" if path.is_file() else "are not on this machine"
    keras = load_keras()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Keras draws its progress bar on the standard output, which is reserved for a command's result.
        with _socket_timeout(DOWNLOAD_TIMEOUT), redirect_stdout(sys.stderr):
            downloaded = keras.utils.get_file(
                IMAGENET_FILE,
                IMAGENET_ADDRESS,
                cache_dir=str(keras_home()),
                cache_subdir="models",
                file_hash=IMAGENET_MD5,
            )
    # Keras turns every network error into a bare Exception.
    except Exception as error:
        raise WeightsError(
            f"The ImageNet weights {state} and could not be downloaded ({_network_reason(error)}). Download "
            f"{IMAGENET_ADDRESS} into {folder}, or use another file: set `weights` under [model] in the study file to "
            "its path"
        ) from error
    return Path(downloaded)


def weights_file(backbone: BackboneConfiguration) -> Path:
    """Return the file with a backbone's weights, which must not be random.

    Raises:
        WeightsError: the file does not exist, or the ImageNet weights could not be downloaded.
    """
    if backbone.weights == "imagenet":
        return imagenet_file()
    path = Path(backbone.weights)
    if not path.is_file():
        raise MissingWeightsError(f"There is no weights file {path}{meant(path.name)}")
    return path


def meant(name: str) -> str:
    """Return a hint, in brackets, at the named weights that ``name`` probably means, or an empty string."""
    near = nearest(name, NAMED)
    return f" (is {near} meant?)" if near else ""


def inspect_weights(path: Path) -> None:
    """Refuse a file that plainly does not fit, sooner and with a better reason than Keras would give.

    Raises:
        WeightsError: the file does not fit.
    """
    if not path.is_file():
        raise MissingWeightsError(f"There is no weights file {path}{meant(path.name)}")
    if not path.name.endswith(SUFFIXES):
        raise WeightsError(f"{path.name} is not a weights file: its name must end in {', '.join(SUFFIXES)}")
    reason = _unfit(path)
    if reason:
        raise WeightsError(f"{path.name} {MISFIT}: {reason}")


def load_weights(model: Any, path: Path) -> None:
    """Load a file that `inspect_weights` accepted into the whole backbone, and check that it fills all arrays.

    Raises:
        WeightsError: the file cannot be loaded, or does not fill all arrays.
    """
    for variable in model.weights:
        variable.assign(np.full(tuple(variable.shape), np.nan, dtype=np.float32))
    try:
        with warnings.catch_warnings():
            # Keras warns about unfilled arrays, among much else; they are counted below.
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(str(path))
    # Whatever error h5py or Keras raises on a strange file, the file does not fit.
    except Exception as error:
        raise WeightsError(f"{path.name} {MISFIT}: {_one_line(error)}") from error
    unfilled = [v.path for v in model.weights if not np.isfinite(v.numpy()).all()]
    if unfilled:
        raise WeightsError(
            f"{path.name} {MISFIT}: {len(unfilled)} of its {len(model.weights)} arrays are missing from the file or "
            f"not finite, such as {unfilled[0]}"
        )


def weights_layout(path: Path) -> str:
    """Return a description of the layout of a file that fits."""
    if path.suffix == ".keras":
        return "Keras 3 archive"
    if path.name.endswith(".weights.h5"):
        return "Keras 3 weights"
    whole = _in_file(path, lambda file: "model_weights" in file)
    return "HDF5 of a whole model" if whole else "HDF5 of weights"


def digest(path: Path, algorithm: str) -> str:
    """Return the checksum of a file, which is computed again only when the file changes."""
    status = path.stat()
    return _digest_of_version(path, algorithm, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _digest_of_version(path: Path, algorithm: str, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Limit every wait for the network, because Keras's download has no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unfit(path: Path) -> str | None:
    """Return a plain reason why a file does not fit, or None."""
    try:
        names = _in_file(path, _array_names)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        return f"it cannot be read or is incomplete ({_one_line(error)})"
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
    """Return ``question`` of the HDF5 file at ``path``, or of the one inside that archive."""
    import h5py

    if path.suffix != ".keras":
        with h5py.File(path, "r") as file:
            return question(file)
    # Read as a whole, because seeking backwards in a compressed file means reading it from the start again.
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r") as file:
        return question(file)


def _array_names(file: Any) -> list[str]:
    """Return the names of a model's arrays, without those of its optimizer."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return [name for name in names if not name.startswith("optimizer")]


def _network_reason(error: BaseException) -> str:
    """Return why a download failed, without the address and numbers that Keras adds to the reason."""
    # Keras raises "URL fetch failure on ADDRESS: None -- [Errno -2] Name or service not known".
    text = str(error).removeprefix(f"URL fetch failure on {IMAGENET_ADDRESS}: ")
    return _one_line(re.sub(r"^None -- (\[Errno -?\d+\] )?", "", text))


def _one_line(error: BaseException | str) -> str:
    """Return the start of an error's text in one line, for use within a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 200 else text[:200] + "…"
