"""Last layer normalization (Singla et al., 2022): a linear head with rows of unit length."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.certificates import certify_lln
from lipjax.certificates.lln import row_distances
from lipjax.layers import plain
from lipjax.layers.head import Head, affine_params, lengths
from lipjax.layers.rounding import SQUARE_ROOT, gamma, largest, underflow

_SMALLEST, _LARGEST = 1e-15, 1e15


class LastLayerNormalization(Head):
    """f = (W / row norms) y + b, (N, D) → (N, num_classes).

    Params: weight (K, D), stored raw, and bias (K,).

    Bound: ‖w_i − w_j‖ of the difference of the logits of two classes i, j, w the normalised rows; 1 of each logit.  The
    radius is min (f_l − f_i) / ‖w_l − w_i‖ over all rivals i of the label l, the distance to their hyperplanes: exact.

    Source: Singla, Singla & Feizi, ICLR 2022; the norm ‖w_l − w_i‖, in float64 (`certificates.certify_lln`).

    Attributes:
      num_classes: K.
    """

    num_classes: int

    decayed: ClassVar[tuple[str, ...]] = ("weight",)
    unit_logits: ClassVar[bool] = True
    kind: ClassVar[str] = "last-layer normalization"
    why: ClassVar[str] = "distance to each rival's hyperplane, all rivals, closed form"
    radius: ClassVar[str] = (
        "min over i ≠ l of (logits[l] − logits[i] − rounding.logit_slack) / head.row_distances[l][i]"
    )

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        del train
        weight, bias = affine_params(self, self.num_classes, features.shape[-1])
        return features @ _unit_rows(weight).T + bias

    @nn.nowrap
    def certifier(self, own, curvature_file=None):
        del curvature_file
        weight, bias = own["params"]["weight"], own["params"]["bias"]
        size = np.abs(np.asarray(weight, np.float64)).max(axis=1, initial=0.0)
        if not ((size > _SMALLEST) & (size < _LARGEST)).all():
            row = int(np.argmin((size > _SMALLEST) & (size < _LARGEST)))
            raise ValueError(
                f"LastLayerNormalization: weight row {row} has the largest entry {size[row]:g}; it must lie between "
                f"{_SMALLEST:g} and {_LARGEST:g}, so that the network can divide by the norm of the row in float32"
            )
        return lambda features, labels, rivals=None, slack=0.0: certify_lln(
            features, weight, bias, labels, rivals, slack
        )

    @nn.nowrap
    def margin_drop(self, own, features, labels, radius):
        """r ‖w_l − w_i‖, which is exact."""
        rows = _unit_rows(own["params"]["weight"])
        return radius * lengths(rows[labels][:, None] - rows)

    @nn.nowrap
    def rounding(self, own, reach):
        """Two logits, each of D products with rows that are off by (D + 1) / 2 + SQUARE_ROOT + 1 units, and one sum."""
        bias, dimension = np.asarray(own["params"]["bias"], np.float64), np.shape(own["params"]["weight"])[1]
        size = reach + float(np.abs(bias).max(initial=0.0))
        bound = 2 * gamma(1.5 * dimension + SQUARE_ROOT + 4) * size + 2 * underflow(1, 4 * dimension + 4)
        return np.where(size < largest(own["params"]["bias"].dtype), bound, np.inf)

    @nn.nowrap
    def constants(self, own, curvature_file=None):
        """`row_distances`, at `[l, i]` one that is >= ‖w_l − w_i‖."""
        return {"row_distances": row_distances(np.asarray(own["params"]["weight"], np.float64))}

    @nn.nowrap
    def plain(self, own):
        rows = _unit_rows(jnp.asarray(own["params"]["weight"]))
        return [plain.matrix(np.asarray(rows).T, own["params"]["bias"], (0,))]


def _unit_rows(weight: jax.Array) -> jax.Array:
    return weight / jnp.linalg.norm(weight, axis=1, keepdims=True)
