"""Image files → arrays: every film grey, upright and on one scale, whatever container it came in.

Read are PNG, JPEG and TIFF. 16-bit grey is scaled by its container's full scale, 65,535: a detector of 12
bits that was saved into 16 without stretching comes out dark, not clipped. Pillow itself reduces 16-bit
*colour* to its high bytes, which neither clips nor stretches.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from rust_optuna.errors import DataError

Resize = Literal["stretch", "pad"]

FORMATS = ("PNG", "JPEG", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Usual names of files of these formats; what a file is, its bytes decide."""
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"MM\0+", b"II+\0")
"""What files of these formats begin with, as Pillow has it: PNG, JPEG, and TIFF in its kinds."""
SIGNATURE_BYTES = max(map(len, SIGNATURES))
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_NO_FULL_SCALE = ("I", "F")
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


@dataclass(frozen=True)
class ImageFacts:
    """What a film's file is and holds.

    Args:
        content: sha256 of the file's bytes, hex.
        pixels: `pixel_hash` of the file.
        width: in pixels, upright.
        height: in pixels, upright.
        mode: Pillow's name of the file's pixel layout.
        bits: per channel, as decoded (Pillow decodes 16-bit colour to 8).
    """

    content: str
    pixels: str
    width: int
    height: int
    mode: str
    bits: int


def read_radiograph(content: bytes | Path, *, size: int, resize: Resize, name: str = "") -> np.ndarray:
    """Read a film as a square grey array.

    Colour becomes luminance (ITU-R 601), alpha is dropped, EXIF orientation applied. Resizing is antialiased:
    a fracture line three pixels wide survives the way from 1,760 to 299. The filter is the triangle: a
    sharper one would ring, and a dark fringe beside bright metal looks like a gap.

    Args:
        content: the file's bytes, or its path.
        size: width and height of the result, in pixels.
        resize: ``"stretch"`` to the square, or ``"pad"``: keep the aspect ratio, centred on black.
        name: what messages call the film where ``content`` is bytes.

    Returns:
        (size, size) float32 in [−1, 1], −1 black.

    Raises:
        DataError: not a whole image of a format and depth that can be read; the message names the file.
    """
    grey, _ = _decode(content, name)
    unit = Image.fromarray(grey.astype(np.float32) / np.iinfo(grey.dtype).max)
    if resize == "stretch":
        width = height = size
    elif resize == "pad":
        scale = size / max(unit.size)
        width, height = (max(1, round(side * scale)) for side in unit.size)
    else:
        raise ValueError(f"resize is 'stretch' or 'pad', not {resize!r}")
    small = np.asarray(unit.resize((width, height), Image.Resampling.BILINEAR))
    square = np.zeros((size, size), dtype=np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = small
    scaled: np.ndarray = np.clip(square * 2 - 1, -1, 1)
    return scaled


def has_signature(begins: bytes) -> bool:
    """Tell by a file's first `SIGNATURE_BYTES` whether it may be of a format that is read."""
    return begins.startswith(SIGNATURES)


def content_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes, hex: a film's identity here.

    Raises:
        DataError: the file cannot be read.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


def pixel_hash(content: bytes | Path, *, name: str = "") -> str:
    """Return a hash of the decoded, upright, grey pixels: the same for one picture in two lossless files.

    Raises:
        DataError: as `read_radiograph`.
    """
    return _hash_pixels(_decode(content, name)[0])


def examine(path: Path) -> ImageFacts:
    """Read a file once and return all there is to know of it.

    Raises:
        DataError: as `read_radiograph`.
    """
    content = read_bytes(path)
    grey, mode = _decode(content, str(path))
    height, width = grey.shape
    bits = 1 if mode == "1" else grey.dtype.itemsize * 8
    return ImageFacts(hashlib.sha256(content).hexdigest(), _hash_pixels(grey), width, height, mode, bits)


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _decode(content: bytes | Path, name: str) -> tuple[np.ndarray, str]:
    """Return the upright grey pixels, (height, width) uint8 or uint16, and the file's mode."""
    if isinstance(content, Path):
        content, name = read_bytes(content), str(content)
    name = name or "the image"
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            mode = image.mode
            if mode in _NO_FULL_SCALE:
                raise DataError(f"{name}: pixels of mode {mode} have no full scale to divide by")
            if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{name}: holds more than one page, a film is one")
            upright = ImageOps.exif_transpose(image)
            inverted = isinstance(image, TiffImagePlugin.TiffImageFile) and _white_is_zero(image)
            return _grey(upright, inverted), mode
    except (DataError, MemoryError):
        raise
    # Broken files make Pillow's decoders raise nearly anything, so this one boundary, which nothing but they
    # are within, catches all.
    except Exception as error:
        what = "is not a PNG, JPEG or TIFF file" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{name}: cannot be read as an image: {what}") from error


def _white_is_zero(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Tell whether 16-bit pixels are stored inverted; Pillow turns over only those of up to 8 bits."""
    return image.mode in _SIXTEEN_BITS and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _grey(image: Image.Image, inverted: bool) -> np.ndarray:
    # Never convert("L") from 16 bits: it clips at 255 instead of scaling.
    if image.mode in _SIXTEEN_BITS:
        pixels = np.asarray(image).astype(np.uint16)
        return np.iinfo(np.uint16).max - pixels if inverted else pixels
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    return np.asarray(image.convert("RGB").convert("L"))


def _hash_pixels(grey: np.ndarray) -> str:
    # 257 maps 8 bits onto 16 exactly (255 * 257 = 65,535), so depth makes no difference.
    pixels = grey.astype("<u2") * np.uint16(257) if grey.dtype == np.uint8 else grey.astype("<u2")
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
