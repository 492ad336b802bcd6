"""Convolutions as other libraries have them: any stride, padding, dilation and groups, run in blocks of channels.

y[i] = Σ_t W[t] x[s i + d t − p] for each axis, with stride s, dilation d and p pixels of padding before the image:
'zeros', 'circular' (the image again) or 'reflect' (mirrored at the border pixel, which is not repeated).  Output and
input channels are in groups, each output of the inputs of its group.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lipjax.ops import blocked
from lipjax.ops.ritz import gain_along, ritz_vector

Pair = tuple[int, int]
PADDING_MODES = {"zeros": "constant", "circular": "wrap", "reflect": "reflect"}  # and what numpy calls them

_TAPS_FROM = 128  # channels
_PRODUCTS, _CHANNELS, _MOST = 1024, 16, 64  # a block has at most 16 input channels, unless there would be 65 blocks
_KRYLOV, _RESTARTS = 8, 2  # of an estimated norm


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Which pixels a convolution reads.

    Attributes:
      stride, dilation: (rows, columns), at least 1.
      padding: ((top, bottom), (left, right)), at least 0.
      mode: one of PADDING_MODES.
      groups: of channels.
    """

    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    mode: str = "zeros"
    dilation: Pair = (1, 1)
    groups: int = 1

    def outputs(self, kernel: Pair, size: Pair) -> Pair:
        """(height, width) of the output of images of that size; ValueError where nothing is left, or too much padded.

        As much as the image has can be padded circularly, one pixel less by mirroring.
        """
        found = []
        for axis, (k, n) in enumerate(zip(kernel, size, strict=True)):
            around, most = self.padding[axis], {"zeros": None, "circular": n, "reflect": n - 1}[self.mode]
            if most is not None and max(around) > most:
                raise ValueError(f"padding: at most {most} pixels of {n} can be padded by {self.mode!r}, got {around}")
            left = n + sum(around) - self.dilation[axis] * (k - 1) - 1
            if left < 0:
                raise ValueError(f"kernel: {k} taps, {self.dilation[axis]} apart, exceed {n} pixels padded by {around}")
            found.append(left // self.stride[axis] + 1)
        return found[0], found[1]

    def reads(self, kernel: Pair, size: Pair) -> tuple[np.ndarray, np.ndarray]:
        """(rows (outputs, taps), columns): the pixel that a tap reads for an output, −1 where that is a zero."""
        read = []
        for axis, count in enumerate(self.outputs(kernel, size)):
            of_padded = padded_pixels(size[axis], self.padding[axis], self.mode)
            taps = self.dilation[axis] * np.arange(kernel[axis])
            read.append(of_padded[self.stride[axis] * np.arange(count)[:, None] + taps])
        return read[0], read[1]


def padded_pixels(size: int, around: Pair, mode: str) -> np.ndarray:
    """Which pixel stands where in an image padded along an axis, −1 for zeros."""
    keywords = {"constant_values": -1} if mode == "zeros" else {}
    return np.pad(np.arange(size), around, mode=PADDING_MODES[mode], **keywords)  # type: ignore[call-overload]


def by_taps(kernel: Pair, channels: int, groups: int) -> bool:
    """Whether `apply` is made of products of matrices, one a tap, each in blocks (`blocked`): of many channels."""
    return groups == 1 and (channels >= _TAPS_FROM or kernel == (1, 1))


def channels_a_block(channels: int) -> int:
    """Else of convolutions, of so many inputs of a group each, summed by the backend in an order of its own."""
    return min(channels, max(min(_CHANNELS, max(1, _PRODUCTS // channels)), -(-channels // _MOST)))


def sums(kernel: Pair, channels: int, groups: int) -> tuple[int, int]:
    """(products a block, blocks) of `apply`, for so many input channels of a group; of a program in any order, all."""
    if blocked.is_any_order():
        return blocked.products(kernel[0] * kernel[1] * channels), 1
    if by_taps(kernel, channels, groups):
        return min(channels, blocked.BLOCK), kernel[0] * kernel[1] * blocked.blocks(channels)
    chunk = channels_a_block(channels)
    return kernel[0] * kernel[1] * chunk, -(-channels // chunk)


def apply(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of x (N, H, W, C) with a kernel (k, l, C/groups, C'), (N, H', W', C'), summed in blocks."""
    taps, around = (kernel.shape[0], kernel.shape[1]), ((0, 0), *geometry.padding, (0, 0))
    outputs = geometry.outputs(taps, (x.shape[1], x.shape[2]))  # refuses what has none
    x = jnp.pad(x, around, mode=PADDING_MODES[geometry.mode]) if any(map(any, geometry.padding)) else x
    kernel = kernel.astype(x.dtype)
    count, height, width, channels = x.shape
    groups, of_group = geometry.groups, channels // geometry.groups
    if by_taps(taps, channels, groups):
        windows = ((tap, *spans(geometry, tap, outputs)) for tap in np.ndindex(*taps))
        return functools.reduce(jnp.add, (blocked.product(x[:, rows, cols], kernel[t]) for t, rows, cols in windows))
    grouped, chunk = x.reshape(count, height, width, groups, of_group), channels_a_block(of_group)

    def of_block(start):
        return lax.conv_general_dilated(
            grouped[..., start : start + chunk].reshape(count, height, width, -1),
            kernel[:, :, start : start + chunk],
            geometry.stride,
            "VALID",
            rhs_dilation=geometry.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return functools.reduce(jnp.add, map(of_block, range(0, of_group, chunk)))


def spans(geometry: Geometry, tap: tuple[int, ...], outputs: Pair) -> tuple[slice, slice]:
    """The rows and columns of the padded image that a tap reads."""
    found = []
    for t, d, s, count in zip(tap, geometry.dilation, geometry.stride, outputs, strict=True):
        found.append(slice(d * t, d * t + s * (count - 1) + 1, s))
    return found[0], found[1]


def linear_norm_estimate(run: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """‖A‖ of a linear map A of arrays (1, *shape) by `ritz_vector` from below, differentiable as `gain_along` is."""
    v = jax.random.normal(jax.random.key(0), (1, *shape), dtype)
    back = jax.linear_transpose(run, v)
    for _ in range(_RESTARTS):
        v = ritz_vector(lambda x: back(run(x))[0], v, _KRYLOV)
    return gain_along(run, v)


class Operator:
    """The same in numpy, of one image, group by group: x (groups, H, W, C/groups) → (groups, H', W', C'/groups).

    Args:
      kernel: (k, l, C/groups, C'), float32 or float64.
      size: (H, W).
    """

    def __init__(self, kernel: np.ndarray, geometry: Geometry, size: Pair):
        self.geometry, self.size, self.outputs = geometry, size, geometry.outputs(kernel.shape[:2], size)
        groups = geometry.groups
        self.taps = kernel.reshape(*kernel.shape[:3], groups, -1).transpose(0, 1, 3, 2, 4)  # (k, l, groups, in, out)
        self._padded = [
            padded_pixels(n, around, geometry.mode) for n, around in zip(size, geometry.padding, strict=True)
        ]

    def _windows(self):
        """(tap (groups, in, out), rows, columns of the padded image that it reads)."""
        for tap in np.ndindex(*self.taps.shape[:2]):
            yield self.taps[tap], *spans(self.geometry, tap, self.outputs)

    def forth(self, x: np.ndarray) -> np.ndarray:
        """K x."""
        groups, height, width, channels = x.shape
        with_zero = np.zeros((groups, height + 1, width + 1, channels), x.dtype)
        with_zero[:, :height, :width] = x
        padded = with_zero[:, self._padded[0]][:, :, self._padded[1]]
        total = np.zeros((groups, *self.outputs, self.taps.shape[-1]), x.dtype)
        for tap, rows, columns in self._windows():
            total += (padded[:, rows, columns].reshape(groups, -1, channels) @ tap).reshape(total.shape)
        return total

    def back(self, y: np.ndarray) -> np.ndarray:
        """Kᵀ y."""
        groups, channels = len(y), self.taps.shape[3]
        padded = np.zeros((groups, *map(len, self._padded), channels), y.dtype)
        flat = y.reshape(groups, -1, y.shape[-1])
        for tap, rows, columns in self._windows():
            padded[:, rows, columns] += (flat @ tap.swapaxes(1, 2)).reshape(groups, *self.outputs, channels)
        height, width = self.size
        of_rows = np.zeros((height + 1, groups, padded.shape[2], channels), y.dtype)
        np.add.at(of_rows, self._padded[0], padded.swapaxes(0, 1))
        found = np.zeros((width + 1, height, groups, channels), y.dtype)
        np.add.at(found, self._padded[1], of_rows[:height].transpose(2, 0, 1, 3))
        return found[:width].transpose(2, 1, 0, 3)

    def matrix(self, group: int) -> np.ndarray:
        """The matrix D (H·W·C/groups, H'·W'·C'/groups) of a group, vec(K x) = vec(x) D."""
        (height, width), (tall, wide) = self.size, self.outputs
        rows, columns = self.geometry.reads(self.taps.shape[:2], self.size)
        c_in, c_out = self.taps.shape[3:]
        blocks = np.zeros((height + 1, width + 1, c_in, tall, wide, c_out), self.taps.dtype)
        above, beside = np.arange(tall)[:, None], np.arange(wide)[None, :]
        for a, b in np.ndindex(*self.taps.shape[:2]):
            blocks[rows[:, a][:, None], columns[:, b][None, :], :, above, beside] += self.taps[a, b, group]
        return blocks[:height, :width].reshape(height * width * c_in, tall * wide * c_out)
