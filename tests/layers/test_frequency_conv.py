"""The bound of a convolution on a grid is of the matrices themselves, not of what float32 makes of them."""

import numpy as np
import pytest

from lipjax.layers.frequency_conv import FrequencyConv


def test_the_bound_is_of_float64_matrices_that_float32_rounds_to_orthogonal_ones():
    small = np.ones((4, 4)) - 2 * np.eye(4)
    orthogonal = np.kron(small, small) / 4
    matrix = np.where(orthogonal > 0, 0.25 + 0.98 * 2.0**-26, -(0.25 - 0.98 * 2.0**-27))
    assert np.array_equal(matrix.astype(np.float32), orthogonal)
    own = {"params": {"real": np.repeat(matrix[None], 4, axis=0), "imaginary": np.zeros((4, 16, 16))}}
    norm = np.linalg.norm(matrix, 2)
    assert norm > 1 + 1.8e-7
    bound = FrequencyConv(16, (2, 2)).proof(own, (2, 2, 16)).lipschitz
    assert norm <= bound == pytest.approx(norm, rel=2e-7)
