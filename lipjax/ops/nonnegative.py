"""Proven bounds of the norms of |D|, the absolute values of D: what rounding of products with D is relative to."""

import math
from collections.abc import Callable

import numpy as np

_STEPS, _FLOOR = 8, 1e-2  # power steps, and what keeps their vectors positive


def nonnegative_norm_bound(matrix: np.ndarray) -> float:
    """A proven bound of ‖|D|‖ for a matrix D: (max over i of (|D|ᵀ|D| w)_i / w_i)^½ for a positive w (Collatz)."""
    absolute = np.abs(np.asarray(matrix, np.float64))
    return math.sqrt(_perron_bound(lambda w: absolute.T @ (absolute @ w), np.ones(absolute.shape[1])))


def nonnegative_conv_norm_bound(kernel: np.ndarray, size: int | tuple[int, int]) -> float:
    """The same for |A|, A the zero-padded convolution with a kernel (k, k, C_in, C_out) of images (H, W).

    By |A|ᵀ|A|, unless |A| is its own transpose, as that of a skew kernel is.
    """
    absolute = np.abs(np.asarray(kernel, np.float64))
    sides = size if isinstance(size, tuple) else (size, size)
    transposed = np.flip(absolute, (0, 1)).swapaxes(2, 3)
    w = np.ones((*sides, absolute.shape[2]))
    if np.array_equal(absolute, transposed):
        return _perron_bound(_convolution(absolute, sides), w)
    forth, back = _convolution(absolute, sides), _convolution(transposed, sides)
    return math.sqrt(_perron_bound(lambda w: back(forth(w)), w))


def nonnegative_operator_bound(forth: Callable, back: Callable, shape: tuple[int, ...]) -> float:
    """The same for an operator of nonnegative entries, of arrays of a shape, and its transpose."""
    return math.sqrt(_perron_bound(lambda w: back(forth(w)), np.ones(shape)))


def _convolution(kernel: np.ndarray, sides: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """w (H, W, C_in) → (H, W, C_out)."""
    radius = len(kernel) // 2
    (height, width), (tall, wide) = sides, (min(radius, n - 1) for n in sides)
    offsets = [(a, b) for a in range(-tall, tall + 1) for b in range(-wide, wide + 1)]

    def apply(w):
        padded = np.pad(w, ((tall, tall), (wide, wide), (0, 0)))
        total = np.zeros((height, width, kernel.shape[3]))
        for a, b in offsets:
            shifted = padded[tall + a : tall + a + height, wide + b : wide + b + width]
            total += shifted @ kernel[radius + a, radius + b]
        return total

    return apply


def _perron_bound(apply: Callable[[np.ndarray], np.ndarray], w: np.ndarray) -> float:
    """A bound of the spectral radius of a symmetric nonnegative matrix: max (M w)_i / w_i, the least of a few w > 0."""
    least = math.inf
    for _ in range(_STEPS):
        image = apply(w)
        least = min(least, float((image / w).max(initial=0.0)))
        largest = float(image.max(initial=0.0))
        if not 0 < largest < math.inf:
            break
        w = image / largest + _FLOOR
    # Sums of positive numbers: each of the at most 2^26 roundings is relative to the result.
    return least * (1 + 1e-8)
