"""Random crops and flips under jit."""

import jax
import jax.numpy as jnp


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Each image (N, H, W, C) zero-padded by `padding` pixels and cut back to H×W at a uniformly random place."""
    n, height, width, _ = images.shape
    rows, columns = jax.random.randint(key, (2, n), 0, 2 * padding + 1)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = rows[:, None, None] + jnp.arange(height)[None, :, None]
    columns = columns[:, None, None] + jnp.arange(width)[None, None, :]
    return padded[jnp.arange(n)[:, None, None], rows, columns]


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image (N, H, W, C) mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)
