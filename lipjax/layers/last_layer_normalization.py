"""Last layer normalization (Singla et al., 2022): a linear head with rows of unit length."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipjax.certificates import certify_lln
from lipjax.layers.head import Head
from lipjax.layers.initializers import symmetric_uniform


class LastLayerNormalization(Head):
    """LLN (Singla et al., 2022): f = (W / row norms) y + b, (N, D) → (N, num_classes).

    Params: weight (K, D), stored raw, and bias (K,).  Every logit is 1-Lipschitz in y; the
    difference of those of two classes i, j has the Lipschitz constant ‖w_i − w_j‖, w the normalised rows.
    """

    num_classes: int

    decayed: ClassVar[tuple[str, ...]] = ("weight",)
    kind: ClassVar[str] = "last-layer normalization"
    why: ClassVar[str] = "distance to each rival's hyperplane, all rivals, closed form"

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        del train
        limit = features.shape[-1] ** -0.5
        weight = self.param("weight", symmetric_uniform(limit), (self.num_classes, features.shape[-1]))
        bias = self.param("bias", symmetric_uniform(limit), (self.num_classes,))
        return features @ (weight / jnp.linalg.norm(weight, axis=1, keepdims=True)).T + bias

    @nn.nowrap
    def certifier(self, own, curvature_file=None):
        del curvature_file
        weight, bias = own["params"]["weight"], own["params"]["bias"]
        return lambda features, labels, rivals=None: certify_lln(features, weight, bias, labels, rivals)
