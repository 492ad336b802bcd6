"""EMMA (Hu et al., NeurIPS 2023): rivals are raised by what they can gain within ε, at most until they tie."""

import dataclasses

import jax
import jax.numpy as jnp

from lipjax.config import check, number
from lipjax.layers import Head
from lipjax.training.losses.loss import SoftmaxLoss

_LEAST = 0.01  # a rival that wins already is still raised by so much of its drop


@dataclasses.dataclass(frozen=True)
class Emma(SoftmaxLoss):
    """Cross entropy of z_j + s_j G_j(ε), G_j what the margin z_y − z_j can lose within ε, G_y = 0.

    G_j(ε) = r ‖w_y − w_j‖ for a linear head, r = ε Lip, and r ‖∇(z_y − z_j)‖ + m r² / 2 for the curvature head, m the
    curvature of z_y − z_j from below, for the nine largest rivals alone (`Head.margin_drop`).  s_j = clip((z_y − z_j)
    / G_j, 0.01, 1), held constant: a rival is raised until it ties, at most by the certificate's own amount, so images
    certified at ε are pushed no further.  More ε trades standard accuracy for certified accuracy beyond ε.

    ε grows linearly from `start` times its value to its value over the first `ramp` of the steps: one larger than most
    margins would raise every rival to a tie at once.  LiResNet: ε = 3 · 36/255, start 1/30, ramp 1/2.

    Attributes:
      epsilon: ε, an l2 distance of images, pixels in [0, 1].
      start: of ε, at the first step.
      ramp: of the steps, in which ε grows; 0: none.
    """

    epsilon: float = 36 / 255
    start: float = 1 / 30
    ramp: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check(vars(self), epsilon=number(0), start=number(0, 1), ramp=number(0, 1))

    def check_head(self, model):
        head = model.parts()[1]
        if type(head).margin_drop is Head.margin_drop:
            raise ValueError(
                f"config.loss.name='emma': needs a head that states margin_drop; {type(head).__name__} does not"
            )

    def raised(self, model, variables, features, logits, labels, moment):
        grown = jnp.minimum(moment.progress / self.ramp, 1) if self.ramp else 1.0
        epsilon = self.epsilon * (self.start + (1 - self.start) * grown)
        own = {name: tree["head"] for name, tree in variables.items() if "head" in tree}
        head = model.parts()[1]
        drop = head.margin_drop(own, features, labels, epsilon * model.estimated_bound(variables))
        margin = jnp.take_along_axis(logits, labels[:, None], axis=1) - logits
        tiny = jnp.finfo(logits.dtype).tiny
        scale = jax.lax.stop_gradient(jnp.clip(margin / jnp.maximum(drop, tiny), _LEAST, 1))
        return logits + scale * drop
