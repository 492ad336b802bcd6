"""Curves of accuracy against the radius, and how they are drawn."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lipjax.evaluation import palette, report
from lipjax.evaluation.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    bar_chart,
    line_chart,
    survival,
    ticks,
)


def near(pixels, colour):
    """Which of the pixels (H, W, 3) have a colour."""
    value = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(pixels - value).max(axis=-1) < 12


@pytest.mark.parametrize("count", [1, 30, 3000])
def test_the_curve_is_the_share_of_images_that_are_right_and_farther_than_the_radius(rng, count):
    right = rng.uniform(size=count) < 0.8
    right[0] = True
    distance = np.where(right, rng.uniform(0.01, 2, count), 0.0)
    x, y = survival(distance, right, 1.5)
    assert (x[0], y[0], x[-1]) == (0, right.mean(), 1.5)
    np.testing.assert_array_equal(y[1:], [np.mean(distance > radius) for radius in x[1:]])
    between = (x[1:-1] + x[2:]) / 2  # and it falls nowhere else, where it is drawn image by image
    if count < 400:
        np.testing.assert_array_equal(y[1:-1], [np.mean(distance > radius) for radius in between])
    assert len(x) <= 402


def test_the_curve_never_rises_and_starts_at_the_standard_accuracy_whatever_stands_for_wrong_images(rng):
    right = rng.uniform(size=200) < 0.5
    for of_wrong in (0.0, 0.3, np.inf, np.nan):
        distance = np.where(right, rng.uniform(0.1, 1, 200), of_wrong)
        _, y = survival(distance, right, 1.0)
        assert y[0] == y[1] == right.mean()
        assert (np.diff(y) <= 0).all()
        assert y[-1] == 0


def test_what_an_attack_leaves_ends_at_the_largest_radius_that_it_tried(rng):
    right, radius = np.ones(50, bool), rng.uniform(0.1, 2, 50)
    closest = np.where(radius < 0.9, 1.1 * radius, np.inf)
    certified, attacked = report.curves(radius, right, closest, 1.0)
    assert (certified.x[-1], attacked.x[-1]) == (radius.max(), 1.0)
    assert attacked.y[-1] == 100 * np.mean(closest > 1.0)
    assert report.curves(radius, right, None)[1] is None


def test_the_picture_of_the_curve_has_no_stroke_above_the_standard_accuracy_and_a_band(rng, tmp_path):
    right = rng.uniform(size=300) < 0.5
    radius = np.where(right, rng.uniform(0.2, 1, 300), 0.0)
    path = tmp_path / "curve.png"
    report.plot_certified_accuracy(path, radius, right, 1.4 * radius, "title", 1.0)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)

    own = near(pixels, palette.CERTIFIED.light)[:, :360]  # left of the legend
    highest = np.flatnonzero(own.any(axis=1)).min()
    assert 0.4 < highest / len(pixels) < 0.6  # 50 %
    shade = tuple(round(255 - palette.BAND * (255 - int(palette.ATTACKED.light[i : i + 2], 16))) for i in (1, 3, 5))
    assert (np.abs(pixels - shade).max(axis=-1) < 4)[150:].sum() > 2000


def test_the_picture_in_the_readme_has_the_colours_of_the_reports():
    path = Path(__file__).parents[2] / "docs" / "figures" / "digits_curve.png"
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert all(near(pixels, colour.light).sum() > 300 for colour in (palette.CERTIFIED, palette.ATTACKED))


@pytest.mark.parametrize(
    ("low", "high", "whole", "found"),
    [
        (0, 100, False, [0, 20, 40, 60, 80, 100]),
        (0, 21, True, [0, 5, 10, 15, 20]),
        (0, 3, True, [0, 1, 2, 3]),
        (0, 1.18, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 1.27, False, [0, 0.25, 0.5, 0.75, 1, 1.25]),
        (-1, 1, False, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round(low, high, whole, found):
    assert ticks(low, high, whole) == pytest.approx(found)


def test_counts_of_images_have_whole_ticks():
    for most in range(1, 40):
        drawn = bar_chart(np.linspace(0, 1, 4), np.array([most, 0, 1]), "x", "y", "bars")
        left = re.findall(r'text-anchor="end">([^<]*)<', drawn)
        assert all(label.isdigit() for label in left), left
        assert drawn.count("<rect") == 2


def test_names_in_charts_are_escaped():
    line = Line("a", np.array([0.0, 1.0]), np.array([0.0, np.nan]), "certified")
    assert "<b" not in line_chart([line], "<b>", '"<b>', '"<b>', percent=False)


def test_points_are_drawn_where_the_axes_say():
    line = Line("a", np.array([0.0, 1.0]), np.array([100.0, 0.0]), "certified", step=True)
    path = re.search(
        r'class="line certified" d="M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)"', line_chart([line], "x", "y", "")
    )
    assert [float(value) for value in path.groups()] == [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM]


def test_every_colour_is_readable_on_its_page():
    def luminance(colour):
        share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for name, colour in palette.variables().items():
        for own, page in zip(colour, palette.PAGE, strict=True):
            low, high = sorted([luminance(own), luminance(page)])
            assert name == "page" or (high + 0.05) / (low + 0.05) >= 4.5, name
