"""A linear head with rows of any length, as ordinary networks end in."""

from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

from lipjax.certificates import certify_linear
from lipjax.certificates.lln import linear_distances
from lipjax.layers import plain
from lipjax.layers.checks import check_shapes
from lipjax.layers.head import Head, affine_params, lengths
from lipjax.layers.last_layer_normalization import LastLayerNormalization
from lipjax.layers.rounding import gamma, largest, underflow


class LinearHead(Head):
    """f = W y + b, (N, D) → (N, num_classes); nothing is normalised.

    Params: weight (K, D) and bias (K,).

    Bound: ‖w_i − w_j‖ of the difference of the logits of two classes i, j.  The radius is min (f_l − f_i) / ‖w_l − w_i‖
    over all rivals i of the label l, the distance to their hyperplanes: exact.

    Source: elementary; in float64 by `certificates.certify_linear` (docs/plain.md).

    Attributes:
      num_classes: K.
    """

    num_classes: int

    decayed: ClassVar[tuple[str, ...]] = ("weight",)
    kind: ClassVar[str] = "linear"
    why: ClassVar[str] = LastLayerNormalization.why
    radius: ClassVar[str] = LastLayerNormalization.radius

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        del train
        weight, bias = affine_params(self, self.num_classes, features.shape[-1])
        return features @ weight.T + bias

    @nn.nowrap
    def certifier(self, own, curvature_file=None):
        del curvature_file
        weight, bias = own["params"]["weight"], own["params"]["bias"]
        check_shapes("LinearHead", own["params"], weight=(self.num_classes, np.shape(weight)[-1]))
        check_shapes("LinearHead", own["params"], bias=(self.num_classes,))
        return lambda features, labels, rivals=None, slack=0.0: certify_linear(
            features, weight, bias, labels, rivals, slack
        )

    @nn.nowrap
    def margin_drop(self, own, features, labels, radius):
        """r ‖w_l − w_i‖, which is exact."""
        rows = own["params"]["weight"]
        return radius * lengths(rows[labels][:, None] - rows)

    @nn.nowrap
    def rounding(self, own, reach):
        """Two logits, each of D products and one sum."""
        weight, bias = (np.asarray(own["params"][name], np.float64) for name in ("weight", "bias"))
        norm = float(np.linalg.norm(weight, axis=1).max(initial=0.0)) * (1 + 1e-9)
        with np.errstate(over="ignore", invalid="ignore"):
            size = reach * norm + float(np.abs(bias).max(initial=0.0))
            bound = 2 * gamma(weight.shape[1] + 1) * size + 2 * underflow(1, 2 * weight.shape[1] + 2)
            highest = np.maximum(size, reach)
        return np.where(highest < largest(own["params"]["bias"].dtype), bound, np.inf)

    @nn.nowrap
    def constants(self, own, curvature_file=None):
        """`row_distances`, at `[l, i]` one that is >= ‖w_l − w_i‖."""
        return {"row_distances": linear_distances(np.asarray(own["params"]["weight"], np.float64))}

    @nn.nowrap
    def plain(self, own):
        return [plain.matrix(plain.array(own["params"]["weight"]).T, own["params"]["bias"], (0,))]
