"""Norms of kernels that were proven before: tightening, and the proof after it, prove each once."""

import hashlib

import numpy as np

from lipjax import ops
from lipjax.ops.dense_bounds import dense_norm_bound, near_orthogonal_norm_bound
from lipjax.ops.plain_bounds import plain_norm_bound
from lipjax.ops.plain_conv import Geometry

_PLAIN: dict[tuple[str, Geometry, tuple[int, int]], tuple[float, str]] = {}
_PROVEN: dict[tuple[str, tuple[int, int]], float] = {}


def proven_norm(kernel: np.ndarray, size: tuple[int, int]) -> float:
    """`ops.conv_norm_bound` of a float64 kernel (k, k, C_in, C_out), remembered by its content.

    Of a matrix, k = 1, closer to the norm: within 1e-6 of an estimate.
    """
    key = (_digest(kernel), size)
    if key not in _PROVEN:
        is_matrix = kernel.shape[:2] == (1, 1)
        _PROVEN[key] = dense_norm_bound(kernel[0, 0], 1e-6) if is_matrix else ops.conv_norm_bound(kernel, size)
    return _PROVEN[key]


def proven_plain_norm(kernel: np.ndarray, geometry: Geometry, size: tuple[int, int]) -> tuple[float, str]:
    """`ops.plain_bounds.plain_norm_bound` of a float64 kernel, remembered by its content.

    Of a matrix for each pixel, k = 1, it is that of the matrix, and far closer to 1 where that is nearly orthogonal.
    """
    key = (_digest(kernel), geometry, size)
    if (
        key not in _PLAIN
        and kernel.shape[:2] == (1, 1)
        and not any(map(any, geometry.padding))
        and geometry.groups == 1
    ):
        _PLAIN[key] = near_orthogonal_norm_bound(kernel[0, 0], 1e-7), "Cholesky factorisation of its Gram matrix"
    if key not in _PLAIN:
        _PLAIN[key] = plain_norm_bound(kernel, geometry, size)
    return _PLAIN[key]


def _digest(kernel: np.ndarray) -> str:
    return hashlib.sha256(repr(kernel.shape).encode() + kernel.tobytes()).hexdigest()
