"""Initialisers that the paper's authors use and Flax lacks."""

import jax
import jax.numpy as jnp


def symmetric_uniform(limit: float):
    """Initialiser U(−limit, limit)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def uniform_angles(key, shape, dtype=jnp.float32):
    """Initialiser U(0, π)."""
    return jax.random.uniform(key, shape, dtype, 0, jnp.pi)
