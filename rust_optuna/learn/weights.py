"""Weights of the backbone: what they are, where they lie, and whether a file fits."""

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

from rust_optuna.config import BackboneConfiguration
from rust_optuna.errors import MissingWeightsError, WeightsError
from rust_optuna.learn.runtime import keras_home, load_keras
from rust_optuna.spelling import nearest

IMAGENET_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_ADDRESS = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{IMAGENET_FILE}"
IMAGENET_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"
"""Address and checksum as they stand in ``keras.applications.inception_v3``."""

NAMED = ("imagenet", "random")
"""What `weights` may be besides the path of a file."""
RANDOM_WEIGHTS = "random-he-normal-1"
SUFFIXES = (".weights.h5", ".h5", ".hdf5", ".keras")
DOWNLOAD_TIMEOUT = 30.0
MISFIT = "does not fit InceptionV3 without its top"


def weights_identity(backbone: BackboneConfiguration) -> str:
    """Return what the weights are, whatever the file is called: ``sha256:…`` of its bytes, or the scheme and seed.

    TensorFlow is loaded only if ImageNet weights must be downloaded first.

    Raises:
        WeightsError: the file is missing, or ImageNet weights could not be had.
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


def imagenet_file() -> Path:
    """Return Keras's own copy of the ImageNet weights, downloaded by Keras if it is not there yet.

    Raises:
        WeightsError: the file is absent or damaged, and could not be downloaded.
    """
    folder = keras_home() / "models"
    path = folder / IMAGENET_FILE
    if path.is_file() and digest(path, "md5") == IMAGENET_MD5:
        return path
    state = "are damaged" if path.is_file() else "are not on this machine"
    keras = load_keras()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Keras draws its progress bar on the standard output, where a command's answer goes.
        with _socket_timeout(DOWNLOAD_TIMEOUT), redirect_stdout(sys.stderr):
            found = keras.utils.get_file(
                IMAGENET_FILE,
                IMAGENET_ADDRESS,
                cache_dir=str(keras_home()),
                cache_subdir="models",
                file_hash=IMAGENET_MD5,
            )
    # Keras turns whatever the network did into a bare Exception.
    except Exception as error:
        raise WeightsError(
            f"ImageNet weights {state} and could not be downloaded ({_network_reason(error)}). Fetch "
            f"{IMAGENET_ADDRESS} and put it into {folder}, or name another file: `weights` under [model] in the study "
            "file may be the path of one"
        ) from error
    return Path(found)


def weights_file(backbone: BackboneConfiguration) -> Path:
    """Return the file that a backbone's weights are in, unless they are random.

    Raises:
        WeightsError: there is none, or ImageNet weights could not be had.
    """
    if backbone.weights == "imagenet":
        return imagenet_file()
    path = Path(backbone.weights)
    if not path.is_file():
        raise MissingWeightsError(f"There is no weights file {path}{meant(path.name)}")
    return path


def meant(name: str) -> str:
    """Return, in brackets, the weights that have a name of their own and that ``name`` probably means, or nothing."""
    near = nearest(name, NAMED)
    return f" (is {near} meant?)" if near else ""


def inspect_weights(path: Path) -> None:
    """Refuse a file that plainly does not fit, with a better reason than Keras would give, and sooner.

    Raises:
        WeightsError: it does not.
    """
    if not path.is_file():
        raise MissingWeightsError(f"There is no weights file {path}{meant(path.name)}")
    if not path.name.endswith(SUFFIXES):
        raise WeightsError(f"{path.name} is not a weights file: its name must end in {', '.join(SUFFIXES)}")
    reason = _unfit(path)
    if reason:
        raise WeightsError(f"{path.name} {MISFIT}: {reason}")


def load_weights(model: Any, path: Path) -> None:
    """Load a file that `inspect_weights` passed into the whole backbone, and make sure that it filled all of it.

    Raises:
        WeightsError: it did not.
    """
    for variable in model.weights:
        variable.assign(np.full(tuple(variable.shape), np.nan, dtype=np.float32))
    try:
        with warnings.catch_warnings():
            # Keras warns of what it leaves unfilled, among much else; here that is counted.
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(str(path))
    # Whatever a strange file makes h5py or Keras raise, the answer is that it does not fit.
    except Exception as error:
        raise WeightsError(f"{path.name} {MISFIT}: {_one_line(error)}") from error
    unfilled = [v.path for v in model.weights if not np.isfinite(v.numpy()).all()]
    if unfilled:
        raise WeightsError(
            f"{path.name} {MISFIT}: {len(unfilled)} of its {len(model.weights)} arrays are missing from the file or "
            f"not finite, such as {unfilled[0]}"
        )


def weights_layout(path: Path) -> str:
    """Return how a file that fits is laid out, in words."""
    if path.suffix == ".keras":
        return "Keras 3 archive"
    if path.name.endswith(".weights.h5"):
        return "Keras 3 weights"
    whole = _in_file(path, lambda file: "model_weights" in file)
    return "HDF5 of a whole model" if whole else "HDF5 of weights"


def digest(path: Path, algorithm: str) -> str:
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
    # Read whole: seeking backwards in a compressed file means reading it from the start again.
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r") as file:
        return question(file)


def _array_names(file: Any) -> list[str]:
    """Return the names of a model's arrays (not of its optimizer's)."""
    names: list[str] = []
    file.visititems(lambda name, found: names.append(name) if hasattr(found, "shape") else None)
    return [name for name in names if not name.startswith("optimizer")]


def _network_reason(error: BaseException) -> str:
    """Return why a download failed, without the address and the numbers that Keras puts around the reason."""
    # Keras raises "URL fetch failure on ADDRESS: None -- [Errno -2] Name or service not known".
    text = str(error).removeprefix(f"URL fetch failure on {IMAGENET_ADDRESS}: ")
    return _one_line(re.sub(r"^None -- (\[Errno -?\d+\] )?", "", text))


def _one_line(error: BaseException | str) -> str:
    """Return the start of an error's text, fit to stand in a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 200 else text[:200] + "…"
