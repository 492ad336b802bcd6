"""Proven upper bounds of the norm of any convolution that `plain_conv` runs.

Groups act on channels of their own, so the norm is the largest of them.  Of each:

* Matrix.  Of few unknowns the operator is written out, and its norm proven (`dense_bounds`): exact to 1e-4.
* Block rows.  Of more, its Gram matrix is factorised a few rows of pixels at a time (`banded_bounds`): exact to 1e-3.
* Rearrangement.  A kernel with dilation d is one with d − 1 zeros between its taps.  Tap t of output i reads the pixel
  s i + t − p = s (i + δ) + r, 0 <= r < s, which is entry r of patch i + δ of the image rearranged to s² C channels.  So
  stride s becomes 1, with the taps δ = ⌊(t − p)/s⌋, and the image has n patches, ⌈H/s⌉ with zeros at the end.
* Zeros.  Outputs i in [0, m) read the patches i + δ in [0, n), and zeros elsewhere.  Taps δ <= −m or >= n read none.
  On a cyclic grid of M >= max(m, n, m + δ_max, n − δ_min) points no tap reaches a pixel around the grid: the operator
  is a compression of the circulant one, whatever factor e^{iθ} each turn has, and its norm at most that of the symbols
  at the frequencies of the grid (`symbols`).  Padding is in δ alone; without any, M = n.
* Circular padding, s a divisor of n', the side of the image in pixels.  On the grid of n = n'/s patches the operator is
  the circulant one, restricted to m <= n outputs: the symbols at its frequencies, θ = 0; with m = n that is the norm.
  Where s is no divisor: that of stride 1, of which the outputs are some.
* Any padding is an operator of its own, of norm (c_1 c_2)^½ with c the most often that a row, and a column, is taken,
  followed by the convolution without padding: mirrored images, and circular ones with more outputs than pixels.
* Of one output, or one input, a group ‖B(ω)‖² is a sum of squares: no factorisation, and all groups at once.
"""

import dataclasses
import math

import numpy as np

from lipjax.ops.banded_bounds import banded_norm_bound, best_rows
from lipjax.ops.dense_bounds import dense_norm_bound
from lipjax.ops.estimates import krylov_norm
from lipjax.ops.plain_conv import Geometry, Operator, Pair, padded_pixels
from lipjax.ops.symbols import backward_error, grid_norm_bound

_EPS = float(np.finfo(np.float64).eps)
_MATRIX_WORK = 2e9  # products up to which the matrix is written out, a second or so
_ROWS_WORK, _BORDER_WORK, _ENTRIES = 4e10, 2e11, 2**26  # of Gram matrices by block rows: products, entries at a time
_TWISTS = 4  # a side, of depthwise convolutions
_LEAST = 1e-6  # of an estimate, relative to the largest entry


def plain_norm_bound(kernel: np.ndarray, geometry: Geometry, size: Pair) -> tuple[float, str]:
    """(a bound of the norm of the convolution of images (H, W), rounded up, and how it was proven).

    Args:
      kernel: (k, l, C/groups, C') float64, finite.
      geometry, size: see `plain_conv`.

    Raises:
      ValueError: entries that are not finite; a geometry that leaves no output.
    """
    if not np.isfinite(kernel).all():
        raise ValueError("plain_norm_bound: the kernel has entries that are not finite")
    largest = float(np.abs(kernel).max(initial=0.0))
    if largest == 0.0:
        return 0.0, "the kernel is 0"
    exponent = math.frexp(largest)[1]  # powers of two round nothing, and keep squares in range
    bound, why = _of_unit_scale(np.ldexp(kernel, -exponent), geometry, size)
    try:
        return math.nextafter(math.ldexp(bound, exponent), math.inf), why
    except OverflowError:
        return math.inf, why


def _of_unit_scale(kernel: np.ndarray, geometry: Geometry, size: Pair) -> tuple[float, str]:
    outputs, groups = geometry.outputs((kernel.shape[0], kernel.shape[1]), size), geometry.groups
    sides = math.prod(size) * kernel.shape[2], math.prod(outputs) * kernel.shape[3] // groups
    if groups * min(sides) * math.prod(sides) <= _MATRIX_WORK:
        operator = Operator(kernel, geometry, size)
        bound = max(dense_norm_bound(operator.matrix(group)) for group in range(groups))
        return bound, f"Cholesky factorisation of the Gram matrix of its {sides[0]} × {sides[1]} matrix{_each(groups)}"
    if not any(map(any, geometry.padding)):
        geometry = dataclasses.replace(geometry, mode="zeros")
    found = []
    if geometry.mode == "circular":
        found.append(_circular(kernel, geometry, size, outputs))
        if all(n == s * m for n, s, m in zip(size, geometry.stride, outputs, strict=True)):
            return min(filter(None, found))  # which is the norm
    of_rows = _by_rows(kernel, geometry, size)
    if of_rows is None:
        of_rows = (_of_zeros if geometry.mode == "zeros" else _of_padding)(kernel, geometry, size, outputs)
    return min(filter(None, [*found, of_rows]))


