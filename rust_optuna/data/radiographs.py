"""Image files → arrays: every film grey, upright and on one scale, whatever its file format.

The formats are PNG, JPEG and TIFF. A TIFF that declares 12 bits is divided by 4,095, a file that declares 16 bits by
65,535. A 12-bit film that was saved in 16 bits without stretching cannot be recognised by its file, so it comes out
dark, not clipped; a caller who knows its true depth passes ``bits``. Pillow itself reduces 16-bit *colour* to its high
bytes, which neither clips nor stretches.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from rust_optuna.data.formats import refused_format
from rust_optuna.data.jpeg import has_hole
from rust_optuna.errors import DataError

Resize = Literal["stretch", "pad"]

FORMATS = ("PNG", "JPEG", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""The usual suffixes of these formats. A file's bytes, not its name, decide its format."""
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"MM\0+", b"II+\0")
"""The first bytes of these formats according to Pillow: PNG, JPEG, and the variants of TIFF."""
SIGNATURE_BYTES = max(map(len, SIGNATURES))
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_NO_FULL_SCALE = ("I", "F")
_SIXTEEN_BITS_WHITE = 65535
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


@dataclass(frozen=True)
class ImageFacts:
    """The properties of a film's file and of its picture.

    Args:
        content: the sha256 of the file's bytes, hex.
        pixels: the `pixel_hash` of the file.
        width: the width of the upright film in pixels.
        height: the height of the upright film in pixels.
        mode: Pillow's name of the file's pixel layout.
        bits: the bits per channel, as declared and decoded (Pillow decodes 16-bit colour to 8).
        darkest: the lowest grey level.
        brightest: the highest grey level.
        hole: whether the file is a JPEG with missing data in its middle, None for a JPEG that was not examined; see
            `rust_optuna.data.jpeg`.
    """

    content: str
    pixels: str
    width: int
    height: int
    mode: str
    bits: int
    darkest: int
    brightest: int
    hole: bool | None = False


@dataclass(frozen=True)
class _Decoded:
    """Upright grey pixels, (height, width) uint8 or uint16, the level that is white, and the file's mode."""

    grey: np.ndarray
    white: int
    mode: str


def read_radiograph(content: bytes | Path, *, size: int, resize: Resize, bits: int = 16, name: str = "") -> np.ndarray:
    """Read a film as a square grey array.

    Colour becomes luminance (ITU-R 601), alpha is dropped and the EXIF orientation is applied. Resizing is antialiased:
    a fracture line three pixels wide survives the reduction from 1,760 to 299. The filter is the triangle, because a
    sharper one would ring, and a dark fringe beside bright metal looks like a gap.

    Args:
        content: the file's bytes, or its path.
        size: the width and height of the result, in pixels.
        resize: ``"stretch"`` to the square, or ``"pad"`` to keep the aspect ratio, centred on black.
        bits: the true depth of 16-bit films. It is ignored for films with higher levels and for files that declare
            fewer bits themselves.
        name: the film's name in messages if ``content`` is bytes.

    Returns:
        (size, size) float32 in [−1, 1], where −1 is black.

    Raises:
        DataError: the file is not a complete image of a supported format and depth; the message names the file.
    """
    film = _decode(content, name)
    white = film.white
    if white == _SIXTEEN_BITS_WHITE and film.grey.max() < 2**bits:
        white = 2**bits - 1
    unit = Image.fromarray(film.grey.astype(np.float32) / white)
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


def has_signature(start: bytes) -> bool:
    """Return whether a file's first `SIGNATURE_BYTES` bytes are those of a supported format."""
    return start.startswith(SIGNATURES)


def content_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes, hex, which identifies a film.

    Raises:
        DataError: the file cannot be read.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


def pixel_hash(content: bytes | Path, *, name: str = "") -> str:
    """Return a hash of the decoded, upright, grey pixels, which is the same for one picture in two lossless files.

    Raises:
        DataError: the file cannot be read, as in `read_radiograph`.
    """
    return _hash_pixels(_decode(content, name).grey)


def examine(path: Path) -> ImageFacts:
    """Read a film's file once and return its properties.

    Raises:
        DataError: the file cannot be read, as in `read_radiograph`.
    """
    content = read_bytes(path)
    film = _decode(content, str(path))
    height, width = film.grey.shape
    return ImageFacts(
        content=hashlib.sha256(content).hexdigest(),
        pixels=_hash_pixels(film.grey),
        width=width,
        height=height,
        mode=film.mode,
        bits=1 if film.mode == "1" else film.white.bit_length(),
        darkest=int(film.grey.min()),
        brightest=int(film.grey.max()),
        hole=has_hole(content) if content.startswith(b"\xff\xd8") else False,
    )


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _decode(content: bytes | Path, name: str) -> _Decoded:
    if isinstance(content, Path):
        content, name = read_bytes(content), str(content)
    name = name or "the image"
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            mode = image.mode
            if mode in _NO_FULL_SCALE:
                raise DataError(f"{name}: pixels of mode {mode} have no full scale to divide by")
            if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{name}: holds more than one page, but a film has one")
            upright = ImageOps.exif_transpose(image)
            if mode not in _SIXTEEN_BITS:
                return _Decoded(_grey(upright), 255, mode)
            white, inverted = _SIXTEEN_BITS_WHITE, False
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                white = 2 ** image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] - 1
                # Pillow itself inverts only pixels of up to 8 bits.
                inverted = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            # Not convert("L"), which clips 16-bit levels at 255 instead of scaling them.
            pixels = np.asarray(upright).astype(np.uint16)
            return _Decoded(white - pixels if inverted else pixels, white, mode)
    except (DataError, MemoryError):
        raise
    # Broken files make Pillow's decoders raise nearly any exception, so this boundary around them catches all.
    except Exception as error:
        reason = refused_format(content) if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{name}: cannot be read as an image: {reason}") from error


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    return np.asarray(image.convert("RGB").convert("L"))


def _hash_pixels(grey: np.ndarray) -> str:
    # The factor 257 maps 8 bits onto 16 exactly (255 * 257 = 65,535), so depth makes no difference.
    pixels = grey.astype("<u2") * np.uint16(257) if grey.dtype == np.uint8 else grey.astype("<u2")
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
