"""The largest eigenvalue from below, on a Krylov space: against its definition, by QR and eigenvalues in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.ops.ritz import ritz_vector, top_vector


def positive(rng, size):
    factor = rng.normal(size=(size, size))
    return factor @ factor.T


@pytest.mark.parametrize("dimension", [1, 2, 4, 8])
def test_the_best_of_the_krylov_space(dimension, rng, float64):
    matrix, start = positive(rng, 20), rng.normal(size=20)
    powers = [start / np.linalg.norm(start)]
    for _ in range(dimension - 1):
        powers.append(matrix @ powers[-1])
        powers[-1] /= np.linalg.norm(powers[-1])
    span = np.linalg.qr(np.stack(powers, 1))[0]
    values, vectors = np.linalg.eigh(span.T @ matrix @ span)
    found = np.asarray(ritz_vector(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(7 * start), dimension))
    np.testing.assert_allclose(np.linalg.norm(found), 1, rtol=1e-14)
    np.testing.assert_allclose(found @ matrix @ found, values[-1], rtol=1e-10)
    np.testing.assert_allclose(abs(found @ span @ vectors[:, -1]), 1, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_where_there_are_no_more_directions_the_norm_itself(size, dtype, rng, float64):
    """What is left of a product is rounding there, of any direction: it must not be taken for one more."""
    matrix = jnp.asarray(positive(rng, size), dtype)
    x = ritz_vector(lambda v: matrix @ v, jnp.asarray(rng.normal(size=size), dtype), 8)
    true = np.linalg.norm(np.asarray(matrix, "float64"), 2)
    np.testing.assert_allclose(x @ matrix @ x, true, rtol=100 * jnp.finfo(dtype).eps)


def test_zeros(float64):
    zero, some = jnp.zeros((3, 3)), jnp.array([0.0, 3.0, 4.0])
    np.testing.assert_allclose(ritz_vector(lambda v: zero @ v, some, 4), some / 5, rtol=1e-15)
    np.testing.assert_array_equal(ritz_vector(lambda v: zero @ v, 0 * some, 4), 0 * some)
    np.testing.assert_array_equal(ritz_vector(lambda v: jnp.eye(3) @ v, 0 * some, 4), 0 * some)


def test_many_at_once(rng, float64):
    matrices, starts = np.stack([positive(rng, 6) for _ in range(3)]), rng.normal(size=(3, 6))

    def one(matrix, start):
        return ritz_vector(lambda v: matrix @ v, start, 3)

    together = jax.vmap(one)(jnp.asarray(matrices), jnp.asarray(starts))
    alone = [one(jnp.asarray(m), jnp.asarray(s)) for m, s in zip(matrices, starts, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gap", [0, 1e-6, 1e-5, 1e-4, 1e-3, 0.5, 1])
def test_of_eigenvalues_that_are_close_any_will_do(gap, dtype, rng, float64):
    """What a mixture of their vectors loses is the gap at most, and less than 2e-5 of the largest in all."""
    for size in (1, 2, 4, 8):
        q = np.linalg.qr(rng.normal(size=(size, size)))[0]
        values = 1e-3 * np.concatenate([[1], 1 - gap * (0.5 + rng.random(size - 1) / 2)])
        matrix = (q * values) @ q.T
        x = np.asarray(top_vector(jnp.asarray(matrix, dtype)), "float64")
        np.testing.assert_allclose(np.linalg.norm(x), 1, rtol=10 * jnp.finfo(dtype).eps)
        assert x @ matrix @ x >= (1 - min(2e-5, gap) - 10 * jnp.finfo(dtype).eps) * values[0]
