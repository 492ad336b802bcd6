"""Norms and largest eigenvalues from below, for training: Rayleigh–Ritz on a Krylov space."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def ritz_vector(operator: Callable[[jax.Array], jax.Array], start: jax.Array, dimension: int) -> jax.Array:
    """Of the span of v, A v, …, A^(m−1) v, m = `dimension`, the unit vector x with the largest ⟨x, A x⟩.

    A restart of Lanczos.  It takes m products, as m power steps do, and finds more of the largest eigenvalue where many
    lie near it, as training leaves them: power steps hardly tell those apart.

    Args:
      operator: A, symmetric and positive semidefinite, of arrays of the shape of `start`.
      start: v, any but 0, of which 0 comes.
    """
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    basis, moved = unit(start.ravel())[None], []
    for number in range(dimension):
        w = operator(basis[-1].reshape(start.shape)).ravel()
        moved.append(w)
        if number + 1 < dimension:
            rest = w
            for _ in range(2):  # Gram–Schmidt, twice: orthogonal up to rounding
                rest = rest - product(product(basis, rest), basis)
            # What is left in a space that A maps to itself is rounding, and not orthogonal to anything.
            is_new = jnp.linalg.norm(rest) > jnp.finfo(w.dtype).eps * jnp.linalg.norm(w)
            basis = jnp.concatenate([basis, unit(jnp.where(is_new, rest, 0))[None]])
    gram = product(basis, jnp.stack(moved, axis=1))
    top = unit(product(top_vector((gram + gram.T) / 2), basis))
    return jnp.where(gram[0, 0] > 0, top, basis[0]).reshape(start.shape)  # where A v = 0 any vector is an eigenvector


def top_vector(matrix: jax.Array) -> jax.Array:
    """The unit eigenvector (m,) of the largest eigenvalue of a small positive semidefinite matrix (m, m), by squaring.

    Where others lie within 1e-4 of it, some of theirs.  `jnp.linalg.eigh` makes the host of a GPU wait, several times.
    """
    for number in range(16):  # 65,536 power steps
        if number % 4 == 0:  # the largest eigenvalue is 1/m at least, and 1/m^16 after four squarings
            matrix = matrix / jnp.maximum(jnp.trace(matrix), jnp.finfo(matrix.dtype).tiny)
        matrix = jnp.sum(matrix[:, :, None] * matrix, axis=1)  # one kernel of a GPU, many products too
    return unit(matrix[:, jnp.argmax(jnp.diagonal(matrix))])


def gain_along(run: Callable[[jax.Array], jax.Array], v: jax.Array) -> jax.Array:
    """⟨u, A v⟩, u = A v / ‖A v‖, u and v held constant: ‖A‖ from below for a unit v, with the gradient u ⊗ v in A.

    At the top singular vectors that is the gradient of ‖A‖.
    """
    y = run(jax.lax.stop_gradient(v))
    return jnp.vdot(unit(jax.lax.stop_gradient(y)), y)


def unit(v: jax.Array) -> jax.Array:
    """v / ‖v‖, 0 of 0."""
    return v / jnp.maximum(jnp.linalg.norm(v.ravel()), jnp.finfo(v.dtype).tiny)
