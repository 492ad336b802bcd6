"""Lower bounds of the distance to the decision boundary of a softplus head, for a batch of (image, rival) pairs.

For a pair, f(δ) = w · softplus(z + W1 δ) + b is the margin h_l − h_i at the features y + δ, with z = W1 y + b1,
w = w2_l − w2_i and b = b2_l − b2_i; g = ∇f(δ); m a bound of its lower curvature (`curvature`).  At any δ
f(δ') >= f + g·(δ' − δ) − m/2 ‖δ' − δ‖², and the right side is positive inside a ball around δ + g/m, so that

    r >= (√(‖g‖² + 2 m f) − ‖g + m δ‖) / m = (2 (f − g·δ) − m ‖δ‖²) / (√(‖g‖² + 2 m f) + ‖g + m δ‖).      (*)

This is the bound r² >= ‖δ‖² + 2 η f − ‖δ + η g‖² / (1 − η m) of weak duality and strong convexity at its best η, in
closed form (docs/crc.md).  At δ = 0 it screens rivals; where g is parallel to −δ and f = 0 it is ‖δ‖, the distance.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_EPS = float(jnp.finfo(jnp.float64).eps)


class Pairs(NamedTuple):
    """P (image, rival) pairs in float64: their margins and what bounds their rounding."""

    z: jax.Array  # (P, H) W1 y + b1
    w: jax.Array  # (P, H) w2_l − w2_i
    b: jax.Array  # (P,) b2_l − b2_i
    m: jax.Array  # (P,) bound of the lower curvature of f
    reach: jax.Array  # (P,) ‖y‖


def softplus_and_slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(1 + eᶻ) and its derivative from one exponential, to 32 units of roundoff (measured: 4)."""
    e = jnp.exp(-jnp.abs(z))
    return jnp.maximum(z, 0) + jnp.log1p(e), jnp.where(z >= 0, 1.0, e) / (1 + e)


# The square of a norm above the first is a float64 with all its digits; one below adds nothing to the second.
_SMALLEST_NORM, _SMALLEST_PRODUCT = 1e-140, 1e-250


def lower_bound(w1, b1, pairs: Pairs, delta, shift=None) -> jax.Array:
    """The bound (*) at δ, rounded down: every float64 error of f, g and (*) itself is subtracted.

    With γ = (H + D + 100) eps, at least twice the usual n u/(1 − n u) of the dot products and of softplus' 32 u:
      |error of f| <= γ (Σ|w_j| ‖W1_j‖ (‖y‖ + ‖δ‖) + Σ|w_j| |b1_j| + Σ|w_j| + |b|),
      ‖error of g‖ <= γ (1/4 Σ|w_j| ‖W1_j‖ (‖W1_j‖ (‖y‖ + ‖δ‖) + |b1_j|) + Σ|w_j| ‖W1_j‖) = γ_g,
    W1_j the rows of W1 (softplus is 1-Lipschitz, its slope 1/4-Lipschitz).  For all ‖δ'‖ <= R the tangent is off by at
    most γ_f + γ_g (‖δ‖ + R), so f is lowered by that, with R the bound before any subtraction, and the result is capped
    by R.  Numerator and denominator of (*) are then moved by their own rounding.

    Args:
      w1: (H, D); b1: (H,); delta: (P, D), any points; shift: (P, H) = δ W1ᵀ if known; all float64.

    Returns:
      (P,) >= 0; infinite for a rival that can never draw level (w = 0, b > 0).
    """
    shift = delta @ w1.T if shift is None else shift
    value, slope = softplus_and_slope(pairs.z + shift)
    f = jnp.sum(pairs.w * value, axis=1) + pairs.b
    g = (pairs.w * slope) @ w1
    delta_norm, g_norm = jnp.linalg.norm(delta, axis=1), jnp.linalg.norm(g, axis=1)
    g_delta, tilted = jnp.sum(g * delta, axis=1), jnp.linalg.norm(g + pairs.m[:, None] * delta, axis=1)
    gamma = _gamma(w1)
    f_error, g_error = rounding(w1, b1, pairs, delta_norm)

    plain = closed_form(f, g_delta, delta_norm**2, g_norm**2, tilted, pairs.m)
    within = jnp.where(jnp.isfinite(plain), plain, jnp.where(g_error > 0, jnp.abs(f) / (2 * g_error), jnp.inf))
    f = f - f_error - jnp.where(g_error > 0, g_error * (delta_norm + within), 0.0)
    numerator = 2 * (f - g_delta) - pairs.m * delta_norm**2
    numerator -= gamma * (2 * jnp.abs(f) + 2 * g_norm * delta_norm + pairs.m * delta_norm**2)
    root = jnp.maximum(g_norm**2 + 2 * pairs.m * f, 0) + gamma * (g_norm**2 + 2 * pairs.m * jnp.abs(f))
    denominator = (jnp.sqrt(root) + tilted + gamma * (g_norm + pairs.m * delta_norm)) * (1 + gamma)
    # Where ‖g‖² and m f underflow the denominator means nothing; a rival with w = 0 has no g at all.
    in_range = (g_norm > _SMALLEST_NORM) | (pairs.m * f > _SMALLEST_PRODUCT) | ~jnp.any(pairs.w != 0, axis=1)
    # A δ that is not finite has a numerator that is not positive: it proves nothing.
    is_proven = (numerator > 0) & in_range
    return jnp.where(is_proven, jnp.minimum(numerator / denominator * (1 - gamma), jnp.maximum(within, 0)), 0.0)


