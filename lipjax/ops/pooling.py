"""Rearrangement and pooling: fewer pixels or channels, never a larger distance."""

import jax
import jax.numpy as jnp

from lipjax.ops.activations import channel_halves, clipped


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
    """Maximum of the channel pairs (c, c + C/2): (…, C) → (…, C/2), 1-Lipschitz (paper, section 6).

    Raises:
      ValueError: odd number of channels.
    """
    return jnp.maximum(*channel_halves("max_pool", x))


def projection_pool(x: jax.Array, theta: jax.Array) -> jax.Array:
    """Signed distance of channel pairs (c, c + C/2) to a cone of two rays: (…, C) → (…, C/2) (paper, section 6).

    The rays leave the origin at angles ±θ/2 around the first axis, θ the full opening angle, clipped to [0, π].  With
    h = θ/2 and t = x cos h + |y| sin h, the coordinate along the nearer ray, the distance is
    −x sin h + |y| cos h where t >= 0 (negative between the rays around +x), and ‖(x, y)‖ beyond the origin.
    1-Lipschitz (paper, Theorem 2 and Corollary 1).  Equation 9 says the same with the polar angle; its θ is our h.

    Args:
      x: (…, C), C even.
      theta: (C/2,) in radians; its gradient is 0 outside [0, π], and the full one at 0 and at π.

    Raises:
      ValueError: odd number of channels, or theta not of shape (C/2,).
    """
    first, second = channel_halves("projection_pool", x)
    theta = jnp.asarray(theta)
    if theta.shape != first.shape[-1:]:
        raise ValueError(f"projection_pool: theta must have shape {first.shape[-1:]}, got {theta.shape}")
    half = clipped(theta, 0, jnp.pi) / 2
    cosine, sine = jnp.cos(half), jnp.sin(half)
    height = jnp.abs(second)
    # In float32 π is rounded up, and its half has a negative cosine: points inside the cone would seem to be behind.
    on_ray = first * jnp.maximum(cosine, 0) + height * sine >= 0
    # The origin is on the rays, so the square root below never sees 0 where its gradient is used.
    squared = jnp.where(on_ray, 1, first**2 + second**2)
    return jnp.where(on_ray, height * cosine - first * sine, jnp.sqrt(squared))
