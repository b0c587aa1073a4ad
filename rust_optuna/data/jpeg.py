"""JPEG files with a hole, which libjpeg decodes to the end with a mere warning that Pillow does not pass on.

Where bytes are missing or overwritten, the decoder loses its place in the stream of codes and finds it again a few
blocks too early or too late. So the picture is complete before the data end, or the data end before the picture is
complete. Both can be seen with Pillow's own decoder: it gets a part of the data, and the last row of the picture is
examined. At restart markers, which are numbered, the decoder starts afresh, so each part between two of them is
examined as a picture of its own.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_END, _SLACK = b"\xff\xd9", 16
"""The end marker, and how many bytes before it may be padding or may be missing without an effect on the decoder."""
_SEQUENTIAL, _SCAN, _RESTARTS = (0xC0, 0xC1), 0xDA, 0xDD
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_MOST_PIXELS, _MOST_PARTS = 65535, 4096
"""The maximum side of a picture, and the maximum number of parts between restart markers, which takes a second."""


def has_hole(content: bytes) -> bool | None:
    """Return whether a decodable JPEG file has missing data in its middle, as far as that can be detected.

    A hole of a few dozen bytes may go unnoticed.

    Returns:
        None for a file that is not examined: a progressive one, or one with very many parts between restart markers.
    """
    scan = _only_scan(content)
    if scan is None:
        return None
    end = content.rfind(_END)
    if end < 0:
        return False
    if scan.interval == 0:
        return _loses_its_place(content, content[:end])
    data = content[scan.begins : end]
    numbers = [marker[1][0] - 0xD0 for marker in _RESTART.finditer(data)]
    expected = math.ceil(scan.blocks / scan.interval)
    if numbers != [number % 8 for number in range(expected - 1)]:
        return True
    if expected > _MOST_PARTS or scan.interval * scan.block_width > _MOST_PIXELS:
        return None
    parts = _RESTART.split(data)[::2]
    last = scan.blocks - scan.interval * (expected - 1)
    pictures = (
        scan.row_of(content, last if number == expected else scan.interval) + part
        for number, part in enumerate(parts, start=1)
    )
    return any(_loses_its_place(picture, picture) for picture in pictures)


@dataclass(frozen=True)
class _Scan:
    """The one sequential, Huffman-coded scan of a file.

    Args:
        begins: the position of its data in the file.
        frame: the position of the picture's height, which the width follows.
        restarts: the position of the restart interval; 0 if there is none.
        interval: the distance between restart markers in blocks; 0 if there are none.
        block_width: the width of a block in pixels; a block is the smallest part that is coded with all its colours.
        block_height: the height of a block in pixels.
        blocks: the number of blocks.
    """

    begins: int
    frame: int
    restarts: int
    interval: int
    block_width: int
    block_height: int
    blocks: int

    def row_of(self, content: bytes, blocks: int) -> bytes:
        """Return the header of a file whose picture is one row of blocks without restart markers."""
        head = bytearray(content[: self.begins])
        size = self.block_height.to_bytes(2, "big") + (blocks * self.block_width).to_bytes(2, "big")
        head[self.frame : self.frame + 4] = size
        head[self.restarts : self.restarts + 2] = bytes(2)
        return bytes(head)


def _only_scan(content: bytes) -> _Scan | None:
    """Return the scan of a file with exactly one sequential, Huffman-coded scan, else None."""
    position, frame, restarts, interval, width, height = 2, 0, 0, 0, 0, 0
    while position + 10 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == _RESTARTS:
            restarts = position + 4
            interval = int.from_bytes(content[restarts : restarts + 2], "big")
        if marker in _SEQUENTIAL:
            frame = position + 5
            factors = content[position + 11 : position + 11 + 3 * (content[position + 9] - 1) + 1 : 3]
            # A picture of one colour is coded block by block, whatever its factors.
            width, height = (
                (8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors)) if len(factors) > 1 else (8, 8)
            )
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == _SCAN:
            if not frame or not width or not height or content.count(bytes([0xFF, _SCAN]), position):
                return None
            rows, columns = (int.from_bytes(content[at : at + 2], "big") for at in (frame, frame + 2))
            blocks = math.ceil(rows / height) * math.ceil(columns / width)
            return _Scan(position, frame, restarts, interval, width, height, blocks)
    return None


def _loses_its_place(content: bytes, data: bytes) -> bool:
    """Return whether a file's picture is complete before its data end, or incomplete even with all data."""
    # Padding lets the decoder, which reads a few bits ahead, take the last code of an intact file.
    return _is_complete(content, data[:-_SLACK]) or not _is_complete(content, data + bytes(_SLACK))


def _is_complete(content: bytes, data: bytes) -> bool:
    """Return whether the decoder of a file writes the picture's last row from this part of the data."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        width, height = image.size
        mode, options = image.mode, image.tile[0][3]
    noise = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    canvas = Image.fromarray(noise).convert(mode)
    row = (0, height - 1, width, height)
    before = canvas.crop(row).tobytes()
    # Only this way does Pillow's decoder take an arbitrary part of a file's data.
    decoder: Any = Image._getdecoder(mode, "jpeg", options)
    decoder.setimage(canvas.im, (0, 0, width, height))
    decoder.decode(data)
    return canvas.crop(row).tobytes() != before
