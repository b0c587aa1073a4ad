import io
import re

import numpy as np
import pytest
from PIL import Image

from rust_optuna.data.jpeg import has_hole


def film(mode: str = "L", seed: int = 0, **options: object) -> bytes:
    rows, columns = np.mgrid[0:500, 0:400]
    noise = np.random.default_rng(seed).normal(0, 6, rows.shape)
    levels = (128 + 80 * np.sin(columns / 50) + 20 * np.sin(rows / 30) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("where", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("restarts", [{}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 7}])
def test_a_hole_is_found_zeroed_or_cut_out(mode, optimize, where, restarts):
    whole = film(mode, optimize=optimize, **restarts)
    start = int(len(whole) * where)
    zeroed = whole[:start] + bytes(2000) + whole[start + 2000 :]
    cut = whole[:start] + whole[start + 2000 :]
    Image.open(io.BytesIO(zeroed)).load()
    assert has_hole(zeroed)
    assert has_hole(cut)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimize": True},
        {"restart_marker_rows": 1},
        {"restart_marker_rows": 9},
        {"restart_marker_blocks": 7},
        {"restart_marker_blocks": 1, "subsampling": 2},
    ],
)
def test_whole_files_have_none(mode, options):
    assert has_hole(film(mode, **options)) is False


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 7}])
def test_of_files_that_are_not_looked_into_nothing_is_said(options, monkeypatch):
    monkeypatch.setattr("rust_optuna.data.jpeg._MOST_PARTS", 100)
    assert has_hole(film(**options)) is None


@pytest.mark.parametrize("seed", range(12))
def test_flat_films_of_any_size_have_none(seed):
    random = np.random.default_rng(seed)
    levels = np.zeros(random.integers(1, 300, 2), dtype=np.uint8)
    levels[: len(levels) // 2] = random.integers(0, 256, levels[: len(levels) // 2].shape)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", optimize=bool(seed % 2), quality=int(random.integers(30, 100)))
    assert not has_hole(buffer.getvalue())


def test_a_hole_between_two_restart_markers_is_found():
    whole = film(quality=95, restart_marker_rows=4)
    start = int(len(whole) * 0.5)
    assert not re.search(rb"\xff[\xd0-\xd7]", whole[start : start + 400])
    assert has_hole(whole[:start] + bytes(400) + whole[start + 400 :])
    assert has_hole(whole[:start] + whole[start + 400 :])
