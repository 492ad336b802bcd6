"""A head states its certificate: features → logits, and the distance to the decision boundaries."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.certificates import Certificate
from lipjax.layers.initializers import symmetric_uniform
from lipjax.layers.layer import Variables, check_states, decay_mask, remember

# (features, labels, rivals=None, slack=0.0) → Certificate in feature space, see `Head.certifier`
Certifier = Callable[..., Certificate]


class Head(nn.Module):
    """Penultimate features (N, D) → logits (N, num_classes), called as head(features, train=False).

    A class with something of its own to compute defines `__call__` and `certifier`, and is refused, with a TypeError
    where it is defined, if it changes anything of a head and states no certificate.  Fields: num_classes, and its own.
    """

    decayed: ClassVar[tuple[str, ...]] = ()  # the parameters that weight decay applies to
    unit_logits: ClassVar[bool] = False  # whether each logit is 1-Lipschitz in the features, whatever the weights
    kind: ClassVar[str] = ""  # what it is, and ...
    why: ClassVar[str] = ""  # ... how its certificates are obtained
    radius: ClassVar[str] = ""  # in feature space, by the `constants` of the head, in words for where it is deployed

    @classmethod
    def __init_subclass__(cls, **keywords: Any) -> None:
        check_states(cls, "certifier")
        super().__init_subclass__(**keywords)
        remember(cls)

    @nn.nowrap
    def certifier(self, own: Variables, curvature_file: Path | None = None) -> Certifier:
        """The function that certifies features (N, D) for labels (N,), with what it needs computed once.

        It takes `rivals`, None for all, and, where the head states a `rounding`, `slack`, (N,): within the radius the
        logit of the label is larger by more than that than every other.

        Args:
          curvature_file: where costly bounds of this very head may be kept; a file of another head is not used.
        """
        raise NotImplementedError

    @nn.nowrap
    def rounding(self, own: Variables, reach: np.ndarray) -> np.ndarray | None:
        """What rounding can do, in float64, to the difference of two logits at features of norm <= reach, (N,) → (N,).

        In an arithmetic of roundoff t u, up to that of float32, t times as much (`layers.rounding`).  None: not stated,
        so that certificates are about real arithmetic.
        """
        return None

    @nn.nowrap
    def states_rounding(self, own: Variables) -> bool:
        """Whether the class that states `certifier` states `rounding` too: not that of another head."""
        makers = [next(base for base in type(self).__mro__ if name in vars(base)) for name in ("certifier", "rounding")]
        return makers[0] is makers[1] and self.rounding(own, np.zeros(1)) is not None

    @nn.nowrap
    def margin_drop(self, own: Variables, features: jax.Array, labels: jax.Array, radius: jax.Array) -> jax.Array:
        """(N, K), traced: how far f_l − f_i may fall within a distance `radius` of features (N, D), labels l (N,).

        Differentiable, for training; it can be an estimate, and no certificate uses it.
        """
        raise NotImplementedError

    @nn.nowrap
    def evaluate(self, own: Variables, features: jax.Array) -> jax.Array:
        """The logits in evaluation."""
        return self.apply(own, features, False)  # type: ignore[return-value]

    @nn.nowrap
    def plain(self, own: Variables) -> list[dict[str, Any]]:
        """The head in evaluation as plain layers, as `Layer.plain`."""
        name = type(self).__name__
        raise ValueError(f"{name}: has no plain form, so no network with it can be exported (docs/export.md)")

    @nn.nowrap
    def constants(self, own: Variables, curvature_file: Path | None = None) -> dict[str, np.ndarray]:
        """What the certificate needs beside the logits, for the metadata of an export, by name; float64, proven."""
        return {}

    @nn.nowrap
    def decay_mask(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The tree of params with True where weight decay applies."""
        return decay_mask(self.decayed, params)


remember(Head)


def affine_params(head: nn.Module, num_classes: int, dimension: int) -> tuple[jax.Array, jax.Array]:
    """weight (K, D) and bias (K,) of a head that is affine, each U(−1/√D, 1/√D) at first; in a compact method."""
    start = symmetric_uniform(dimension**-0.5)
    return head.param("weight", start, (num_classes, dimension)), head.param("bias", start, (num_classes,))


def lengths(vectors: jax.Array) -> jax.Array:
    """l2 norms of vectors (…, D), (…), with the derivative 0 at 0, where the root has none."""
    squares = jnp.sum(vectors**2, axis=-1)
    is_positive = squares > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, squares, 1.0)), 0.0)
