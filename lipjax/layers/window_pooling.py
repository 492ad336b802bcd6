"""Poolings of windows of pixels, which may overlap, and the mean of all pixels (docs/plain.md)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lipjax.config import flag
from lipjax.layers.checks import check_field
from lipjax.layers.convolution import sides
from lipjax.layers.layer import Layer, Proof, times, up
from lipjax.layers.plain_linear import around, pair
from lipjax.layers.rounding import enlarged, gamma, moved, underflow
from lipjax.ops.dense_bounds import dense_norm_bound
from lipjax.system import printed

Pair = tuple[int, int]


def _pixels(owner: str, shape, size: Pair, stride: Pair, padding: tuple[Pair, Pair]) -> list[np.ndarray]:
    """For each axis (windows, n), whether a pixel is in a window; ValueError where a window has none."""
    found = []
    for n, k, s, (before, after) in zip(sides(shape), size, stride, padding, strict=True):
        count = (n + before + after - k) // s + 1
        starts = s * np.arange(max(count, 0))[:, None] - before
        inside = (np.arange(n) >= starts) & (np.arange(n) < starts + k)
        if count < 1 or not inside.any(axis=1).all():
            raise ValueError(
                f"{owner}: size={k} with padding={before, after} leaves no window, or an empty one, of {n}"
            )
        found.append(inside)
    return found


class _Windows(Layer):
    """What poolings of windows have in common: their fields, and the sum or the maximum of each window."""

    size: int | Pair = 2
    stride: int | Pair | None = None
    padding: int | tuple[Pair, Pair] = 0

    def __post_init__(self):
        owner = type(self).__name__
        object.__setattr__(self, "size", pair(owner, "size", self.size, 1))
        stride = self.size if self.stride is None else self.stride
        object.__setattr__(self, "stride", pair(owner, "stride", stride, 1))
        object.__setattr__(self, "padding", around(owner, self.padding))
        super().__post_init__()

    @nn.nowrap
    def proof(self, own, shape):
        raise NotImplementedError

    @nn.nowrap
    def _inside(self, shape) -> list[np.ndarray]:
        return _pixels(type(self).__name__, shape, self.size, self.stride, self.padding)  # type: ignore[arg-type]

    @nn.nowrap
    def _reduced(self, x, start, operation):
        window, stride = (1, *self.size, 1), (1, *self.stride, 1)  # type: ignore[misc]
        return lax.reduce_window(x, x.dtype.type(start), operation, window, stride, ((0, 0), *self.padding, (0, 0)))  # type: ignore[misc]

    @nn.nowrap
    def _options(self) -> dict[str, Any]:
        padding = [list(side) for side in self.padding]  # type: ignore[union-attr]
        return {"size": list(self.size), "stride": list(self.stride), "padding": padding}  # type: ignore[arg-type]

    @nn.nowrap
    def _named(self) -> str:
        size, stride = ("×".join(map(str, both)) for both in (self.size, self.stride))  # type: ignore[arg-type]
        return f"windows of {size}, stride {stride}"


class WindowMax(_Windows):
    """max of each channel over windows of pixels, (N, H, W, C) → (N, H', W', C); padding is never the maximum.

    Bound: √c with c the most windows that a pixel is in, as |max u − max v| <= max |u − v| in each window and the
    square of an entry counts in c of them at most; attained where one pixel is the largest of all its windows.

    Rounding: none, as numbers are moved.

    Source: elementary (docs/plain.md).

    Attributes:
      size: (rows, columns) of a window, or both in one.
      stride: alike; None: that of the windows.
      padding: ((top, bottom), (left, right)), or all in one.

    Raises:
      ValueError: a window with no pixel of the image.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        self._inside(x.shape[1:])
        return self._reduced(x, -np.inf, lax.max)

    @nn.nowrap
    def proof(self, own, shape):
        inside = self._inside(shape)
        often = math.prod(int(axis.sum(axis=0).max()) for axis in inside)
        entries = math.prod(len(axis) for axis in inside) * shape[2]
        root = math.isqrt(often)
        bound = float(root) if root * root == often else up(math.sqrt(often))
        return Proof(f"maxima of {self._named()}", bound, f"√{often}, windows a pixel", rounding=moved(entries))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "max_pool", **self._options()}]


class AveragePool(_Windows):
    """Means of each channel over windows of pixels, (N, H, W, C) → (N, H', W', C).

    Bound: the product of the norms of two matrices of means, of rows and of columns, of which the map is the tensor
    product; each is proven by a Cholesky factorisation.  So it is exact to 1e-4: 1/k for disjoint windows of k×k.

    Rounding: of n sums and a quotient, as all terms of a mean have one sign.

    Source: elementary (docs/plain.md).

    Attributes:
      size, stride, padding: as of `WindowMax`, with zeros for the padding.
      count_padding: whether the mean is over the whole window, or over the pixels of the image in it.
    """

    count_padding: bool = True

    def __post_init__(self):
        check_field("AveragePool", "count_padding", self.count_padding, flag())
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        rows, columns = self._counts(x.shape[1:])
        count = (rows[:, None] * columns[None, :])[..., None].astype(x.dtype)
        return self._reduced(x, 0.0, lax.add) / count

    @nn.nowrap
    def _counts(self, shape) -> list[np.ndarray]:
        inside = self._inside(shape)
        if not self.count_padding:
            return [axis.sum(axis=1) for axis in inside]
        return [np.full(len(axis), k) for axis, k in zip(inside, self.size, strict=True)]  # type: ignore[arg-type]

    @nn.nowrap
    def proof(self, own, shape):
        inside, counts = self._inside(shape), self._counts(shape)
        matrices = [axis / count[:, None] for axis, count in zip(inside, counts, strict=True)]
        rows, columns = (dense_norm_bound(matrix, 1e-7) * (1 + 1e-15) for matrix in matrices)
        bound = times(rows, columns)
        terms, entries = math.prod(self.size), math.prod(map(len, inside)) * shape[2]  # type: ignore[arg-type]
        lost = underflow(entries, 2 * terms + 2)
        of_rows, of_columns = (printed.upper(norm, ".4g") for norm in (rows, columns))
        why = f"norms {of_rows} of rows and {of_columns} of columns, by Cholesky factorisations"
        return Proof(f"means of {self._named()}", bound, why, rounding=enlarged(gamma(terms + 1) * bound, lost))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "average_pool", **self._options(), "count_padding": self.count_padding}]

    @nn.nowrap
    def estimate(self, own, shape):
        return self.proof(own, shape).lipschitz


class GlobalAveragePool(Layer):
    """The mean of each channel over all pixels, (N, H, W, C) → (N, C).

    Bound: (H·W)^(−½), by the inequality of Cauchy and Schwarz.

    Rounding: of H·W sums and a quotient, as all terms of a mean have one sign.

    Source: elementary.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return jnp.sum(x, axis=(1, 2)) / x.dtype.type(x.shape[1] * x.shape[2])

    @nn.nowrap
    def proof(self, own, shape):
        pixels = math.prod(sides(shape))
        bound = 1.0 if pixels == 1 else up(up(1 / math.sqrt(pixels)))
        rounding = enlarged(gamma(pixels + 1) * bound, underflow(shape[2], 2 * pixels + 2))
        return Proof(f"means of all {pixels} pixels", bound, "(pixels)^(−½)", rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "global_average_pool"}]

    @nn.nowrap
    def estimate(self, own, shape):
        return (shape[0] * shape[1]) ** -0.5
