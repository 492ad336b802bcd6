"""Classification heads h: penultimate features → logits.  Their certificates are in `certificates`."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipjax.layers import symmetric_uniform


class LastLayerNormalization(nn.Module):
    """LLN (Singla et al., 2022): f = (W / row norms) y + b, (N, D) → (N, num_classes).

    Params: weight (K, D), stored raw, and bias (K,).  Every logit is 1-Lipschitz; logits of two classes i, j differ by
    at most ‖w_i − w_j‖ a unit of distance, w the normalised rows.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        limit = features.shape[-1] ** -0.5
        weight = self.param("weight", symmetric_uniform(limit), (self.num_classes, features.shape[-1]))
        bias = self.param("bias", symmetric_uniform(limit), (self.num_classes,))
        return features @ (weight / jnp.linalg.norm(weight, axis=1, keepdims=True)).T + bias
