"""The picture of curves: what it shows, and that it can be read whatever it shows."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from rust_optuna.report.curves import COLUMNS, HEIGHT, Panel, curves_svg

NAME = "{http://www.w3.org/2000/svg}"
PANEL = Panel("imagenet", [[0.3, 0.5, 0.4], [0.5, 0.7, 0.6]], [0.4, 0.6, 0.5], 2, 0.1, 0.35)


def picture(*panels, quantity="Average precision"):
    return ElementTree.fromstring(curves_svg(panels, quantity))


def words(tree):
    return [element.text for element in tree.iter(f"{NAME}text")]


def points(line):
    return [tuple(map(float, point.split(","))) for point in line.get("points").split()]


def test_each_fold_and_the_mean_are_drawn_at_their_heights():
    tree = picture(PANEL)
    *folds, mean = map(points, tree.iter(f"{NAME}polyline"))
    assert len(folds) == 2
    # From the first fold's lowest value to the second's highest, the heights are in proportion.
    bottom, top = folds[0][0][1], folds[1][1][1]
    share = [(bottom - y) / (bottom - top) for _, y in mean]
    assert share == pytest.approx([(value - 0.3) / 0.4 for value in PANEL.mean], abs=1e-2)
    assert 0 < bottom - top <= HEIGHT
    assert [x for x, _ in mean] == [x for x, _ in folds[0]] == sorted(x for x, _ in mean)
    dot = next(tree.iter(f"{NAME}circle"))
    assert (float(dot.get("cx")), float(dot.get("cy"))) == mean[PANEL.epoch - 1]
    assert {"imagenet", "0.600 ± 0.100 at epoch 2", "Average precision"} <= {*words(tree)}
    assert any("selection score" in text for text in words(tree))


def test_panels_share_one_scale_and_begin_a_new_row():
    low = Panel("low", [[0.1]], [0.1], 1, None, 0.05)
    tree = picture(*[PANEL] * COLUMNS, low)
    lines = [points(line) for line in tree.iter(f"{NAME}polyline")]
    assert lines[0] != lines[3]  # beside it
    assert [y for _, y in lines[0]] == [y for _, y in lines[3]]
    assert lines[-1][0][1] > max(y for line in lines[:-3] for _, y in line)
    assert "0.100 at epoch 1" in words(tree)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_curves_that_are_level_can_be_drawn(value):
    level = Panel("level", [[value, value]], [value, value], 1, 0.0, value)
    assert len([*picture(level).iter(f"{NAME}polyline")]) == 2


def test_names_may_be_long_and_hold_any_character():
    tree = picture(replace(PANEL, title="a<b>&" + "c" * 100), quantity="<&>")
    assert any(text.startswith("a<b>&ccc") and text.endswith("…") for text in words(tree))
    assert "<&>" in words(tree)
