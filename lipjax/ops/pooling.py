"""Rearrangement and pooling: fewer pixels or channels, never a larger distance."""

import jax
import jax.numpy as jnp

from lipjax.ops.activations import channel_halves, clipped


def space_to_depth(x: jax.Array, block: int = 2) -> jax.Array:
    """Rearrangement (paper, Figure 1): (N, H, W, C) → (N, H/b, W/b, b² C), channels in the order (c, row, column).

    A permutation of the entries, hence an isometry.  b is `block`.

    Raises:
      ValueError: x not 4-dimensional, or H or W no multiple of `block`, an integer >= 1.
    """
    x = jnp.asarray(x)
    if not isinstance(block, int) or isinstance(block, bool) or block < 1:
        raise ValueError(f"space_to_depth: block must be an integer >= 1, got {block!r}")
    if x.ndim != 4 or x.shape[1] % block or x.shape[2] % block:
        allowed = "even" if block == 2 else f"multiples of {block}"
        raise ValueError(f"space_to_depth: x must be (N, H, W, C) with H and W {allowed}, got {x.shape}")
    n, h, w, c = x.shape
    split = x.reshape(n, h // block, block, w // block, block, c).transpose(0, 1, 3, 5, 2, 4)
    return split.reshape(n, h // block, w // block, block * block * c)


def l2_pool(x: jax.Array, size: int | None = None) -> jax.Array:
    """Norms of each channel over windows of size × size pixels: (N, H, W, C) → (N, H/size, W/size, C).

    1-Lipschitz: |‖u‖ − ‖v‖| <= ‖u − v‖ in each window and channel, and these have no entry in common.  `size` None: all
    pixels, → (N, C).  Where a norm is 0 its gradient is taken as 0.

    Raises:
      ValueError: x not 4-dimensional, or H or W no multiple of `size`, an integer >= 1.
    """
    x = jnp.asarray(x)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f"l2_pool: size must be an integer >= 1, got {size!r}")
    if x.ndim != 4 or (size is not None and (x.shape[1] % size or x.shape[2] % size)):
        raise ValueError(f"l2_pool: x must be (N, H, W, C) with H and W multiples of {size or 1}, got {x.shape}")
    n, h, w, c = x.shape
    if size is None:
        squared = jnp.sum(x**2, axis=(1, 2))
    else:
        squared = jnp.sum(x.reshape(n, h // size, size, w // size, size, c) ** 2, axis=(2, 4))
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def shift(x: jax.Array, count: int) -> jax.Array:
    """Channels moved by one pixel, circularly: (N, H, W, C) → (N, H, W, C), a permutation of the entries.

    Of the first `count` channels a quarter each goes up, down, left and right; the others stay (LipNeXt, arXiv
    2601.18513: with circular padding no other depthwise convolution preserves norms).

    Raises:
      ValueError: x not 4-dimensional; `count` no multiple of 4 from 0 to C.
    """
    x = jnp.asarray(x)
    is_integer = isinstance(count, int) and not isinstance(count, bool)
    if x.ndim != 4 or not is_integer or count % 4 or not 0 <= count <= x.shape[3]:
        raise ValueError(
            f"shift: x must be (N, H, W, C) and count a multiple of 4 from 0 to C, got {x.shape} and {count!r}"
        )
    group = count // 4
    moves = ((-1, 1), (1, 1), (-1, 2), (1, 2))
    parts = [jnp.roll(x[..., i * group : (i + 1) * group], *move) for i, move in enumerate(moves)]
    return jnp.concatenate([*parts, x[..., count:]], axis=-1)


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
