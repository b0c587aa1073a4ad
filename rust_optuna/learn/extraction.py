"""Films to features: the only place where the backbone runs.

Cached and live training both call `Extractor.extract`. It always uses micro-batches of the same size, only those of
their slots that round alike, and one thread per micro-batch. So a film has the same features to the bit whatever films
stand beside it and however many micro-batches are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import BoundedSemaphore
from typing import Any, cast

import numpy as np

from rust_optuna.config import KEYS, BackboneConfiguration
from rust_optuna.data.radiographs import Resize, read_radiograph
from rust_optuna.errors import DataError, FilmError
from rust_optuna.learn.backbone import build_backbone
from rust_optuna.learn.runtime import load_keras, load_tensorflow, minor_versions, side_by_side_threads
from rust_optuna.learn.weights import weights_identity
from rust_optuna.machine import memory_available

MICRO_BATCH = 16
"""The number of films in one run of the backbone; the last run is padded. It is never the training batch. Rounding
depends on it, so a change also raises `PREPROCESSING_VERSION`."""

PREPROCESSING_VERSION = 5
"""The version of the way from a film's bytes to its features. Raise it with every change that may change features."""

LIBRARIES = ("tensorflow", "keras", "numpy", "pillow")
"""The libraries that features depend on: Pillow decodes and resizes, NumPy draws random weights."""

BYTES_A_PIXEL = 300
"""The memory of a micro-batch while it is computed, in bytes per pixel of its films: 250 were measured at 299 × 299."""

HORIZONTAL, VERTICAL = 1, 2
FLIPS = 4
"""The number of flip variants of a film: 0 for the unflipped film, `HORIZONTAL`, `VERTICAL`, or their sum."""


def extraction_identity(backbone: BackboneConfiguration) -> dict[str, str | int]:
    """Return every setting that determines a study's features.

    Features are equal to the bit if this and `extraction_versions` are equal and the kind of arithmetic is the same
    (`rust_optuna.learn.arithmetic`).

    Raises:
        WeightsError: the weights are missing.
    """
    identity: dict[str, str | int] = {
        "weights": weights_identity(backbone),
        "output": backbone.output,
        "pooling": backbone.pooling,
        "image_size": backbone.image_size,
        "resize": backbone.resize,
        "precision": backbone.extraction_precision,
    }
    # The default is left out, so that features from before this setting existed keep their identity.
    return identity if backbone.bits == KEYS["bits"].default else {**identity, "bits": backbone.bits}


def extraction_versions() -> dict[str, str | int]:
    """Return the versions that features depend on: ours and the libraries'."""
    return {"preprocessing": PREPROCESSING_VERSION, **minor_versions(*LIBRARIES)}


