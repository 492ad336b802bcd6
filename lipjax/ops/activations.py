"""Gradient-norm-preserving activations on pairs of channels (c, c + C/2)."""

import jax
import jax.numpy as jnp


def channel_halves(caller: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two halves of the last axis.  Raises ValueError if the number of channels is odd."""
    x = jnp.asarray(x)
    if x.ndim < 1 or x.shape[-1] % 2:
        raise ValueError(f"{caller}: the number of channels (last axis) must be even, got shape {x.shape}")
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def max_min(x: jax.Array) -> jax.Array:
    """MaxMin (Anil et al., 2019): (…, C) → (…, C), maxima of the pairs (c, c + C/2) first, then minima.

    A permutation of each pair, hence 1-Lipschitz and norm preserving.

    Raises:
      ValueError: odd number of channels.
    """
    a, b = channel_halves("max_min", x)
    return jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], axis=-1)
