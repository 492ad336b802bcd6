"""The largest eigenvalue of a symmetric operator from below: Rayleigh–Ritz on a Krylov space, for training."""

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

    def product(x, y):
        return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)

    basis, moved = _unit(start.ravel())[None], []
    for number in range(dimension):
        w = operator(basis[-1].reshape(start.shape)).ravel()
        moved.append(w)
        if number + 1 < dimension:
            rest = w
            for _ in range(2):  # Gram–Schmidt, twice: orthogonal up to rounding
                rest = rest - product(product(basis, rest), basis)
            # What is left in a space that A maps to itself is rounding, and not orthogonal to anything.
            is_new = jnp.linalg.norm(rest) > jnp.finfo(w.dtype).eps * jnp.linalg.norm(w)
            basis = jnp.concatenate([basis, _unit(jnp.where(is_new, rest, 0))[None]])
    gram = product(basis, jnp.stack(moved, axis=1))
    top = jnp.linalg.eigh((gram + gram.T) / 2)[1][:, -1]
    # Where A v = 0 any vector is an eigenvector, one of no array too.
    return jnp.where(gram[0, 0] > 0, _unit(product(top, basis)), basis[0]).reshape(start.shape)


def _unit(v):
    return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)