class Extractor:
    """The frozen backbone with its global pooling, compiled once.

    Args:
        backbone: the backbone's configuration.

    Attributes:
        model: the backbone as a Keras model, before pooling; changing its weights no longer changes the features.
        width: the number of features of a film.
        slots: the number of slots of a micro-batch that are used, see `_equal_slots`.
        threads: the number of micro-batches computed at once: one per core, as far as memory allows, or one on a GPU.
            Any number gives the same bits.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        WeightsError: the weights are missing or do not fit, or there is no such layer.
    """

    def __init__(self, backbone: BackboneConfiguration) -> None:
        self.backbone = backbone
        self.model = build_backbone(backbone)
        self.width = int(self.model.output.shape[-1])
        self._run = _compile(self.model, backbone)
        self.slots = self._equal_slots()
        self.threads = max(1, min(side_by_side_threads(), memory_available() // micro_batch_bytes(backbone)))
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="extraction")
        # Folds that train on live features call from threads of their own.
        self._at_once = BoundedSemaphore(self.threads)

    def extract(
        self, images: np.ndarray, flips: np.ndarray, on_done: Callable[[int], None] = lambda done: None
    ) -> np.ndarray:
        """Return the features of films, each with its flip. Any number of threads may call it at once.

        Args:
            images: (films, size, size) float32 in [−1, 1].
            flips: (films,) integers from 0 to 3; bit 0 mirrors left and right, bit 1 top and bottom.
            on_done: called in the calling thread after each micro-batch, with the number of films done. An exception it
                raises ends the extraction.

        Returns:
            (films, width) float32.

        Raises:
            ValueError: the images have another shape, or a flip is not from 0 to 3.
        """
        size = self.backbone.image_size
        if images.shape != (len(flips), size, size):
            raise ValueError(f"the images have the shape {images.shape}, not ({len(flips)}, {size}, {size})")
        if len(flips) and not 0 <= min(flips) <= max(flips) < FLIPS:
            raise ValueError("a flip is not from 0 to 3")
        return self._extract(images, np.arange(len(images)), np.asarray(flips), on_done)

    def _extract(
        self, images: np.ndarray, rows: np.ndarray, flips: np.ndarray, on_done: Callable[[int], None]
    ) -> np.ndarray:
        """Return the features of the images in these rows, of which some may occur several times."""
        features = np.empty((len(rows), self.width), dtype=np.float32)

        def micro_batch(part: slice) -> int:
            features[part] = self._micro_batch(images[rows[part]], flips[part])
            return len(rows[part])

        parts = [slice(start, start + self.slots) for start in range(0, len(rows), self.slots)]
        done = 0
        if self.threads == 1 or len(parts) < 2:
            for part in parts:
                done += micro_batch(part)
                on_done(done)
            return features
        runs = [self._pool.submit(micro_batch, part) for part in parts]
        try:
            for run in as_completed(runs):
                done += run.result()
                on_done(done)
        finally:
            for run in runs:
                run.cancel()
        return features

    def _micro_batch(self, images: np.ndarray, flips: np.ndarray) -> np.ndarray:
        """Return the features of at most `MICRO_BATCH` films; unused slots stay black."""
        films, size = len(images), self.backbone.image_size
        padded = np.zeros((MICRO_BATCH, size, size), dtype=np.float32)
        padded[:films] = images
        variants = np.zeros(MICRO_BATCH, dtype=np.int32)
        variants[:films] = flips
        with self._at_once:
            features: np.ndarray = self._run(padded, variants).numpy()[:films]
        return features

    def _equal_slots(self) -> int:
        """Return how many of a micro-batch's slots, from the first, give a film the same features to the bit.

        With oneDNN's kernels all slots do. With AVX2 and without those kernels, the last slot goes through another
        kernel (a matrix product's remainder) that rounds differently; such a slot is left empty. This is measured, not
        assumed, with one micro-batch that repeats one image of noise.
        """
        size = self.backbone.image_size
        noise = np.random.default_rng(0).uniform(-1, 1, (size, size)).astype(np.float32)
        features = self._run(np.repeat(noise[np.newaxis], MICRO_BATCH, axis=0), np.zeros(MICRO_BATCH, np.int32)).numpy()
        equal = (features == features[0]).all(axis=1)
        return MICRO_BATCH if equal.all() else int(np.argmin(equal))

    def extract_all_flips(self, images: np.ndarray, on_done: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """Return the features of films in each of their four flips.

        Args:
            images: (films, size, size) float32 in [−1, 1].
            on_done: called after each micro-batch with the approximate number of films done; see `extract`.

        Returns:
            (films, 4, width) float32.
        """
        rows, flips = np.repeat(np.arange(len(images)), FLIPS), np.tile(np.arange(FLIPS), len(images))
        features = self._extract(images, rows, flips, lambda done: on_done(done // FLIPS))
        return features.reshape(len(images), FLIPS, self.width)


def micro_batch_bytes(backbone: BackboneConfiguration) -> int:
    """Return the approximate memory of a micro-batch while it is computed, in bytes."""
    return MICRO_BATCH * backbone.image_size**2 * BYTES_A_PIXEL


def read_film(backbone: BackboneConfiguration, content: str, read: Callable[[str], bytes]) -> np.ndarray:
    """Return a film in the form that the backbone takes: (size, size) float32 in [−1, 1].

    Args:
        backbone: the configuration, which determines how films are resized.
        content: the film's content hash.
        read: a function that returns a film's bytes.

    Raises:
        FilmError: the film cannot be read.
    """
    encoded = read(content)
    try:
        resize = cast(Resize, backbone.resize)
        return read_radiograph(encoded, size=backbone.image_size, resize=resize, bits=backbone.bits)
    except DataError as error:
        raise FilmError(content, str(error).removeprefix("the image: ")) from error


def flipped(images: Any, flips: Any) -> Any:
    """Return films, each with its flip.

    Args:
        images: (films, size, size) tensor.
        flips: (films,) int32 tensor; bit 0 mirrors left and right, bit 1 top and bottom.
    """
    tf = load_tensorflow()
    for bit, axis in ((HORIZONTAL, 2), (VERTICAL, 1)):
        mirrored = tf.bitwise.bitwise_and(flips, bit) > 0
        images = tf.where(mirrored[:, tf.newaxis, tf.newaxis], tf.reverse(images, [axis]), images)
    return images


def _compile(model: Any, backbone: BackboneConfiguration) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Return the function from one micro-batch of grey films and flips to features.

    The weights become constants of the graph. TensorFlow then multiplies each batch normalisation into its convolution
    once, instead of passing over the activations of each film, which is 7 to 10% faster.
    """
    tf, keras = load_tensorflow(), load_keras()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    pool = keras.ops.max if backbone.pooling == "max" else keras.ops.mean

    def run(images: Any, flips: Any) -> Any:
        colours = tf.repeat(flipped(images, flips)[..., tf.newaxis], 3, axis=-1)
        return tf.cast(pool(model(colours, training=False), axis=(1, 2)), tf.float32)

    # XLA is not used: on a processor it is slower than the plain kernels (14 films a second against 18).
    signature = [
        tf.TensorSpec([MICRO_BATCH, backbone.image_size, backbone.image_size], tf.float32),
        tf.TensorSpec([MICRO_BATCH], tf.int32),
    ]
    compiled = tf.function(run, input_signature=signature, jit_compile=False)
    frozen = convert_variables_to_constants_v2(compiled.get_concrete_function())
    return lambda images, flips: frozen(tf.constant(images), tf.constant(flips))[0]
