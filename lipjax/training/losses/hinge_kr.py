"""Hinge with the Kantorovich–Rubinstein dual (Serrurier et al., CVPR 2021), of several classes."""

import dataclasses

import jax
import jax.numpy as jnp

from lipjax.config import check, number
from lipjax.training.losses.loss import Loss, check_unit_logits, offset_of


@dataclasses.dataclass(frozen=True)
class HingeKR(Loss):
    """Mean over rivals j of max(0, M − (z_y − z_j)), less `weight` times the mean over rivals of z_y − z_j.

    The second term is the Kantorovich–Rubinstein dual of the distance between the images of a class and all others
    as a 1-Lipschitz critic sees it: it has margins grow on all images, where the hinge asks for M and no more.
    M = √2 ε Lip.

    Attributes:
      epsilon: ε, an l2 distance of images, pixels in [0, 1].
      weight: of the dual; 0: the hinge alone.
    """

    epsilon: float = 72 / 255
    weight: float = 0.1

    def __post_init__(self):
        check(vars(self), epsilon=number(0), weight=number(0))

    def check_head(self, model):
        check_unit_logits("hinge_kr", model)

    def raised(self, model, variables, features, logits, labels, moment):
        return logits / offset_of(self.epsilon, model, variables) if self.epsilon else logits

    def of_logits(self, logits, labels, moment):
        is_rival = 1 - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        margins = jnp.take_along_axis(logits, labels[:, None], axis=1) - logits
        rivals = logits.shape[-1] - 1
        return jnp.sum(is_rival * (jnp.maximum(0, 1 - margins) - self.weight * margins), axis=1) / rivals
