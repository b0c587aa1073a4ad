"""The only way to TensorFlow and Keras: they are loaded at first use and set up once, alike in every process.

Importing a module of this layer loads neither, so commands that only read start fast and work without TensorFlow.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rust_optuna.errors import MissingExtraError, RustOptunaError
from rust_optuna.machine import cores, processor

NUMERICS_VERSION = 3
"""The version of the arithmetic. Raise it with every change that may change a study's values; fingerprints hold it."""

PACKAGES = ("rust_optuna", "optuna", "numpy", "pillow", "keras", "tensorflow")

KERNEL_THREADS = 1
"""The number of threads that compute one operation on a processor. A sum that is divided among several threads is
rounded differently, so this is a constant of the numerics, not of the machine. Several cores compute several
operations."""


@functools.cache
def load_tensorflow() -> Any:
    """Return the module ``tensorflow``, imported and set up.

    Every setting that decides how sums are rounded is made here, alike in every process, whatever the environment says.
    An operation runs on `KERNEL_THREADS` threads, by oneDNN's kernels where there are any. (TensorFlow itself leaves
    them out on processors without AVX-512, where they are a quarter faster and round alike wherever in a batch a film
    stands.) As many operations run at once as there are cores (`rust_optuna.machine.cores`).

    GPUs allocate memory as they need it, so that several workers can share one. They compute deterministically and in
    real float32 (not TensorFloat-32, whose products have 10 bits). ``CUDA_VISIBLE_DEVICES`` selects the GPUs; the
    process that starts this one sets it.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        RustOptunaError: TensorFlow has computed something in this process already, with other settings.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("TensorFlow", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # TensorFlow's own copy of Keras would create a folder named ~ for a user without a home folder.
    os.environ["KERAS_HOME"] = str(keras_home())
    with _without_chatter(), _without_garbage_collection(), _without_scikit_learn():
        import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(KERNEL_THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(cores())
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise RustOptunaError(
            f"TensorFlow was used in this process before rust_optuna could set it up ({error}): start a new process"
        ) from error
    if gpus:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.config.experimental.enable_op_determinism()
    return tf


@functools.cache
def load_keras() -> Any:
    """Return the module ``keras`` on its TensorFlow backend.

    Raises:
        MissingExtraError: TensorFlow or Keras is not installed.
    """
    load_tensorflow()
    if importlib.util.find_spec("keras") is None:
        raise MissingExtraError("Keras", "cpu")
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError("keras was imported with another backend before rust_optuna.learn")
    return keras


def keras_home() -> Path:
    """Return the folder in which Keras keeps its settings and downloads.

    That is ``KERAS_HOME``, else ``.keras`` in the user's home folder. If there is no home folder, or it is not
    writable, it is ``.keras`` in the folder for temporary files.
    """
    chosen = os.environ.get("KERAS_HOME")
    folder = Path(os.path.expanduser(chosen or "~/.keras"))
    if folder.parts[0] == "~" or not (chosen or os.access(folder.parent, os.W_OK)):
        return Path(tempfile.gettempdir()) / ".keras"
    return folder.absolute()


def describe_device() -> str:
    """Return the name of the device that trains here: the first GPU, else the processor."""
    return first_gpu() or f"CPU: {processor()}"


def first_gpu() -> str | None:
    """Return the name of the GPU that computes here, or None if the processor does."""
    tf = load_tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")) if gpus else None


def side_by_side_threads() -> int:
    """Return how many Python threads keep this process's cores busy, each with operations of its own.

    On a GPU it is one, because a GPU computes one operation after the other.
    """
    return 1 if first_gpu() else cores()


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the processor or the device had no memory left.

    TensorFlow's errors are recognised by name, so that TensorFlow is not loaded to look at other errors.
    """
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("tensorflow")}
    if "InternalError" in names:
        # Copies to the device and CUDA's own libraries report it only in the message.
        return re.search(r"out.of.memory|Dst tensor is not initialized", str(error), re.IGNORECASE) is not None
    if "AbortedError" in names:
        # Status 1 is oneDNN's own dnnl_out_of_memory.
        return re.search(r"received an exception: ?Status: 1,", str(error)) is not None
    return isinstance(error, MemoryError) or "ResourceExhaustedError" in names


def free_memory() -> None:
    """Free what a failed trial left behind: objects that refer to each other, Keras's graphs, cached kernels.

    The error itself must be gone before, because its traceback holds the trial's tensors.
    """
    if "keras" in sys.modules:
        load_keras().utils.clear_session(free_memory=False)
    gc.collect()


def versions() -> dict[str, str]:
    """Return the installed versions of Python and `PACKAGES`, without importing any package."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        # tensorflow-cpu is the same software under another name.
        for name in (package, f"{package}-cpu"):
            try:
                installed[package] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            break
    return installed


def minor_versions(*packages: str) -> dict[str, str]:
    """Return the major and minor versions of the installed packages among these: numerical results depend on them."""
    installed = versions()
    return {name: ".".join(installed[name].split(".")[:2]) for name in packages if name in installed}


def training_versions() -> dict[str, str | int]:
    """Return the versions that training depends on: ours and the libraries' (NumPy draws weights and orders)."""
    return {"numerics": NUMERICS_VERSION, **minor_versions("tensorflow", "keras", "numpy")}


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: an import makes little, and the search for it takes a quarter of TensorFlow's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _without_scikit_learn() -> Iterator[None]:
    """Let Keras not find scikit-learn, which it loads with SciPy for wrappers that nothing here uses.

    That would be a fifth of TensorFlow's import, in every process and wherever scikit-learn happens to be installed.
    """
    if "sklearn" in sys.modules:
        yield
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["sklearn"]


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Drop the messages of level INFO that TensorFlow's libraries write while they load, which no setting turns off.

    They write to the file descriptor itself. All other output that arrives there meanwhile is written afterwards.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with tempfile.TemporaryFile() as output:
            os.dup2(output.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(stderr, 2)
                output.seek(0)
                for line in output:
                    if not re.match(rb"I\d{4} |WARNING: All log messages before absl", line):
                        os.write(2, line)
    finally:
        os.close(stderr)
