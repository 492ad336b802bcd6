"""Proven bounds of the norms of |D|, the absolute values of D: what rounding of products with D is relative to."""

import math
from collections.abc import Callable

import numpy as np

_STEPS, _FLOOR = 8, 1e-2  # power steps, and what keeps their vectors positive


def nonnegative_norm_bound(matrix: np.ndarray) -> float:
    """A proven bound of ‖|D|‖ for a matrix D: (max over i of (|D|ᵀ|D| w)_i / w_i)^½ for a positive w (Collatz)."""
    absolute = np.abs(np.asarray(matrix, np.float64))
    return math.sqrt(_perron_bound(lambda w: absolute.T @ (absolute @ w), np.ones(absolute.shape[1])))


def nonnegative_conv_norm_bound(kernel: np.ndarray, size: int) -> float:
    """The same for |A|, A the zero-padded size×size convolution with a skew kernel (k, k, C, C), so that |A| = |A|ᵀ."""
    absolute, radius = np.abs(np.asarray(kernel, np.float64)), len(kernel) // 2
    reach = min(radius, size - 1)
    offsets = [(a, b) for a in range(-reach, reach + 1) for b in range(-reach, reach + 1)]

    def apply(w):
        padded = np.pad(w, ((reach, reach), (reach, reach), (0, 0)))
        total = np.zeros_like(w)
        for a, b in offsets:
            shifted = padded[reach + a : reach + a + size, reach + b : reach + b + size]
            total += shifted @ absolute[radius + a, radius + b]
        return total

    return _perron_bound(apply, np.ones((size, size, absolute.shape[2])))


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