def _by_rows(kernel: np.ndarray, geometry: Geometry, size: Pair) -> tuple[float, str] | None:
    """By block rows of the Gram matrix; None where that is too much work."""
    rows, groups = best_rows(kernel.shape, geometry, size), geometry.groups
    most = _ROWS_WORK if geometry.mode == "zeros" else _BORDER_WORK  # zeros have another way that is nearly as good
    entries = max(len({pair for pairs in rows.pairs.values() for pair in pairs}), (rows.band + 1) ** 2) * rows.side**2
    if groups * rows.work > most or entries > _ENTRIES:
        return None
    estimate = _estimate(kernel, geometry, size)
    bound = max(banded_norm_bound(part, rows, estimate) for part in _of_groups(kernel, groups))
    what = f"its Gram matrix, {rows.count} block rows of {rows.side}"
    return bound, f"Cholesky factorisation of {what}{_each(groups)}"


def _each(groups: int) -> str:
    return f", of each of {groups} groups" if groups > 1 else ""


def _of_padding(kernel: np.ndarray, geometry: Geometry, size: Pair, outputs: Pair) -> tuple[float, str]:
    """The norm of the padding times that of the convolution without."""
    del outputs
    pixels = [padded_pixels(n, around, geometry.mode) for n, around in zip(size, geometry.padding, strict=True)]
    often = math.prod(int(np.bincount(axis).max()) for axis in pixels)
    without = dataclasses.replace(geometry, mode="zeros", padding=((0, 0), (0, 0)))
    bound, why = _of_unit_scale(kernel, without, (len(pixels[0]), len(pixels[1])))
    return math.nextafter(bound * math.sqrt(often) * (1 + _EPS), math.inf), f"√{often} of the padding; {why}"


def _is_circulant(geometry: Geometry, size: Pair, outputs: Pair) -> bool:
    """Whether the outputs are different ones of a circulant operator on the grid of patches."""
    axes = zip(size, geometry.stride, outputs, strict=True)
    return all(n % s == 0 and s * m <= n for n, s, m in axes)


def _circular(kernel: np.ndarray, geometry: Geometry, size: Pair, outputs: Pair) -> tuple[float, str] | None:
    """By the circulant operator; None where the outputs are not some of its own."""
    if not _is_circulant(geometry, size, outputs):
        if any(s * (m - 1) >= n for s, m, n in zip(geometry.stride, outputs, size, strict=True)):
            return None
        geometry, outputs = dataclasses.replace(geometry, stride=(1, 1)), size
    grid = size[0] // geometry.stride[0], size[1] // geometry.stride[1]
    taps = [_taps(k, geometry, axis) for axis, k in enumerate(kernel.shape[:2])]
    estimate = _estimate(kernel, geometry, size)
    bound = _by_symbols(_rearranged(kernel, geometry, taps), geometry.groups, grid, estimate, twisted=False)
    return bound, f"its symbols at all {grid[0]}×{grid[1]} frequencies{_each(geometry.groups)}"


