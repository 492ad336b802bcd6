"""Fractions of channels that are shifted: every count that a plain description may name."""

import math

import numpy as np
import pytest

from lipjax.layers.shift import shifted_channels
from lipjax.models import plain


@pytest.mark.parametrize("channels", [4, 7, 41, 96, 1023])
def test_every_multiple_of_four_is_one_of_a_description(channels):
    for count in range(4, channels + 1, 4):
        assert shifted_channels("Shift", count / channels, channels) == count
    item, image = (
        {"kind": "shift", "count": 4 * (channels // 4)},
        np.random.default_rng(0).random((1, 2, 2, channels), np.float32),
    )
    layer, variables = plain.read([item], (2, 2, channels))
    assert (np.asarray(layer.apply(variables, image)) != image).any(axis=(0, 1, 2)).sum() == item["count"]


@pytest.mark.parametrize("fraction", [28 / 41 + 1e-6, 27 / 41, 0, 1, 1.2, -0.1, math.nan, math.inf, True, "0.5"])
def test_any_other_number_is_refused(fraction):
    with pytest.raises(ValueError, match="times the 41 channels it must be a multiple of 4"):
        shifted_channels("Shift", fraction, 41)
