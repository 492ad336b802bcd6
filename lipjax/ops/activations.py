"""Gradient-norm-preserving activations, of single channels and of pairs (c, c + C/2)."""

import jax
import jax.numpy as jnp
from jax import lax


def channel_halves(caller: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(…, C) → the two halves (…, C/2) of the last axis.  Raises ValueError if the number of channels is odd."""
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


def beta_abs(x: jax.Array, count: int) -> jax.Array:
    """β-Abs (LipNeXt, arXiv 2601.18513): |·| on the first `count` channels, the others stay; (…, C) → (…, C).

    1-Lipschitz and norm preserving.  MinMax is |·| on half of the channels, between rotations of the pairs by 45°.

    Raises:
      ValueError: `count` no integer from 0 to C.
    """
    x = jnp.asarray(x)
    if not isinstance(count, int) or isinstance(count, bool) or x.ndim < 1 or not 0 <= count <= x.shape[-1]:
        raise ValueError(f"beta_abs: count must be an integer from 0 to the channels of {x.shape}, got {count!r}")
    return jnp.where(jnp.arange(x.shape[-1]) < count, jnp.abs(x), x)


def n_activation(x: jax.Array, theta: jax.Array) -> jax.Array:
    """N-activation (arXiv 2311.06103): (…, C) → (…, C), each channel with slopes 1, −1, 1 that change at two places.

    x − 2 a for x <= a, −x for a <= x <= b, x − 2 b for b <= x: continuous, hence 1-Lipschitz; a <= b are the smaller
    and the larger of theta (C, 2).  a = b = 0 is the identity, and |x| is the limit a → −∞, b = 0.

    Raises:
      ValueError: theta not of shape (C, 2).
    """
    x, theta = jnp.asarray(x), jnp.asarray(theta)
    if x.ndim < 1 or theta.shape != (x.shape[-1], 2):
        raise ValueError(f"n_activation: theta must have shape (C, 2) for x of shape {x.shape}, got {theta.shape}")
    low, high = jnp.min(theta, axis=-1), jnp.max(theta, axis=-1)
    return jnp.where(x <= low, x - 2 * low, jnp.where(x >= high, x - 2 * high, -x))


def householder(x: jax.Array, theta: jax.Array) -> jax.Array:
    """Householder activation of order 1 (Singla et al., 2022): (…, C) → (…, C) on the pairs z = (c, c + C/2).

    The line at angle θ/2 halves the plane of each pair: on its counter-clockwise side (z_2 cos θ/2 >= z_1 sin θ/2)
    z stays; on the other it is reflected at the line.  θ = π/2 is MaxMin, with the halves swapped.  Continuous, and
    orthogonal on each side, hence 1-Lipschitz and norm preserving.

    Args:
      x: (…, C), C even.
      theta: (C/2,) in radians, any real numbers.

    Raises:
      ValueError: odd number of channels, or theta not of shape (C/2,).
    """
    first, second = channel_halves("householder", x)
    theta = _angles("householder", "theta", theta, first)
    reflected = _reflected(first, second, theta)
    stays = second * jnp.cos(theta / 2) >= first * jnp.sin(theta / 2)
    return jnp.concatenate([jnp.where(stays, a, b) for a, b in zip((first, second), reflected, strict=True)], axis=-1)


def householder2(x: jax.Array, theta0: jax.Array, theta1: jax.Array, theta2: jax.Array) -> jax.Array:
    """Householder activation of order 2 (Singla et al., 2022): (…, C) → (…, C) on the pairs z = (c, c + C/2).

    Four sectors around the origin, counter-clockwise from angle θ0/2, of widths θ1/2, θ2/2, π − θ1/2 and π − θ2/2:
    in the first z stays, in the second it is reflected at the line of angle (θ0 + θ1)/2, in the third turned by −θ2,
    in the fourth reflected at the line of angle θ0/2.  Neighbours agree on the ray between them, so the map is
    continuous, orthogonal on each sector, hence 1-Lipschitz and norm preserving.

    Args:
      x: (…, C), C even.
      theta0, theta1, theta2: (C/2,) in radians, clipped to [0, 2π]; their gradients are 0 outside.

    Raises:
      ValueError: odd number of channels, or an angle not of shape (C/2,).
    """
    first, second = channel_halves("householder2", x)
    theta0, theta1, theta2 = (
        clipped(_angles("householder2", f"theta{i}", theta, first), 0, 2 * jnp.pi)
        for i, theta in enumerate((theta0, theta1, theta2))
    )
    # Angles φ from the first ray, in [0, π] in the upper half plane, in [π, 2π] in the lower one.
    along, across = _coordinates(first, second, theta0)
    is_upper = across >= 0
    size = jnp.maximum(jnp.abs(first), jnp.abs(second))

    def is_past(ray):
        """φ >= that of a ray of the same half, each in a range of π: by the side of it, where that is no matter of
        rounding; of a ray nearly opposite, φ is past where it is in the later part of its half."""
        ahead, side = _coordinates(first, second, ray)
        return jnp.where(ahead < -size / 2, jnp.where(is_upper, along < 0, along > 0), side >= 0)

    is_second_upper = theta1 + theta2 <= 2 * jnp.pi
    second_ray = is_past(theta0 + theta1 + theta2)
    past = (
        ~is_upper | is_past(theta0 + theta1),
        jnp.where(is_upper, is_second_upper & second_ray, is_second_upper | second_ray),
        ~is_upper & is_past(theta0 + theta2 + 2 * jnp.pi),
    )
    inside = [~passed & (size > 0) for passed in past]  # at 0 the authors differentiate the last map
    turned = (first * jnp.cos(theta2) + second * jnp.sin(theta2), second * jnp.cos(theta2) - first * jnp.sin(theta2))
    sectors = ((first, second), _reflected(first, second, theta0 + theta1), turned, _reflected(first, second, theta0))
    return jnp.concatenate([jnp.select(inside, values[:3], values[3]) for values in zip(*sectors, strict=True)], -1)


def _coordinates(first, second, theta):
    """Those along and across, counter-clockwise, the ray of angle θ/2."""
    cosine, sine = jnp.cos(theta / 2), jnp.sin(theta / 2)
    return first * cosine + second * sine, second * cosine - first * sine


def _reflected(first, second, theta):
    """The mirror image at the line of angle θ/2."""
    cosine, sine = jnp.cos(theta), jnp.sin(theta)
    return first * cosine + second * sine, first * sine - second * cosine


def _angles(caller: str, name: str, theta: jax.Array, half: jax.Array) -> jax.Array:
    theta = jnp.asarray(theta)
    if theta.shape != half.shape[-1:]:
        raise ValueError(f"{caller}: {name} must have shape {half.shape[-1:]}, got {theta.shape}")
    return theta


def clipped(theta: jax.Array, low: float, high: float) -> jax.Array:
    """θ clipped to [low, high], with gradient 1 there, ends included, and 0 outside."""
    inside = (theta >= low) & (theta <= high)
    return jnp.where(inside, theta, lax.stop_gradient(jnp.clip(theta, low, high)))
