"""The kinds of files that Pillow does not read as films, so that messages can name them correctly."""

from __future__ import annotations

import struct

_SIGNATURES = (
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (0, b"BM", "a BMP file"),
    (0, b"%PDF", "a PDF file"),
    (8, b"WEBP", "a WebP file"),
    (128, b"DICM", "a DICOM file"),
)
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BITS_PER_SAMPLE, _SHORT = 258, 3


def refused_format(content: bytes) -> str:
    """Return why a file is refused: its kind, if that is known."""
    if content.startswith(b"\xff\xd8") and (kind := _jpeg(content)):
        return f"{kind} is not supported: save it as PNG or TIFF with 16 bits, or as JPEG with 8"
    if content[:4] in (b"II*\0", b"MM\0*") and (bits := _tiff_bits(content)):
        depth = " + ".join(map(str, bits))
        return f"a TIFF with {depth} bits a pixel in this layout is not supported: save it with 8 or 16"
    for offset, signature, kind in _SIGNATURES:
        if content[offset : offset + len(signature)] == signature:
            return f"is {kind}: save it as PNG, JPEG or TIFF"
    return "is not a PNG, JPEG or TIFF file"


def _jpeg(content: bytes) -> str:
    """Return the kind of an unusual JPEG file, with another precision or lossless, else an empty string."""
    position = 2
    while position + 5 <= len(content) and content[position] == 0xFF:
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == 0xFF:  # padding
            position += 1
            continue
        precision = content[position + 4]
        if marker == 0xF7:
            return "a JPEG-LS file"
        if marker in _LOSSLESS:
            return f"a lossless JPEG of {precision} bits"
        if marker in _FRAMES:
            return "" if precision == 8 else f"a {precision}-bit JPEG"
        position += 2 + length
    return ""


def _tiff_bits(content: bytes) -> tuple[int, ...]:
    """Return the bits of each sample that the first page of a TIFF file declares, or an empty tuple if unknown."""
    order = "<" if content[:2] == b"II" else ">"
    try:
        (page,) = struct.unpack_from(f"{order}I", content, 4)
        (entries,) = struct.unpack_from(f"{order}H", content, page)
        for entry in range(page + 2, page + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", content, entry)
            if tag == _BITS_PER_SAMPLE and kind == _SHORT and 1 <= count <= 4:
                place = entry + 8 if count <= 2 else struct.unpack_from(f"{order}I", content, entry + 8)[0]
                return struct.unpack_from(f"{order}{count}H", content, place)
    except struct.error:
        pass
    return ()
