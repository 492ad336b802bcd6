"""Matrices near orthonormal ones: the nearest of these, gradients along them, and proven norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.ops.dense_bounds import dense_norm_bound, near_orthogonal_norm_bound, orthonormality_error
from lipjax.ops.mixing import mixed
from lipjax.ops.orthonormal import along, exact_polar, polar

SHAPES = [(6, 6), (9, 4), (4, 9), (5, 1), (1, 5)]


def orthonormal(rng, shape):
    return exact_polar(rng.normal(size=shape))


def defect(matrix):
    matrix = np.asarray(matrix, np.float64)
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return np.linalg.norm(matrix.T @ matrix - np.eye(matrix.shape[1]), 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-3, 0.3, 30.0])
def test_polar_is_the_nearest_orthonormal_matrix(shape, size, rng, float64):
    """Newton–Schulz against the singular value decomposition, near and far: to what a step leaves of its threshold."""
    matrix = orthonormal(rng, shape) + size * rng.normal(size=shape)
    found = np.asarray(jax.jit(polar)(matrix))
    assert defect(found) < 1e-5
    again = np.asarray(polar(found))  # once more, to rounding
    np.testing.assert_allclose(again, exact_polar(matrix), atol=1e-9)
    assert defect(exact_polar(matrix)) < 1e-14


def test_many_steps_in_float32_do_not_drift(rng):
    matrix = jnp.asarray(orthonormal(rng, (48, 48)), jnp.float32)
    for key in jax.random.split(jax.random.key(0), 100):
        matrix = jax.jit(polar)(matrix + 1e-2 * jnp.sign(jax.random.normal(key, matrix.shape)))
    assert defect(matrix) < 2e-6


def test_a_small_step_is_that_of_the_exponential(rng, float64):
    """polar(X + ε U) = X exp(ε A) + O(ε²), A the skew part of XᵀU: the step of LipNeXt."""
    x, u = orthonormal(rng, (7, 7)), rng.normal(size=(7, 7))
    skew = (x.T @ u - u.T @ x) / 2
    errors = []
    for size in (1e-2, 1e-3):
        exact = x @ np.asarray(jax.scipy.linalg.expm(size * skew))
        errors.append(np.linalg.norm(exact_polar(x + size * u) - exact))
    assert errors[0] < 0.1
    np.testing.assert_allclose(errors[0] / errors[1], 100, rtol=0.1)
    tangent = [
        np.linalg.norm(exact_polar(x + s * x @ skew) - x @ np.asarray(jax.scipy.linalg.expm(s * skew)))
        for s in (1e-1, 1e-2)
    ]  # along the manifold the square falls away
    np.testing.assert_allclose(tangent[0] / tangent[1], 1000, rtol=0.2)


def test_what_is_no_matrix_of_full_rank_ends_and_what_is_not_finite_stays_so():
    assert np.isfinite(polar(jnp.zeros((3, 2)))).all()
    assert not np.isfinite(polar(jnp.full((3, 3), jnp.nan))).any()
    assert not np.isfinite(polar(jnp.eye(3).at[0, 0].set(jnp.inf))).all()
    with pytest.raises(ValueError, match=r"polar: the matrix must have 2 axes, got shape \(3,\)"):
        polar(jnp.zeros(3))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_the_derivative_along_the_manifold_and_nothing_else(shape, rng, float64):
    """As those of the same function of polar(X): what changes X only in ways that polar takes back has none."""
    x, weight = orthonormal(rng, shape), rng.normal(size=shape)

    def loss(matrix):
        return jnp.sum(jnp.sin(matrix * weight))

    found = jax.grad(lambda matrix: loss(along(matrix)))(x)
    np.testing.assert_array_equal(along(x), x)
    steps = 1e-5 * np.eye(x.size).reshape(-1, *shape)
    differences = [(loss(exact_polar(x + step)) - loss(exact_polar(x - step))) / 2e-5 for step in steps]
    np.testing.assert_allclose(found, np.reshape(differences, shape), atol=1e-8)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_a_product_has_the_gradients_of_a_product(shape, rng, float64):
    x, matrix = rng.normal(size=(2, 3, 4, shape[0])), rng.normal(size=shape)

    def loss(product):
        return lambda x, matrix: jnp.sum(jnp.sin(product(x, matrix)))

    found, expected = (jax.grad(loss(f), (0, 1))(x, matrix) for f in (mixed, jnp.matmul))
    np.testing.assert_allclose(mixed(x, matrix), x @ matrix, rtol=1e-13)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), found, expected)


def test_bfloat16_rounds_factors_to_8_bits_and_sums_in_float32(rng):
    x, matrix = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((50, 64), (64, 32)))
    full, rounded = (
        jax.value_and_grad(lambda x, m, d=d: jnp.sum(mixed(x, m, d) ** 2), (0, 1))(x, matrix)
        for d in (None, "bfloat16")
    )
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(rounded), strict=True):
        assert b.dtype == jnp.float32
        assert 1e-6 < np.linalg.norm(a - b) / np.linalg.norm(a) < 1e-2
    exact = x.astype(jnp.bfloat16).astype(float) @ matrix.astype(jnp.bfloat16).astype(float)
    np.testing.assert_allclose(mixed(x, matrix, "bfloat16"), exact, atol=1e-4)
    assert jax.eval_shape(lambda: jax.vjp(lambda x: mixed(x, matrix, "bfloat16"), x)[1](x[:, :32]))[0].dtype == x.dtype


@pytest.mark.parametrize("shape", [(40, 40), (60, 20), (20, 60)])
@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-7, 1e-4, 0.3])
def test_norms_near_1_are_proven_to_a_part_of_what_they_differ_by(shape, size, rng):
    matrix = orthonormal(rng, shape) + size * rng.normal(size=shape)
    norm, bound = np.linalg.norm(matrix, 2), near_orthogonal_norm_bound(matrix)
    assert norm <= bound
    error = orthonormality_error(matrix)
    assert defect(matrix) <= error <= defect(matrix) * (1 + 2e-4) + 1e-11
    assert bound <= np.sqrt(1 + error) * (1 + 1e-15)
    assert bound - 1 <= defect(matrix) / 2 * (1 + 2e-4) + 1e-11  # the least singular value may be farther from 1
    assert bound <= dense_norm_bound(matrix)


def test_norms_far_from_1_are_those_of_the_matrix(rng):
    for scale in (0.0, 0.1, 10.0, 1e200):
        matrix = scale * orthonormal(rng, (12, 12))
        bound = near_orthogonal_norm_bound(matrix)
        assert scale * (1 - 1e-14) <= bound <= scale * (1 + 2e-4)


def test_the_rounding_of_the_gram_matrix_is_in_the_bound(monkeypatch, rng):
    """Were the norm of the computed residual 0, what is left is the stated rounding, and above what a product loses."""
    monkeypatch.setattr("lipjax.ops.dense_bounds.dense_norm_bound", lambda residual: 0.0)
    matrix = orthonormal(rng, (300, 200))
    high = np.asarray(matrix, np.longdouble)
    lost = np.linalg.norm(np.asarray(high.T @ high - (matrix.T @ matrix), float), 2)
    assert 0 < lost <= orthonormality_error(matrix) < 1e-10
