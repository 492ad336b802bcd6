"""The paper's loss of the curvature head (equation 7): an attack on features, and a regulariser of curvature."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from lipjax.config import check, number
from lipjax.layers import CurvatureHead
from lipjax.layers.curvature_head import of_pairs, top_rivals
from lipjax.models import Classifier
from lipjax.training.losses.feature_attack import feature_attack
from lipjax.training.losses.loss import Loss, logits_of

CURVATURE_STEPS = 2


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

    def both_sides(difference):
        sides = (jnp.maximum(side * difference, 0) / 4 for side in (-1, 1))
        return jnp.maximum(*(pair_curvature(w1, weights, power_vector) for weights in sides))

    return jnp.mean(of_pairs(both_sides, w2, labels, rivals))


def pair_curvature(w1: jax.Array, weights: jax.Array, start: jax.Array) -> jax.Array:
    """xᵀ W1ᵀ diag(weights) W1 x for each row of `weights` (P, H), (P,), x from two power steps from `start` (D,).

    An estimate from below of the largest eigenvalue, for training.  x is held constant in the gradient.
    """

    def times(x):
        return weights * (x @ w1.T)

    x = jax.lax.stop_gradient(start)
    for _ in range(CURVATURE_STEPS):
        x = times(x) @ w1
        x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), jnp.finfo(x.dtype).tiny)
    x = jax.lax.stop_gradient(x)
    return jnp.sum(times(x) * (x @ w1.T), axis=-1)


@dataclasses.dataclass(frozen=True)
class Crc(Loss):
    """The paper's loss of the curvature head (equation 7): cross entropy at g(x) + δ, plus γ K_h.

    δ is an attack within ρ, held constant, so that the gradient reaches g(x) as if it were the identity; K_h is the
    curvature regulariser.

    Attributes:
      attack_radius: ρ, an input radius (l2, pixels in [0, 1]).
      curvature_weight: γ.
    """

    mixes: ClassVar[bool] = False

    attack_radius: float = 36 / 255
    curvature_weight: float = 0.5

    def __post_init__(self):
        check(vars(self), attack_radius=number(0), curvature_weight=number(0))

    def check_head(self, model):
        head = model.parts()[1]
        if not isinstance(head, CurvatureHead):
            raise ValueError(
                f"config.loss.name='crc': needs a CurvatureHead, config.model.head='crc'; got {type(head).__name__}"
            )

    def __call__(self, model: Classifier, variables, features, labels, key, moment):
        del moment
        logits, spectral = logits_of(model, variables, features)

        def classify(y):
            return model.apply(variables, y, method="classify")

        rivals = top_rivals(logits, labels)
        radius = self.attack_radius * jax.lax.stop_gradient(model.estimated_bound(variables))
        noise = jax.random.normal(key, features.shape, features.dtype)
        delta = feature_attack(classify, jax.lax.stop_gradient(features), labels, rivals, radius, noise)
        head = variables["params"]["head"]
        curvature = curvature_regulariser(head["w1"], head["w2"], labels, rivals, spectral["head"]["power_vector"])
        loss = optax.softmax_cross_entropy_with_integer_labels(classify(features + delta), labels).mean()
        return loss + self.curvature_weight * curvature, logits, spectral
