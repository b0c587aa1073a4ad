"""The kind of arithmetic: what tells the results of one machine from those of another that runs the same program.

Sums are rounded in the order in which a kernel takes them, and the order is the instruction set's or the GPU's. So
features and trials have the same bits on machines of one kind, and differ in the last digits (by about 1e-6 of full
scale) between kinds. A fleet may mix kinds; every result says which one it is of.
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
"""In the features' folder: the kinds of the processors that have been there, told there without TensorFlow."""

CONVOLUTIONS = ((35, 64, 96, 3, 3), (17, 192, 192, 1, 7), (8, 1280, 320, 1, 1))
"""Some of InceptionV3's: side of the map, channels in and out, height and width of the kernel."""
PRODUCTS = ((2048, 1024), (1024, 512), (512, 256), (256, 18))
"""The head's: units in and out."""
ROWS = 16


@functools.cache
def arithmetic(precision: str) -> str:
    """Return this process's kind of arithmetic: the instruction set or the GPU, and how it rounds.

    How it rounds is told by what a few convolutions and matrix products of fixed noise come to: two processors that
    bear the same name and round otherwise are told apart, and two that round alike are not. TensorFlow is loaded.

    Args:
        precision: of the products, ``float32`` or ``bfloat16``.

    Returns:
        Such as ``AVX-512 3f2a91c0`` or ``NVIDIA H100 80GB HBM3 77b01e5d``.
    """
    return f"{first_gpu() or instruction_set()} {_rounding(precision)}"


def remembered_arithmetic(folder: Path, precision: str) -> str | None:
    """Return what `arithmetic` would on this machine's processor, without TensorFlow; None where it is not known.

    Args:
        folder: the features'.
        precision: of the products.
    """
    return _read(folder).get(_signature(precision))


def remember_arithmetic(folder: Path, precision: str) -> None:
    """Note this processor's kind in the features' folder, for `remembered_arithmetic`; of a GPU nothing is noted.

    Nor where the folder may not be written to: the note only saves the next command time.
    """
    if first_gpu() is None and remembered_arithmetic(folder, precision) != arithmetic(precision):
        kinds = _read(folder) | {_signature(precision): arithmetic(precision)}
        # Whoever writes at the same time may take this note along; then it is made again.
        with suppress(OSError), atomic_write(folder / MEMORY) as temporary:
            temporary.write_text(json.dumps(kinds, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _signature(precision: str) -> str:
    """Return what a processor's kind depends on, as far as it can be told without computing."""
    parts = [processor(), instruction_set(), *bfloat16_units(), f"TensorFlow {versions().get('tensorflow')}", precision]
    return "; ".join(parts)


def _read(folder: Path) -> dict[str, str]:
    try:
        kinds = json.loads((folder / MEMORY).read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(kind) for name, kind in kinds.items()} if isinstance(kinds, dict) else {}


def _rounding(precision: str) -> str:
    """Return eight hex digits of the results of fixed sums, in the forms that the backbone and the head have."""
    tf = load_tensorflow()
    generator = np.random.default_rng(0)

    def noise(*shape: int) -> Any:
        return tf.cast(tf.constant(generator.standard_normal(shape, dtype=np.float32)), precision)

    maps = [noise(ROWS, side, side, channels) for side, channels, *_ in CONVOLUTIONS]
    kernels = [noise(height, width, channels, units) for _, channels, units, height, width in CONVOLUTIONS]
    rows = noise(8 * ROWS, PRODUCTS[0][0])
    layers = [noise(*shape) for shape in PRODUCTS]

    def compute(maps: Any, kernels: Any, rows: Any, layers: Any) -> Any:
        found = [
            tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(map_, kernel, 1, "SAME")), axis=(1, 2))
            for map_, kernel in zip(maps, kernels, strict=True)
        ]
        for layer in layers:
            product = tf.matmul(rows, layer)
            found += [product, tf.matmul(rows, product, transpose_a=True), tf.matmul(product, layer, transpose_b=True)]
            rows = tf.nn.relu(product) / 32
        return [tf.cast(each, tf.float32) for each in found]

    digest = hashlib.sha256()
    for each in tf.function(compute, jit_compile=False, autograph=False)(maps, kernels, rows, layers):
        digest.update(each.numpy().tobytes())
    return digest.hexdigest()[:8]
