"""Channels shifted by one pixel, and a learned term for each pixel: what tells a mixing of channels where it is."""

import math

import flax.linen as nn
import jax
import numpy as np

from lipjax import ops
from lipjax.layers import plain
from lipjax.layers.layer import Layer, isometry
from lipjax.layers.rounding import enlarged, gamma, moved, underflow


def shifted_channels(owner: str, fraction: float, channels: int) -> int:
    """fraction · channels; ValueError, by the name of the layer, unless that is a multiple of 4 from 4 to channels."""
    is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    exact = fraction * channels if is_number and math.isfinite(fraction) else 0
    count = round(exact)  # 28/41 of 41 channels is not 28 in floating point
    if not (4 <= count <= channels and count % 4 == 0 and abs(exact - count) < 1e-9 * channels):
        raise ValueError(
            f"{owner}: fraction={fraction!r}: times the {channels} channels it must be a multiple of 4, as many for "
            f"each direction, from 4 to {channels}"
        )
    return count


class Shift(Layer):
    """Channels moved by one pixel, circularly, a quarter each up, down, left and right; the others stay: (N, H, W, C).

    Bound: 1, as entries are permuted: an isometry.

    Rounding: none, as numbers are moved.

    Source: LipNeXt, arXiv 2601.18513 (`ops.shift`).

    Attributes:
      fraction: of the channels; times C, a multiple of 4 from 4 to C.
    """

    fraction: float = 0.125

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.shift(x, shifted_channels("Shift", self.fraction, x.shape[-1]))

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("circular shift by one pixel", "a permutation", rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "shift", "count": shifted_channels("Shift", self.fraction, shape[-1])}]


class Position(Layer):
    """x + p, p a learned number for each pixel, the same in all channels: (N, H, W, C) → the same.

    Params: term (H, W, 1), or (H, W, C), initialised 0.

    Bound: 1, as of every translation: an isometry.

    Rounding: of one sum.

    Source: LipNeXt, arXiv 2601.18513.

    Attributes:
      per_channel: whether each channel has numbers of its own.
    """

    per_channel: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        shape = (*x.shape[1:-1], x.shape[-1] if self.per_channel else 1)
        return x + self.param("term", nn.initializers.zeros, shape)

    @nn.nowrap
    def proof(self, own, shape):
        term = np.broadcast_to(np.asarray(own["params"]["term"], np.float64), shape)
        offset = float(np.linalg.norm(term)) * (1 + (term.size + 8) * np.finfo(float).eps)
        rounding = enlarged(gamma(1), gamma(1) * offset + underflow(math.prod(shape), 2))
        return isometry("x + p, p of each pixel", "a translation", offset, rounding)

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "add", "term": plain.array(own["params"]["term"])}]