def closed_form(f, g_delta, delta_squared, g_squared, tilted, m) -> jax.Array:
    """(*) without any rounding term; `tilted` = ‖g + m δ‖.  It needs no division by m, so m = 0 is no special case."""
    numerator = 2 * (f - g_delta) - m * delta_squared
    return numerator / (jnp.sqrt(jnp.maximum(g_squared + 2 * m * f, 0)) + tilted)


def rounding(w1, b1, pairs: Pairs, delta_norm) -> tuple[jax.Array, jax.Array]:
    """Bounds (P,), (P,) of the float64 errors of f and of g at points with ‖δ‖ <= delta_norm; see `lower_bound`."""
    norms, offsets = jnp.linalg.norm(w1, axis=1), jnp.abs(b1)
    sums = jnp.abs(pairs.w) @ jnp.stack([norms, offsets, jnp.ones_like(norms), norms**2, norms * offsets], axis=1)
    reach = pairs.reach + delta_norm
    f_error = sums[:, 0] * reach + sums[:, 1] + sums[:, 2] + jnp.abs(pairs.b)
    return _gamma(w1) * f_error, _gamma(w1) * ((sums[:, 3] * reach + sums[:, 4]) / 4 + sums[:, 0])


def _gamma(w1) -> float:
    return (sum(w1.shape) + 100) * _EPS


def fixed_point(w1, gram, pairs: Pairs, steps: int, damping: float = 0.0) -> jax.Array:
    """Proposes δ (P, D): from δ = 0, η = clip((f − g·δ) / ‖g‖², 0, 0.999/m), δ ← −η g; the step of the best (*) counts.

    With `damping` a fraction of the old δ is kept: slower, but pairs whose f is strongly curved upwards settle too.

    Works on coefficients a with δ = W1ᵀ a: one product with the Gram matrix W1 W1ᵀ a step (`gram`; None: two products
    with W1, fewer operations where H > 2 D).  What it returns is a proposal; `lower_bound` evaluates it afresh.
    """

    def step(_, carry):
        a, shift, best_a, best = carry
        value, slope = softplus_and_slope(pairs.z + shift)
        f = jnp.sum(pairs.w * value, axis=1) + pairs.b
        q = pairs.w * slope  # g = W1ᵀ q
        g_shift = (q @ w1) @ w1.T if gram is None else q @ gram
        g_squared, g_delta = jnp.sum(q * g_shift, axis=1), jnp.sum(q * shift, axis=1)
        delta_squared = jnp.sum(a * shift, axis=1)
        tilted = jnp.sqrt(jnp.maximum(g_squared + 2 * pairs.m * g_delta + pairs.m**2 * delta_squared, 0))
        bound = closed_form(f, g_delta, delta_squared, g_squared, tilted, pairs.m)
        better = bound > best
        best_a, best = jnp.where(better[:, None], a, best_a), jnp.where(better, bound, best)
        eta = (1 - damping) * jnp.clip((f - g_delta) / g_squared, 0, 0.999 / pairs.m)[:, None]
        return damping * a - eta * q, damping * shift - eta * g_shift, best_a, best

    zero = jnp.zeros_like(pairs.z)
    start = (zero, zero, zero, jnp.full_like(pairs.b, -jnp.inf))
    return jax.lax.fori_loop(0, steps, step, start)[2] @ w1


def boundary_distance(w1, b1, pairs: Pairs, delta, shift, halvings: int = 0) -> jax.Array:
    """Upper bounds (P,) of the distance: the length of t δ with f(t δ) <= −(rounding of f), inf where none is found.

    Newton's method along the ray of δ from t = 1, where W1 (t δ) = t `shift` costs no product; every trial is pushed
    out by 2e-7, so that it lies beyond the boundary and not on it.  `halvings` > 0 first brackets the boundary by
    doubling t and bisects that many times.
    """
    delta_norm = jnp.linalg.norm(delta, axis=1)

    def margin(t):
        value, slope = softplus_and_slope(pairs.z + t[:, None] * shift)
        f = jnp.sum(pairs.w * value, axis=1) + pairs.b + rounding(w1, b1, pairs, t * delta_norm)[0]
        return f, jnp.sum(pairs.w * slope * shift, axis=1)

    def bisect(_, bracket):
        low, high = bracket
        middle = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * low)
        crossed = margin(middle)[0] <= 0
        return jnp.where(crossed, low, middle), jnp.where(crossed, middle, high)

    def newton(_, carry):
        t, nearest = carry
        f, along = margin(t)
        nearest = jnp.where((f <= 0) & (t < nearest), t, nearest)
        t = jnp.where(along < 0, (t - f / along) * (1 + 2e-7), t)
        return jnp.clip(t, 0.5, 2.0), nearest

    unknown = jnp.full_like(pairs.b, jnp.inf)
    nearest = jax.lax.fori_loop(0, halvings, bisect, (jnp.full_like(pairs.b, 0.5), unknown))[1]
    nearest = jax.lax.fori_loop(0, 4, newton, (jnp.ones_like(pairs.b), nearest))[1]
    return jnp.where(jnp.isfinite(nearest), nearest * delta_norm * (1 + _gamma(w1)), jnp.inf)
