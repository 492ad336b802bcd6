"""Cross entropy, that of logits as they are, and that of margins above an offset."""

import dataclasses

import optax

from lipjax.config import check, number, positive
from lipjax.training.losses.loss import SoftmaxLoss, check_unit_logits, lowered, offset_of


@dataclasses.dataclass(frozen=True)
class CrossEntropy(SoftmaxLoss):
    """−log softmax(z)_y, whatever the head.  It knows no margin: right predictions at small distances cost little."""


@dataclasses.dataclass(frozen=True)
class Offset(SoftmaxLoss):
    """T · cross entropy of (z − √2 ε Lip · onehot(y)) / T: the label's logit has to win by a margin.

    Lip is the estimated bound of the features.  A larger ε gives more certified accuracy beyond ε and less
    standard accuracy; a smaller T counts images that have the margin for less.  Prach & Lampert 2022 (AOL), with
    √2 ε = offset; equal-time benchmark of Prach et al. 2024: ε = 2 · 36/255, T = 1/4, of logits in pixels.

    Attributes:
      epsilon: ε, an l2 distance of images, pixels in [0, 1].
      temperature: T, in units of the logits.
    """

    epsilon: float = 72 / 255
    temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check(vars(self), epsilon=number(0), temperature=positive())

    def check_head(self, model):
        check_unit_logits("offset", model)

    def raised(self, model, variables, features, logits, labels, moment):
        return lowered(logits, labels, offset_of(self.epsilon, model, variables))

    def of_softmax(self, logits, labels):
        t = self.temperature
        return t * optax.softmax_cross_entropy_with_integer_labels(logits / t, labels)
