"""Rearrangement and pooling: fewer pixels or channels, never a larger distance."""

import jax
import jax.numpy as jnp

from lipjax.ops.activations import channel_halves


def space_to_depth(x: jax.Array) -> jax.Array:
    """Rearrangement (paper, Figure 1): (N, H, W, C) → (N, H/2, W/2, 4C), channels in the order (c, row, column).

    A permutation of the entries, hence an isometry.

    Raises:
      ValueError: x not 4-dimensional, or H or W odd.
    """
    x = jnp.asarray(x)
    if x.ndim != 4 or x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(f"space_to_depth: x must be (N, H, W, C) with H and W even, got {x.shape}")
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, 4 * c)


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum of the channel pairs (c, c + C/2): (…, C) → (…, C/2), 1-Lipschitz.

    Raises:
      ValueError: odd number of channels.
    """
    return jnp.maximum(*channel_halves("max_pool", x))
