"""Layers without parameters: the input scale, rearrangement, flattening."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.config import check, integer
from lipjax.layers import plain
from lipjax.layers.checks import check_field
from lipjax.layers.layer import Layer, Proof, isometry, norm_at_zero
from lipjax.layers.rounding import enlarged, gamma, moved, underflow
from lipjax.ops.fusion import stored

# Flattened distances are those of the entries, so both are permutations of coordinates.
_PERMUTATION = "a permutation"

FLATTENING_ORDERS = ("hwc", "chw")
SMALLEST_STD, LARGEST_STD = 1e-30, 1e30  # their inverses are in the range of float32


class InputScale(Layer):
    """(x − mean) / std for pixels (N, H, W, C).

    Bound: 1 / min(std), rounded up, of std as float32 rounds it.

    Source: elementary.

    Attributes:
      mean, std: a number, or one per channel; std positive.

    Raises:
      ValueError: a mean that is not finite, a std outside SMALLEST_STD … LARGEST_STD; as many numbers as neither 1 nor
        the channels of the input, which would be broadcast and enlarge distances.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def __post_init__(self):
        for name in ("mean", "std"):  # an array could be changed after the proof
            value = np.asarray(getattr(self, name), np.float64)
            if value.ndim > 1 or not np.isfinite(value).all():
                raise ValueError(f"InputScale: {name} must be a finite number or one per channel, got {value.tolist()}")
            object.__setattr__(self, name, tuple(value.tolist()) if value.ndim else float(value))
        scale_bound(self.std)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        mean, std = (array.astype(x.dtype) for array in self._channels(x.shape[-1]))
        return (x - mean) / std

    @nn.nowrap
    def _channels(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """(mean, std), each (C,) float64."""
        for name in ("mean", "std"):
            count = np.size(getattr(self, name))
            if count not in (1, channels):
                raise ValueError(f"InputScale: {name} must be 1 number or {channels}, one per channel, got {count}")
        mean, std = (np.asarray(value, np.float64) for value in (self.mean, self.std))
        return np.broadcast_to(mean, (channels,)), np.broadcast_to(std, (channels,))

    @nn.nowrap
    def estimate(self, own, shape):
        return 1 / float(np.min(self.std))

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: that of mean alone, and of std, its inverse, the difference and the product (or the quotient)."""
        mean, _ = self._channels(shape[-1])
        why = "1 / min(std), rounded up"
        bound = scale_bound(self.std)
        offset = norm_at_zero(np.abs(mean) * bound * (1 + 1e-6), shape)
        lost = (1 + bound) * underflow(math.prod(shape), 4)
        rounding = enlarged(bound * gamma(4), offset * gamma(5) + lost)
        return Proof("(x − mean) / std", bound, why, offset, rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        mean, std = self._channels(shape[-1])
        return [plain.affine(1 / std, -mean / std)]


def scale_bound(std) -> float:
    """1 / min(std), rounded up; ValueError unless all are from SMALLEST_STD to LARGEST_STD.

    A float32 network divides by the rounded std, which may be a little smaller.
    """
    smallest = float(np.min(std))
    if not (SMALLEST_STD <= smallest and np.max(std) <= LARGEST_STD):
        raise ValueError(f"InputScale: std must be from {SMALLEST_STD:g} to {LARGEST_STD:g}, got {std}")
    return math.nextafter(1.0 / min(smallest, float(np.float32(smallest))), math.inf)


class SpaceToDepth(Layer):
    """b × b pixels as one, (N, H, W, C) → (N, H/b, W/b, b² C), channels in the order (c, row, column).

    Bound: 1, as entries are permuted: an isometry.

    Rounding: none, as numbers are moved.

    Source: Singla & Feizi, NeurIPS 2022, Figure 1 (`ops.space_to_depth`).

    Attributes:
      block: b.
    """

    block: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.space_to_depth(x, self.block)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("rearrangement", _PERMUTATION, rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "space_to_depth", "block": self.block, "order": "channel_row_column"}]


class ZeroPad(Layer):
    """Images (N, H, W, C) in the middle of (N, height, width, C), zeros around them.

    Where one line of zeros more is on one side than on the other, it is below or on the right.

    Bound: 1, as zeros are added: an isometry.

    Rounding: none, as numbers are moved.

    Source: elementary.

    Attributes:
      height, width: of what comes out.

    Raises:
      ValueError: sides that are no integers >= 1, or are less than those of the input.
    """

    height: int
    width: int

    def __post_init__(self):
        for name in ("height", "width"):
            check({f"ZeroPad: {name}": getattr(self, name)}, **{f"ZeroPad: {name}": integer(1)})
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        missing = self.height - x.shape[1], self.width - x.shape[2]
        if min(missing) < 0:
            sides = f"height={self.height}, width={self.width}"
            raise ValueError(f"ZeroPad: {sides} must be at least the {x.shape[1]}×{x.shape[2]} pixels of the input")
        return jnp.pad(x, ((0, 0), *self._around(x.shape[1:]), (0, 0)))

    @nn.nowrap
    def _around(self, shape) -> list[tuple[int, int]]:
        """((top, bottom), (left, right))."""
        missing = self.height - shape[0], self.width - shape[1]
        return [(count // 2, count - count // 2) for count in missing]

    @nn.nowrap
    def proof(self, own, shape):
        """The zeros are exact, and the entries are moved."""
        why = "the entries of the input, and zeros"
        return isometry(f"zeros around to {self.height}×{self.width} pixels", why, rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "pad", "padding": [list(side) for side in self._around(shape)]}]


class FirstChannels(Layer):
    """(…, C) → (…, count), the first channels.

    Bound: 1, as of every orthogonal projection.

    Rounding: none, as numbers are moved.

    Source: elementary.

    Attributes:
      count: at least 1, at most C.
    """

    count: int

    def __post_init__(self):
        check(vars(self), count=integer(1))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        if self.count > x.shape[-1]:
            raise ValueError(f"FirstChannels: count must be at most the {x.shape[-1]} channels, got {self.count}")
        return x[..., : self.count]

    @nn.nowrap
    def proof(self, own, shape):
        return isometry(f"the first {self.count} channels", "a projection", rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return plain.first_channels(shape[-1], self.count)


class Patches(Layer):
    """Patches of p × p pixels as one, (N, H, W, C) → (N, ⌈H/p⌉, ⌈W/p⌉, p² C).

    `ops.space_to_depth`, after rows of zeros below and columns of zeros on the right where p does not divide H or W.

    Bound: 1, as entries are permuted and zeros added: an isometry.

    Rounding: none, as numbers are moved.

    Source: elementary.

    Attributes:
      size: p.

    Raises:
      ValueError: a size that is no integer >= 1.
    """

    size: int = 4

    def __post_init__(self):
        check_field("Patches", "size", self.size, integer(1))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        below, right = (-length % self.size for length in x.shape[1:3])
        return ops.space_to_depth(jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0))), self.size)

    @nn.nowrap
    def proof(self, own, shape):
        why = "a permutation, of zeros too"
        return isometry(f"patches of {self.size} × {self.size} pixels", why, rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        around = [[0, -length % self.size] for length in shape[:2]]
        pad = [{"kind": "pad", "padding": around}] if any(end for _, end in around) else []
        return [*pad, {"kind": "space_to_depth", "block": self.size, "order": "channel_row_column"}]


class Flatten(Layer):
    """(N, …) → (N, D), the entries in a row.

    Bound: 1, as no entry changes: an isometry.

    Rounding: none, as numbers are moved.

    Source: elementary.

    Attributes:
      order: 'hwc', as they are in memory; 'chw', channels before pixels, as libraries with images (N, C, H, W) do.
    """

    order: str = "hwc"

    def __post_init__(self):
        allowed = f"one of {FLATTENING_ORDERS}", lambda order: order in FLATTENING_ORDERS
        check_field("Flatten", "order", self.order, allowed)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        x = jnp.moveaxis(x, -1, 1) if self.order == "chw" else x
        return stored(x.reshape(x.shape[0], -1))

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("flattening", _PERMUTATION, rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "flatten", "order": self.order}] if len(shape) == 3 else []
