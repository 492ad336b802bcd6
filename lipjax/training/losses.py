"""Losses and regularisers of the two heads (paper, equation 7)."""

import jax
import jax.numpy as jnp
from jax import lax

# The attack and the regulariser look at the rivals with the highest clean logits only; certificates look at all.
TRAINING_RIVALS = 9
CURVATURE_STEPS = 2


def top_rivals(logits: jax.Array, labels: jax.Array, count: int = TRAINING_RIVALS) -> jax.Array:
    """(N, K) logits, (N,) labels → (N, min(count, K − 1)) classes other than the label, by descending logit."""
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return lax.top_k(jnp.where(own, -jnp.inf, logits), min(count, logits.shape[-1] - 1))[1]


def curvature_regulariser(
    w1: jax.Array, w2: jax.Array, labels: jax.Array, rivals: jax.Array, power_vector: jax.Array
) -> jax.Array:
    """K_h of equation 7: mean over images and rivals of max(m, M), the curvatures of h_l − h_i from both sides.

    m and M are xᵀ W1ᵀ diag(¼ max(0, ∓(w2_l − w2_i))) W1 x with x from two power steps that start at `power_vector`;
    x is held constant in the gradient.  An estimate for training: certificates use `ops.curvature_bound`.

    Args:
      w1 (H, D), w2 (K, H): weights of the head.
      labels (N,), rivals (N, R): class pairs (l, i).
      power_vector: (D,) unit vector near the top singular vector of W1, carried from step to step.

    Returns:
      ().
    """
    count = len(w2)
    if count * count <= rivals.size:  # fewer class pairs than images × rivals: each pair once
        own, other = (index.ravel() for index in jnp.indices((count, count)))
        curvature = _pair_curvature(w1, w2[own] - w2[other], power_vector).reshape(count, count)[
            labels[:, None], rivals
        ]
    else:
        curvature = _pair_curvature(w1, (w2[labels][:, None] - w2[rivals]).reshape(-1, w2.shape[1]), power_vector)
    return jnp.mean(curvature)


def _pair_curvature(w1, difference, power_vector):
    """max(m, M) for each row w of `difference` (P, H), (P,)."""

    def curvature(weights):
        def times(x):
            return weights * (x @ w1.T)

        x = lax.stop_gradient(power_vector)
        for _ in range(CURVATURE_STEPS):
            x = times(x) @ w1
            x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), jnp.finfo(x.dtype).tiny)
        x = lax.stop_gradient(x)
        return jnp.sum(times(x) * (x @ w1.T), axis=-1)

    return jnp.maximum(curvature(jnp.maximum(-difference, 0) / 4), curvature(jnp.maximum(difference, 0) / 4))
