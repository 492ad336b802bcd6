"""Adversarial perturbations of features, for training the curvature head (paper, section 5)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

STEPS = 5
STEP_FACTOR = 1.5


def feature_attack(
    head: Callable[[jax.Array], jax.Array],
    features: jax.Array,
    labels: jax.Array,
    rivals: jax.Array,
    radius: jax.Array | float,
    noise: jax.Array,
) -> jax.Array:
    """δ (N, D) with ‖δ‖ <= radius, found by five l2 steps down the smallest margin over the rivals.

    The inner maximum of equation 7.  δ starts as a step along the noise; each step has length 1.5·radius/5 along the
    unit gradient of min_i (h_l − h_i)(y + δ), followed by projection to the ball.

    Args:
      head: features (N, D) → logits (N, K).
      features (N, D), labels (N,), rivals (N, R): the clean features and the classes that may win.
      radius: l2, in feature space: an input radius over std.
      noise: (N, D), its directions are the starting points.
    """
    length = STEP_FACTOR * radius / STEPS

    def smallest_margins(delta):
        logits = head(features + delta)
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)
        return jnp.sum(jnp.min(own - jnp.take_along_axis(logits, rivals, axis=1), axis=1))

    delta = length * _unit(noise)
    for _ in range(STEPS):
        delta = delta - length * _unit(jax.grad(smallest_margins)(delta))
        delta = delta * jnp.minimum(1, radius / jnp.maximum(_norm(delta), jnp.finfo(delta.dtype).tiny))
    return jax.lax.stop_gradient(delta)


def _norm(x):
    return jnp.linalg.norm(x, axis=-1, keepdims=True)


def _unit(x):
    return x / jnp.maximum(_norm(x), jnp.finfo(x.dtype).tiny)
