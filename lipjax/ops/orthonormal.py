"""Matrices with orthonormal columns or rows: the nearest one, and gradients along them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Newton–Schulz squares what is missing; these many steps bring singular values from 1e-4 to 1, and end what never will.
_MOST_STEPS = 40
# Root mean square of the eigenvalues of E = XᵀX − 1 from which one more step leads to 1e-5 at the most, 1e-6 as a rule.
_NEAR = 1e-3
# Newton–Schulz converges for squared singular values below 3.
_WITHIN = 2.5


def polar(matrix: jax.Array) -> jax.Array:
    """The nearest matrix with orthonormal columns (rows, where there are fewer): U Vᵀ of U Σ Vᵀ, (n, m) → (n, m).

    By Newton–Schulz steps X ← X (1 − E/2), E = XᵀX − 1, which become 3 E²/4: two to four products of matrices where X
    is nearly there.  After X + U, X orthonormal, it is X exp(A) up to the square of U, A the skew part of XᵀU: a step
    along the manifold, as LipNeXt (arXiv 2601.18513) takes with a Taylor polynomial for exp.  That drifts, by 1e-5 in
    200 steps of 1e-3 in float32; this comes back to 1e-5 at the most, whatever was before (docs/lipnext.md).  Of a
    matrix that has no full rank, or is not finite, it is what the steps lead to.
    """
    matrix = jnp.asarray(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"polar: the matrix must have 2 axes, got shape {matrix.shape}")
    if matrix.shape[0] < matrix.shape[1]:
        return polar(matrix.T).T
    columns = matrix.shape[1]
    one = jnp.eye(columns, dtype=matrix.dtype)
    gram = _product(matrix.T, matrix)
    largest = jnp.max(jnp.sum(jnp.abs(gram), axis=0), initial=0)  # >= ‖X‖²
    shrunk = jnp.where(largest > _WITHIN, 1 / jnp.maximum(largest, 1), 1)

    def is_far(state):
        _, missing, count = state
        return (jnp.sum(missing**2) > _NEAR**2 * columns) & (count < _MOST_STEPS)

    def step(state):
        x, missing, count = state
        x = x - _product(x, missing) / 2
        return x, _product(x.T, x) - one, count + 1

    x, missing, _ = lax.while_loop(is_far, step, (matrix * jnp.sqrt(shrunk), gram * shrunk - one, 0))
    return x - _product(x, missing) / 2


def exact_polar(matrix: np.ndarray) -> np.ndarray:
    """The same in float64, by the singular value decomposition."""
    left, _, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return left @ right


@jax.custom_vjp
def along(matrix: jax.Array) -> jax.Array:
    """The matrix X itself, with the gradient along the manifold: G − X sym(XᵀG), for the columns of X orthonormal.

    What is left out points away from the manifold.  A network whose matrices cannot grow always has a gradient that
    would let them, which would fill momenta and second moments.
    """
    return matrix


def _along_fwd(matrix):
    return matrix, matrix


def _along_bwd(matrix, gradient):
    if matrix.shape[0] < matrix.shape[1]:
        return (_along_bwd(matrix.T, gradient.T)[0].T,)
    inner = matrix.T @ gradient
    return (gradient - matrix @ ((inner + inner.T) / 2),)


along.defvjp(_along_fwd, _along_bwd)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b without TF32 or bfloat16, in which nothing stays orthonormal."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
