"""What every loss has: a call, heads that can carry it, and, if it is of a softmax, a scale that may be learned."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from lipjax.config import check, flag
from lipjax.models import Classifier

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Moment:
    """When in a training a loss is asked, and what is trained beside the network.

    Attributes:
      progress: () in [0, 1], the part of all steps that is done.
      parameters: see `Loss.parameters`.
    """

    progress: jax.Array
    parameters: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of the logits h(g(x)).  The fields of its class are the keys of config.loss."""

    mixes: ClassVar[bool] = True  # whether it makes sense of an image between two labels (config.data.mixup)

    def check_head(self, model: Classifier) -> None:
        """Raise ValueError, naming loss and head, where the head cannot carry the loss."""

    def parameters(self) -> dict[str, jax.Array]:
        """The initial values of what is trained beside the network; they are params/loss of the training state."""
        return {}

    def __call__(
        self,
        model: Classifier,
        variables: Variables,
        features: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        moment: Moment,
    ) -> tuple[jax.Array, jax.Array, Variables]:
        """(loss, clean logits (N, K), spectral variables with the head's caught up) of features (N, D), labels (N,)."""
        del key
        logits, spectral = logits_of(model, variables, features)
        raised = self.raised(model, {**variables, "spectral": spectral}, features, logits, labels, moment)
        return self.of_logits(raised, labels, moment).mean(), logits, spectral

    def raised(self, model, variables, features, logits, labels, moment: Moment) -> jax.Array:
        """The logits (N, K) that the loss is of: those of the rivals raised, or that of the label lowered."""
        return logits

    def of_logits(self, logits: jax.Array, labels: jax.Array, moment: Moment) -> jax.Array:
        """(N,), the loss of each image."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class SoftmaxLoss(Loss):
    """A loss of softmax(s z / T), z what becomes of the logits, T a constant.

    s = 1, or e^t with t learned from 0: cross entropy alone grows the logits by the weights, which a network whose
    Lipschitz constant is held cannot do.  No certificate changes: s belongs to the loss and not to the network; and a
    head that had it would certify the same, since a margin and its Lipschitz constant are multiplied alike.

    Attributes:
      trainable_scale: whether s is learned.
    """

    trainable_scale: bool = False

    def __post_init__(self):
        check(vars(self), trainable_scale=flag())

    def parameters(self):
        return {"log_scale": jnp.zeros(())} if self.trainable_scale else {}

    def of_logits(self, logits, labels, moment):
        scale = jnp.exp(moment.parameters["log_scale"]) if self.trainable_scale else 1.0
        return self.of_softmax(scale * logits, labels)

    def of_softmax(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """(N,): cross entropy."""
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def logits_of(model: Classifier, variables: Variables, features: jax.Array) -> tuple[jax.Array, Variables]:
    """(logits (N, K), spectral variables with those of the head caught up)."""
    logits, updated = model.apply(variables, features, train=True, method="classify", mutable=["spectral"])
    return logits, {**variables["spectral"], **updated.get("spectral", {})}


def lowered(logits: jax.Array, labels: jax.Array, offset: jax.Array | float) -> jax.Array:
    """The logits with that of the label lowered by `offset`."""
    return logits - offset * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def check_unit_logits(name: str, model: Classifier) -> None:
    """Raise ValueError, naming loss and head, unless an offset of the head's logits is a distance of features."""
    head = model.parts()[1]
    if not head.unit_logits:
        raise ValueError(
            f"config.loss.name={name!r}: needs a head with unit_logits, whose weights cannot grow into the offset; "
            f"{type(head).__name__} has none: take 'emma'"
        )


def offset_of(epsilon: float, model: Classifier, variables: Variables) -> jax.Array | float:
    """√2 ε Lip: the margin of a linear head with orthogonal rows of unit length that certifies ε (pixels in [0, 1]).

    Lip is `Classifier.estimated_bound`, of features.
    """
    return 2**0.5 * epsilon * model.estimated_bound(variables)
