"""Matrices with orthogonal rows or columns from matrices of any kind, differentiable."""

import jax
import jax.numpy as jnp
from jax import lax

# Of the mean squared column, added to the Gram matrix: it keeps columns of no size from being blown up to unit length.
RIDGE = 1e-3


def by_cholesky(matrix: jax.Array) -> jax.Array:
    """W = V L⁻ᵀ, L Lᵀ = Vᵀ V + δ I with δ = RIDGE · (mean of the diagonal), for V (n, m), n >= m; else of Vᵀ.

    Wᵀ W = I − δ L⁻¹ L⁻ᵀ: all singular values are below 1, those of V's large directions just so (LiResNet).
    """
    if matrix.shape[0] < matrix.shape[1]:
        return by_cholesky(matrix.T).T
    gram = _product(matrix.T, matrix)
    ridge = RIDGE * jnp.maximum(jnp.trace(gram) / len(gram), jnp.finfo(gram.dtype).tiny ** 0.5)
    factor = jnp.linalg.cholesky(gram + ridge * jnp.eye(len(gram), dtype=gram.dtype))
    return lax.linalg.triangular_solve(factor, matrix, left_side=False, lower=True, transpose_a=True)


def by_cayley(matrix: jax.Array) -> jax.Array:
    """[(I − A); −2 V] (I + A)⁻¹, A = U − Uᵀ + Vᵀ V, of [U; V] (n, m), U the first m <= n rows; else of its transpose.

    Its columns are orthonormal (Trockman & Kolter, ICLR 2021): (I + A)ᵀ(I + A) − (I − A)ᵀ(I − A) = 4 Vᵀ V.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return by_cayley(matrix.T).T
    side = matrix.shape[1]
    upper, lower, one = matrix[:side], matrix[side:], jnp.eye(side, dtype=matrix.dtype)
    generator = upper - upper.T + _product(lower.T, lower)
    rows = jnp.concatenate([one - generator, -2 * lower])
    return jnp.linalg.solve((one + generator).T, rows.T).T


def by_exponential(matrix: jax.Array) -> jax.Array:
    """e^(V − Vᵀ) of V (n, m) padded with zeros to a square one, its first n rows and m columns."""
    rows, columns = matrix.shape
    side = max(rows, columns)
    square = jnp.pad(matrix, ((0, side - rows), (0, side - columns)))
    with jax.default_matmul_precision("highest"):
        return jax.scipy.linalg.expm(square - square.T)[:rows, :columns]


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


METHODS = {"cholesky": by_cholesky, "cayley": by_cayley, "exponential": by_exponential}
