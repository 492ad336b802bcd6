"""Logit annealing (BRONet, ICML 2025): an offset, and less weight on images that have their margin."""

import dataclasses

import jax.numpy as jnp
import optax

from lipjax.config import check, number, positive
from lipjax.training.losses.loss import SoftmaxLoss, check_unit_logits, lowered, offset_of


@dataclasses.dataclass(frozen=True)
class LogitAnnealing(SoftmaxLoss):
    """T (1 − q)^β (−log q) with q = softmax((z − ξ onehot(y)) / T)_y, ξ = √2 ε Lip.

    β anneals: where q is near 1 the gradient vanishes faster than that of cross entropy, and the effort goes to images
    without a margin.  The defaults are those of the BRONet authors (ξ = 2, T = 0.75, β = 5) at std 0.2507.

    Attributes:
      epsilon: ε, an l2 distance of images, pixels in [0, 1].
      temperature: T, in units of the logits.
      beta: β.
    """

    epsilon: float = 0.3545
    temperature: float = 0.75
    beta: float = 5.0

    def __post_init__(self):
        super().__post_init__()
        check(vars(self), epsilon=number(0), temperature=positive(), beta=number(0))

    def check_head(self, model):
        check_unit_logits("logit_annealing", model)

    def raised(self, model, variables, features, logits, labels, moment):
        return lowered(logits, labels, offset_of(self.epsilon, model, variables))

    def of_softmax(self, logits, labels):
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits / self.temperature, labels)
        # 1 − q by expm1: at q near 1 the difference would be rounding, and its power's gradient noise.
        return self.temperature * (-jnp.expm1(-entropy)) ** self.beta * entropy
