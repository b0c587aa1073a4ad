import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from rust_optuna.data.radiographs import content_hash, examine, pixel_hash, read_radiograph
from rust_optuna.errors import DataError

RAMP = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(content: bytes, size: int = 64, resize="stretch") -> np.ndarray:
    found = read_radiograph(content, size=size, resize=resize)
    assert found.dtype == np.float32
    assert found.shape == (size, size)
    return found


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    found = read(encode(Image.fromarray(RAMP), kind))
    np.testing.assert_allclose(found, RAMP / 65535 * 2 - 1, atol=1e-6)


def test_big_endian_sixteen_bits():
    content = encode(Image.fromarray(RAMP.astype(">u2")), "TIFF")
    assert content.startswith(b"MM")
    np.testing.assert_allclose(read(content), RAMP / 65535 * 2 - 1, atol=1e-6)


def test_twelve_bits_in_sixteen_keep_the_containers_scale():
    found = read(encode(Image.fromarray(RAMP // 16)))
    assert found.max() == pytest.approx(4095 / 65535 * 2 - 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_that_stores_white_as_zero_is_turned_over(bits):
    pixels = RAMP if bits == 16 else (RAMP // 257).astype(np.uint8)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    content = bytearray(encode(Image.fromarray(pixels), "TIFF", tiffinfo=tags))
    # Patch the tag PhotometricInterpretation (262, a short) from BlackIsZero to WhiteIsZero.
    entry = content.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    content[entry + 8 : entry + 10] = b"\0\0"
    scaled = pixels / np.iinfo(pixels.dtype).max
    np.testing.assert_allclose(read(bytes(content)), -(scaled * 2 - 1), atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_layout_keeps_black_black_and_white_white(mode):
    grey = Image.fromarray(np.repeat(np.array([[0, 255]], dtype=np.uint8), 64, axis=0).repeat(32, axis=1))
    kind = "TIFF" if mode == "CMYK" else "PNG"
    found = read(encode(grey.convert("RGB").convert(mode), kind))
    np.testing.assert_allclose(found[:, :32], -1, atol=0.02)
    np.testing.assert_allclose(found[:, 32:], 1, atol=0.02)


def test_alpha_is_dropped_not_blended():
    content = encode(Image.new("RGBA", (8, 8), (255, 255, 255, 0)))
    np.testing.assert_allclose(read(content), 1)


def test_colour_becomes_luminance():
    content = encode(Image.new("RGB", (8, 8), (0, 255, 0)))
    np.testing.assert_allclose(read(content), 0.587 * 2 - 1, atol=0.01)


def test_jpeg():
    pixels = (RAMP // 257).astype(np.uint8)
    found = read(encode(Image.fromarray(pixels), "JPEG", quality=95))
    assert np.abs(found - (pixels / 255 * 2 - 1)).mean() < 0.02


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(kind):
    # Orientation 6: to be turned clockwise, so that the first row becomes the last column.
    pixels = np.zeros((32, 64), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read(encode(Image.fromarray(pixels), kind, exif=exif))
    assert found[:, -8:].mean() > 0.9
    assert found[:, :40].mean() < -0.9


def test_a_thin_fracture_line_survives_the_resizing():
    size, small = 1760, 299
    for offset in range(0, 120, 7):
        pixels = np.full((size, size), 200, dtype=np.uint8)
        pixels[800 + offset : 803 + offset] = 40
        column = read(encode(Image.fromarray(pixels), compress_level=1), small)[:, small // 2]
        # Three pixels of 5.9 can keep half of their contrast at best, and share it between two rows at worst.
        assert column.max() - column.min() > 0.25 * (160 / 255 * 2)


def test_pad_keeps_the_aspect_ratio_centred_on_black():
    content = encode(Image.new("L", (50, 100), 255))
    found = read(content, 40, "pad")
    assert (found[:, 10:30] == 1).all()
    assert (found[:, :10] == -1).all()
    assert (found[:, 30:] == -1).all()
    assert (read(content, 40, "stretch") == 1).all()


def test_pad_keeps_at_least_one_pixel_of_a_sliver():
    found = read(encode(Image.new("L", (1, 1000), 255)), 40, "pad")
    assert (found == 1).sum() == 40


def test_an_unknown_way_to_resize_is_a_bug():
    with pytest.raises(ValueError, match="crop"):
        read_radiograph(encode(Image.new("L", (4, 4))), size=4, resize="crop")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_truncated_files_are_refused_by_name(kind, tmp_path):
    whole = encode(Image.fromarray((RAMP // 257).astype(np.uint8)), kind)
    path = tmp_path / "film"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"^{path}: cannot be read"):
        read_radiograph(path, size=8, resize="pad")


@pytest.mark.parametrize("content", [b"", b"patient,view\n", b"GIF89a" + b"\0" * 40])
def test_what_is_no_image_is_refused_by_name(content):
    with pytest.raises(DataError, match=r"^film 12: cannot be read as an image: is not a PNG, JPEG or TIFF"):
        read_radiograph(content, size=8, resize="pad", name="film 12")


def test_pixels_without_a_full_scale_are_refused():
    content = encode(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match="no full scale"):
        read_radiograph(content, size=8, resize="pad")


def test_more_than_one_page_is_refused():
    page = Image.new("L", (4, 4))
    content = encode(page, "TIFF", save_all=True, append_images=[page])
    with pytest.raises(DataError, match="more than one page"):
        read_radiograph(content, size=8, resize="pad")


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: No such file"):
        content_hash(tmp_path / "none.png")


def test_the_pixel_hash_is_of_the_picture_not_of_the_file():
    eight = (RAMP // 257).astype(np.uint8)
    pixels = Image.fromarray(eight)
    sixteen = Image.fromarray(eight.astype(np.uint16) * 257)
    hashes = {
        pixel_hash(content)
        for content in (
            encode(pixels),
            encode(pixels, compress_level=0),
            encode(pixels, "TIFF"),
            encode(pixels.convert("RGB")),
            encode(sixteen),
        )
    }
    assert len(hashes) == 1
    eight[0, 0] ^= 1
    assert pixel_hash(encode(Image.fromarray(eight))) not in hashes


def test_a_transposed_shape_has_another_hash():
    flat = Image.new("L", (2, 8), 7)
    assert pixel_hash(encode(flat)) != pixel_hash(encode(flat.transpose(Image.Transpose.ROTATE_90)))


def test_image_facts(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(encode(Image.fromarray(RAMP[:32])))
    facts = examine(path)
    assert (facts.width, facts.height, facts.mode, facts.bits) == (64, 32, "I;16", 16)
    assert facts.content == content_hash(path)
    assert facts.pixels == pixel_hash(path)


def tiff(levels: list[int], bits: int, photometric: int = 1) -> bytes:
    """Return a TIFF of one row whose samples are packed as many bits as it declares."""
    packed = int("".join(f"{level:0{bits}b}" for level in levels), 2)
    length = -(-len(levels) * bits // 8)
    data = (packed << (8 * length - len(levels) * bits)).to_bytes(length, "big")
    tags = {256: len(levels), 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: length}
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 3, 1, tags[tag]) for tag in tags)
    start = 8 + length + length % 2
    return struct.pack("<2sHI", b"II", 42, start) + data.ljust(start - 8, b"\0") + page + bytes(4)


def test_a_tiff_of_12_bits_is_scaled_by_12_bits_whatever_the_study_says(tmp_path):
    levels = [0, 1024, 2048, 4095] * 16
    for bits in (10, 16):
        found = read_radiograph(tiff(levels, 12), size=64, resize="stretch", bits=bits)
        np.testing.assert_allclose(found[0], np.array(levels) / 4095 * 2 - 1, atol=1e-6)
    path = tmp_path / "film.tif"
    path.write_bytes(tiff(levels, 12))
    assert examine(path).bits == 12


@pytest.mark.parametrize("bits", [10, 14])
def test_a_tiff_of_bits_that_pillow_does_not_read_is_refused_by_them(bits):
    with pytest.raises(DataError, match=rf"a TIFF with {bits} bits a pixel .* is not supported: save it"):
        read_radiograph(tiff([0, 1, 2, 3], bits), size=8, resize="pad")


def test_bits_scale_what_is_dark_for_want_of_them():
    dark = encode(Image.fromarray(RAMP // 16))
    found = read_radiograph(dark, size=64, resize="stretch", bits=12)
    np.testing.assert_allclose(found, (RAMP // 16) / 4095 * 2 - 1, atol=1e-6)
    # Films that hold more, and films of 8 bits, stand beside them in many a collection.
    for other in (encode(Image.fromarray(RAMP)), encode(Image.fromarray((RAMP // 4096).astype(np.uint8)))):
        plain = read_radiograph(other, size=64, resize="stretch")
        assert (read_radiograph(other, size=64, resize="stretch", bits=12) == plain).all()


@pytest.mark.parametrize(
    ("marker", "precision", "words"),
    [
        (0xC0, 12, "a 12-bit JPEG is not supported"),
        (0xC1, 12, "a 12-bit JPEG is not supported"),
        (0xC3, 16, "a lossless JPEG of 16 bits is not supported"),
        (0xF7, 12, "a JPEG-LS file is not supported"),
    ],
)
def test_an_unusual_jpeg_is_refused_by_its_name(marker, precision, words):
    content = bytearray(encode(Image.fromarray((RAMP // 257).astype(np.uint8)), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 1], content[frame + 4] = marker, precision
    with pytest.raises(DataError, match=words):
        read_radiograph(bytes(content), size=8, resize="pad")


def test_a_dicom_file_is_refused_by_its_name():
    with pytest.raises(DataError, match="is a DICOM file: save it as PNG, JPEG or TIFF"):
        read_radiograph(bytes(128) + b"DICM" + bytes(64), size=8, resize="pad")
