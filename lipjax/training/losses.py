"""What training minimises: LOSSES by name, and the regulariser of the curvature head (paper, equation 7)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lipjax.config import check, number
from lipjax.layers import CurvatureHead
from lipjax.models import Classifier
from lipjax.training.feature_attack import feature_attack

# loss(model, variables, features, labels, key) → (loss, clean logits, spectral variables with the head's caught up).
# The fields of its class are the keys of config.loss.
Loss = Callable[..., tuple[jax.Array, jax.Array, Any]]

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


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The cross entropy of the logits, whatever the head."""

    def __call__(self, model: Classifier, variables, features, labels, key):
        del key
        logits, updated = model.apply(variables, features, train=True, method="classify", mutable=["spectral"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, logits, {**variables["spectral"], **updated.get("spectral", {})}


@dataclasses.dataclass(frozen=True)
class Paper:
    """The paper's: cross entropy for a linear head, equation 7 for the curvature head.

    There cross entropy at g(x) + δ plus γ times the curvature regulariser.  δ is held constant, so that the gradient
    reaches g(x) as if the attack were the identity.

    Attributes:
      attack_radius: ρ, an input radius (l2, pixels in [0, 1]).
      curvature_weight: γ.
    """

    attack_radius: float = 36 / 255
    curvature_weight: float = 0.5

    def __post_init__(self):
        check(vars(self), attack_radius=number(0), curvature_weight=number(0))

    def __call__(self, model: Classifier, variables, features, labels, key):
        logits_loss = CrossEntropy()(model, variables, features, labels, key)
        if not isinstance(model.parts()[1], CurvatureHead):
            return logits_loss
        _, logits, spectral = logits_loss

        def classify(y):
            return model.apply(variables, y, method="classify")

        rivals = top_rivals(logits, labels)
        radius = self.attack_radius * model.nominal_bound()
        noise = jax.random.normal(key, features.shape, features.dtype)
        delta = feature_attack(classify, jax.lax.stop_gradient(features), labels, rivals, radius, noise)
        head = variables["params"]["head"]
        curvature = curvature_regulariser(head["w1"], head["w2"], labels, rivals, spectral["head"]["power_vector"])
        loss = optax.softmax_cross_entropy_with_integer_labels(classify(features + delta), labels).mean()
        return loss + self.curvature_weight * curvature, logits, spectral


LOSSES: dict[str, type] = {"paper": Paper, "cross_entropy": CrossEntropy}