def _of_zeros(kernel: np.ndarray, geometry: Geometry, size: Pair, outputs: Pair) -> tuple[float, str]:
    """By a cyclic grid of which the operator is a part."""
    patches = tuple(-(-n // s) for n, s in zip(size, geometry.stride, strict=True))
    taps = [_taps(k, geometry, axis) for axis, k in enumerate(kernel.shape[:2])]
    rearranged, grid = _rearranged(kernel, geometry, taps), []
    for axis, ((low, high), m, n) in enumerate(zip(taps, outputs, patches, strict=True)):
        first, last = max(low, 1 - m), min(high, n - 1)
        seen = slice(first - low, max(last - low + 1, 0))
        rearranged = rearranged[seen] if axis == 0 else rearranged[:, seen]
        grid.append(max(m, n, m + last, n - first))
    if rearranged.size == 0 or not rearranged.any():
        return 0.0, "no tap reads a pixel"
    if rearranged.shape[:2] == (1, 1):
        matrices = _of_groups(rearranged[0, 0], geometry.groups)
        bound = max(dense_norm_bound(matrix) for matrix in matrices)
        each = _each(geometry.groups)
        return bound, f"Cholesky factorisation of the Gram matrix of the {_times(matrices[0])} of a patch{each}"
    bound = _by_symbols(rearranged, geometry.groups, (grid[0], grid[1]), _estimate(kernel, geometry, size), True)
    return bound, f"its symbols at all {grid[0]}×{grid[1]} frequencies of a grid around it{_each(geometry.groups)}"


def _times(matrix: np.ndarray) -> str:
    return f"{matrix.shape[0]} × {matrix.shape[1]} matrix"


def _taps(k: int, geometry: Geometry, axis: int) -> Pair:
    """δ of the first and of the last tap along an axis."""
    last = geometry.dilation[axis] * (k - 1) - geometry.padding[axis][0]
    return -geometry.padding[axis][0] // geometry.stride[axis], last // geometry.stride[axis]


def _rearranged(kernel: np.ndarray, geometry: Geometry, taps: list[Pair]) -> np.ndarray:
    """The kernel of stride 1 (δ, δ', s s' C/groups, C') on patches, for taps from δ to δ' on each axis."""
    (*sides, c_in, c_out), (down, across) = kernel.shape, geometry.stride
    counts = [high - low + 1 for low, high in taps]
    whole = np.zeros((counts[0] * down, counts[1] * across, c_in, c_out))
    starts = [
        -around[0] - stride * low
        for around, stride, (low, _) in zip(geometry.padding, geometry.stride, taps, strict=True)
    ]
    at = [start + d * np.arange(n) for start, d, n in zip(starts, geometry.dilation, sides, strict=True)]
    whole[np.ix_(*at)] = kernel
    whole = whole.reshape(counts[0], down, counts[1], across, c_in, c_out).transpose(0, 2, 1, 3, 4, 5)
    return whole.reshape(*counts, down * across * c_in, c_out)


def _of_groups(array: np.ndarray, groups: int) -> list[np.ndarray]:
    return np.split(array, groups, axis=-1)


def _estimate(kernel: np.ndarray, geometry: Geometry, size: Pair) -> float:
    """Of the norm, from below, by Golub and Kahan in float32."""
    operator = Operator(kernel.astype(np.float32), geometry, size)
    shape = (geometry.groups, *size, kernel.shape[2])
    return max(krylov_norm([operator.forth, operator.back], shape, -1.0), _LEAST)


def _by_symbols(kernel: np.ndarray, groups: int, grid: Pair, estimate: float, twisted: bool) -> float:
    """The largest of all groups, on the grid of the best twist; all start from the same estimate."""
    parts = _of_groups(kernel, groups)
    if min(parts[0].shape[2:]) == 1:
        return _of_vectors(np.stack(parts), grid, twisted)
    return max(grid_norm_bound(part, grid, estimate, twisted) for part in parts)


def _of_vectors(kernels: np.ndarray, grid: Pair, twisted: bool) -> float:
    """The same where each symbol is a vector: kernels (groups, k, l, 1, C'), or (groups, k, l, C, 1).

    Rounding: phases of at most 2π k' + 2π l' in size, sums of so many products: 32 k l eps Σ ‖K_ab‖ as in `symbols`; a
    norm of n numbers.
    """
    groups, *sides = kernels.shape[:3]
    count = math.prod(sides)
    taps = kernels.reshape(groups, count, -1).transpose(1, 0, 2)
    entries = taps.shape[2]
    off = 32 * count * _EPS * float(np.sqrt((taps**2).sum(axis=2)).sum(axis=0).max())
    least = np.full(groups, np.inf)
    for twists in np.ndindex((_TWISTS, _TWISTS) if twisted else (1, 1)):
        at = [2 * np.pi * (np.arange(m) + t / _TWISTS) / m for m, t in zip(grid, twists, strict=True)]
        waves = [np.exp(1j * np.outer(axis, np.arange(n))) for axis, n in zip(at, sides, strict=True)]
        largest = np.zeros(groups)
        for wave in waves[0]:  # a row of frequencies at a time
            phases = (wave[:, None] * waves[1][:, None, :]).reshape(grid[1], -1)
            symbols = (phases @ taps.reshape(count, -1)).reshape(grid[1], groups, entries)
            largest = np.maximum(largest, np.sqrt((np.abs(symbols) ** 2).sum(axis=2)).max(axis=0))
        least = np.minimum(least, largest)
    return (float(least.max()) * (1 + backward_error(entries)) + off) * (1 + 4 * _EPS)
