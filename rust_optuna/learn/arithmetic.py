"""The kind of arithmetic, which explains why machines that run the same program get slightly different results.

The rounding of a sum depends on the order in which a kernel adds, and that depends on the instruction set or the GPU.
So features and trials have the same bits on machines of one kind, and differ in the last digits (by about 1e-6 of full
scale) between kinds. A fleet may mix kinds; every result names its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.learn.runtime import first_gpu, load_tensorflow, versions
from rust_optuna.machine import bfloat16_units, instruction_set, processor
from rust_optuna.paths import atomic_write

MEMORY = "arithmetic.json"
"""A file in the features' folder with the kinds of the processors that have used it, for a start without TensorFlow."""

CONVOLUTIONS = ((35, 64, 96, 3, 3), (17, 192, 192, 1, 7), (8, 1280, 320, 1, 1))
"""Some convolutions of InceptionV3: side of the map, channels in and out, height and width of the kernel."""
PRODUCTS = ((2048, 1024), (1024, 512), (512, 256), (256, 18))
"""The matrix products of the head: units in and out."""
ROWS = 16


@functools.cache
def arithmetic(precision: str) -> str:
    """Return this process's kind of arithmetic: the instruction set or the GPU, and a hash of how it rounds.

    The hash is that of a few convolutions and matrix products of fixed noise, so two processors of the same name are
    of one kind if and only if they round these alike. TensorFlow is loaded.

    Args:
        precision: the precision of the products, ``float32`` or ``bfloat16``.

    Returns:
        A text such as ``AVX-512 3f2a91c0`` or ``NVIDIA H100 80GB HBM3 77b01e5d``.
    """
    return f"{first_gpu() or instruction_set()} {_rounding(precision)}"


def remembered_arithmetic(folder: Path, precision: str) -> str | None:
    """Return the result of `arithmetic` for this machine's processor, without TensorFlow; None if it is not known yet.

    Args:
        folder: the features' folder.
        precision: the precision of the products.
    """
    return _read(folder).get(_signature(precision))


def remember_arithmetic(folder: Path, precision: str) -> None:
    """Note this processor's kind in the features' folder for `remembered_arithmetic`; on a GPU, do nothing.

    A folder that is not writable is ignored, because the note only saves the next command some time.
    """
    if first_gpu() is None and remembered_arithmetic(folder, precision) != arithmetic(precision):
        kinds = _read(folder) | {_signature(precision): arithmetic(precision)}
        # A process that writes at the same time may overwrite this note; then it is made again.
        with suppress(OSError), atomic_write(folder / MEMORY) as temporary:
            temporary.write_text(json.dumps(kinds, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _signature(precision: str) -> str:
    """Return what a processor's kind depends on, as far as that is known without computing."""
    parts = [processor(), instruction_set(), *bfloat16_units(), f"TensorFlow {versions().get('tensorflow')}", precision]
    return "; ".join(parts)


def _read(folder: Path) -> dict[str, str]:
    try:
        kinds = json.loads((folder / MEMORY).read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(kind) for name, kind in kinds.items()} if isinstance(kinds, dict) else {}


def _rounding(precision: str) -> str:
    """Return eight hex digits of a hash of fixed sums, computed in the ways of the backbone and the head."""
    tf = load_tensorflow()
    generator = np.random.default_rng(0)

    def noise(*shape: int) -> Any:
        return tf.cast(tf.constant(generator.standard_normal(shape, dtype=np.float32)), precision)

    maps = [noise(ROWS, side, side, channels) for side, channels, *_ in CONVOLUTIONS]
    kernels = [noise(height, width, channels, units) for _, channels, units, height, width in CONVOLUTIONS]
    rows = noise(8 * ROWS, PRODUCTS[0][0])
    layers = [noise(*shape) for shape in PRODUCTS]

    def compute(maps: Any, kernels: Any, rows: Any, layers: Any) -> Any:
        results = [
            tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(map_, kernel, 1, "SAME")), axis=(1, 2))
            for map_, kernel in zip(maps, kernels, strict=True)
        ]
        for layer in layers:
            product = tf.matmul(rows, layer)
            results += [
                product,
                tf.matmul(rows, product, transpose_a=True),
                tf.matmul(product, layer, transpose_b=True),
            ]
            rows = tf.nn.relu(product) / 32
        return [tf.cast(result, tf.float32) for result in results]

    digest = hashlib.sha256()
    for result in tf.function(compute, jit_compile=False, autograph=False)(maps, kernels, rows, layers):
        digest.update(result.numpy().tobytes())
    return digest.hexdigest()[:8]
