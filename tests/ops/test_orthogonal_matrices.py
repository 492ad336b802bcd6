"""Orthogonal matrices: gains, formulas and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from lipjax.ops.orthogonal_matrices import METHODS, RIDGE, by_cayley, by_cholesky, by_exponential

SHAPES = [(5, 5), (7, 3), (3, 7), (1, 4), (40, 20)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", [by_cayley, by_exponential])
def test_gains_are_one(method, shape, rng, float64):
    gains = np.linalg.svd(method(jnp.asarray(rng.normal(size=shape))), compute_uv=False)
    np.testing.assert_allclose(gains, 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gains_by_cholesky_are_those_of_its_formula(shape, rng, float64):
    """√(λ / (λ + δ)) of the eigenvalues λ of the Gram matrix: all below 1."""
    matrix = rng.normal(size=shape)
    gains = np.linalg.svd(by_cholesky(jnp.asarray(matrix)), compute_uv=False)
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    expected = np.sort(np.sqrt(squares / (squares + RIDGE * squares.mean())))[::-1]
    np.testing.assert_allclose(gains, expected, rtol=0, atol=1e-10)
    assert (gains < 1).all()


def test_formulas_in_numpy(rng, float64):
    matrix = rng.normal(size=(7, 3))
    gram = matrix.T @ matrix
    factor = np.linalg.cholesky(gram + RIDGE * np.trace(gram) / 3 * np.eye(3))
    np.testing.assert_allclose(by_cholesky(jnp.asarray(matrix)), matrix @ np.linalg.inv(factor).T, atol=1e-10)
    upper, lower = matrix[:3], matrix[3:]
    generator = upper - upper.T + lower.T @ lower
    inverse = np.linalg.inv(np.eye(3) + generator)
    expected = np.concatenate([(np.eye(3) - generator) @ inverse, -2 * lower @ inverse])
    np.testing.assert_allclose(by_cayley(jnp.asarray(matrix)), expected, atol=1e-10)
    square = np.pad(matrix, ((0, 0), (0, 4)))
    expected = scipy.linalg.expm(square - square.T)[:, :3]
    np.testing.assert_allclose(by_exponential(jnp.asarray(matrix)), expected, atol=1e-10)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_differences(name, shape, rng, float64):
    matrix, direction = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=shape))

    def loss(matrix):
        return jnp.sum(jnp.sin(jnp.arange(matrix.size).reshape(shape) + METHODS[name](matrix)))

    step = 1e-5
    expected = (loss(matrix + step * direction) - loss(matrix - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(matrix), direction), expected, rtol=1e-6, atol=1e-8)


def test_a_matrix_of_zeros_stays_finite():
    for method in METHODS.values():
        assert np.isfinite(method(jnp.zeros((4, 3)))).all()
