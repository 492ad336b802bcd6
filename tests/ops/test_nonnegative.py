"""Bounds of the norms of absolute values: never below them, and above by little."""

import numpy as np
import pytest

from lipjax.ops import skew_kernel
from lipjax.ops.convolution import dense_operator
from lipjax.ops.nonnegative import nonnegative_conv_norm_bound, nonnegative_norm_bound


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (20, 20), (3, 40)])
def test_of_a_matrix(rng, shape):
    for matrix in (rng.normal(size=shape), np.ones(shape), np.eye(*shape), rng.normal(size=shape) ** 9):
        norm = np.linalg.norm(np.abs(matrix), 2)
        assert norm * (1 - 1e-12) <= nonnegative_norm_bound(matrix) <= 1.6 * norm
    assert nonnegative_norm_bound(np.zeros(shape)) == 0


@pytest.mark.parametrize(("k", "size", "channels"), [(1, 3, 4), (3, 1, 3), (3, 2, 3), (3, 5, 4), (5, 3, 2), (3, 8, 2)])
def test_of_a_convolution(rng, k, size, channels):
    kernel = np.asarray(skew_kernel(rng.normal(size=(k, k, channels, channels))), np.float64)
    norm = np.linalg.norm(np.abs(dense_operator(kernel, size, size)), 2)
    assert norm * (1 - 1e-12) <= nonnegative_conv_norm_bound(kernel, size) <= 1.1 * norm


def test_where_every_row_has_the_same_sum_the_bound_is_the_norm():
    """To 1e-8, which is for rounding: were it any smaller it would be none."""
    matrix = np.full((5, 5), 0.2)
    assert 1 <= nonnegative_norm_bound(matrix) <= 1 + 2e-8
    kernel = np.zeros((1, 1, 2, 2))
    kernel[0, 0] = [[0, 1], [-1, 0]]
    assert 1 <= nonnegative_conv_norm_bound(kernel, 4) <= 1 + 2e-8


@pytest.mark.parametrize("shape", [(3, 2, 3), (3, 3, 3), (5, 1, 4), (1, 3, 2)])
@pytest.mark.parametrize("size", [(2, 5), (5, 2), (1, 4), (4, 4)])
def test_of_any_kernel_and_rectangle(rng, shape, size):
    k, c_in, c_out = shape
    kernel = rng.normal(size=(k, k, c_in, c_out))
    norm = np.linalg.norm(np.abs(dense_operator(kernel, *size)), 2)
    assert norm * (1 - 1e-12) <= nonnegative_conv_norm_bound(kernel, size) <= 1.1 * norm
