"""JPEG files with a hole, which libjpeg decodes to the end with no more than a warning that Pillow does not pass on.

Where bytes are missing or overwritten, the decoder loses its place in the stream of codes and finds it again a few
blocks too early or too late. So the picture is complete before the data are, or the data end before the picture. Both
show without another decoder: Pillow's is given the data only up to a place, and its last row is looked at.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

_END, _SLACK = b"\xff\xd9", 16
"""The marker at the end, and how many bytes before it may be filling, or may be missing from the decoder's view."""
_SEQUENTIAL, _SCAN, _RESTARTS = (0xC0, 0xC1), 0xDA, 0xDD


def has_hole(content: bytes) -> bool:
    """Tell whether a JPEG file that can be decoded lacks data in its midst, as far as that can be told.

    A hole of a few dozen bytes may go unnoticed. Progressive files and files with restart markers are not looked into.
    """
    end = content.rfind(_END)
    if end < 0 or not _is_one_plain_scan(content):
        return False
    # Filling lets the decoder, which looks a few bits ahead, take the last code of a whole file.
    return _is_complete(content, content[: end - _SLACK]) or not _is_complete(content, content[:end] + bytes(_SLACK))


def _is_one_plain_scan(content: bytes) -> bool:
    """Tell whether a file holds one sequential scan, Huffman-coded and without restart markers."""
    position, sequential = 2, False
    while position + 10 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if marker == _RESTARTS and any(content[position + 4 : position + 6]):
            return False
        sequential |= marker in _SEQUENTIAL
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == _SCAN:
            return sequential and content.count(bytes([0xFF, _SCAN]), position) == 0
    return False


def _is_complete(content: bytes, data: bytes) -> bool:
    """Tell whether the decoder of a file writes the picture's last row from some of the data."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        width, height = image.size
        mode, options = image.mode, image.tile[0][3]
    noise = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    canvas = Image.fromarray(noise).convert(mode)
    row = (0, height - 1, width, height)
    before = canvas.crop(row).tobytes()
    # The only way to Pillow's decoder that takes part of a file's data as it is.
    decoder: Any = Image._getdecoder(mode, "jpeg", options)
    decoder.setimage(canvas.im, (0, 0, width, height))
    decoder.decode(data)
    return canvas.crop(row).tobytes() != before
