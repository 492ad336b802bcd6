"""What layers have for other programs' sake: pairs of neighbours, reflectors on the image itself."""

import jax
import numpy as np
import pytest

from lipjax.layers import BlockReflectorConv, MaxMin
from lipjax.layers.rounding import COARSEST


def test_pairs_of_neighbours_are_sorted_where_they_are(rng):
    x = np.float32(rng.normal(size=(5, 2, 3, 6)))
    y = np.asarray(MaxMin(neighbours=True).evaluate({}, x))
    np.testing.assert_array_equal(y[..., ::2], np.maximum(x[..., ::2], x[..., 1::2]))
    np.testing.assert_array_equal(y[..., 1::2], np.minimum(x[..., ::2], x[..., 1::2]))
    with pytest.raises(ValueError, match="MaxMin: channels must be even, got 5"):
        MaxMin(neighbours=True).evaluate({}, x[..., :5])
    with pytest.raises(ValueError, match="MaxMin: neighbours must be"):
        MaxMin(neighbours=2)


def test_a_circular_reflector_is_orthogonal_but_for_its_ridge_and_rounds_as_stated(rng):
    layer = BlockReflectorConv(4, 3, rank=2, ridge=1e-7, use_bias=False, circular=True)
    own = {"params": {"kernel": rng.normal(size=(3, 3, 4, 2))}}
    with jax.enable_x64(True):
        proof = layer.proof(own, (5, 4, 4))
        matrix = np.asarray(layer.evaluate(own, np.eye(80).reshape(80, 5, 4, 4))).reshape(80, 80)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert values[0] <= proof.lipschitz * (1 + 1e-12)
    assert values[-1] > 1 - 1e-5
    own32 = {"params": {"kernel": np.float32(own["params"]["kernel"])}}
    x = np.float32(rng.normal(size=(7, 5, 4, 4)))
    found = np.asarray(layer.evaluate(own32, x))
    with jax.enable_x64(True):
        own64 = {"params": {"kernel": np.float64(own32["params"]["kernel"])}}
        exact = np.asarray(layer.evaluate(own64, np.float64(x)))
    relative, absolute = layer.proof(own32, (5, 4, 4)).rounding
    size, error = (np.sqrt((z**2).sum(axis=(1, 2, 3))) for z in (x, found - exact))
    assert (error <= COARSEST * (relative * size + absolute)).all()
    assert error.max() > 0
