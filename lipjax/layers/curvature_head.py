"""The curvature head of CRC-Lip (paper, section 5): a softplus network of one hidden layer."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.certificates import certify_crc
from lipjax.certificates.curvature_cache import CurvatureCache
from lipjax.layers import plain
from lipjax.layers.head import Head, lengths
from lipjax.layers.initializers import symmetric_uniform
from lipjax.layers.layer import tracked
from lipjax.layers.rounding import gamma, largest, underflow
from lipjax.ops.ritz import ritz_vector, unit

KRYLOV = 4  # of the curvatures that EMMA works with
TRAINING_RIVALS = 9  # training looks at the rivals with the highest logits only; certificates look at all


def softplus_mlp(head: Mapping[str, jax.Array], features: jax.Array) -> jax.Array:
    """h(y) = W2 softplus(W1 y + b1) + b2, (…, D) → (…, K); head: w1 (H, D), b1 (H,), w2 (K, H), b2 (K,)."""
    return jax.nn.softplus(features @ head["w1"].T + head["b1"]) @ head["w2"].T + head["b2"]


class CurvatureHead(Head):
    """W2 softplus(W1 y + b1) + b2, one hidden layer, (N, D) → (N, num_classes).

    Bound: m = λmax(W1ᵀ diag(¼ max(0, −w)) W1) of the curvature from below of f_l − f_i, w = W2_l − W2_i, proven.  For
    any step δ, with f and g the margin f_l − f_i and its gradient at y + δ, ρ = δ + η g and 0 <= η < 1/m, weak duality
    gives the radius r² >= ‖δ‖² + 2 η f − ‖ρ‖² / (1 − η m) (`certificates.certify_crc`).

    Source: CRC-Lip, Singla & Feizi, NeurIPS 2022, section 5; the bound for any δ and η is ours (docs/crc.md).

    Params: w1 (H, D), b1 (H,), w2 (K, H), b2 (K,), which `certificates.certify_crc` takes as they are.
    spectral/power_vector (D,): a unit vector that follows the top singular vector of W1, from which the curvature
    regulariser starts; with train=True and 'spectral' mutable it advances by one power step a call.

    Attributes:
      num_classes: K.
      hidden: H.
    """

    num_classes: int
    hidden: int = 4096

    kind: ClassVar[str] = "curvature head"
    why: ClassVar[str] = "weak duality with a proven curvature bound, all rivals (docs/crc.md)"
    radius: ClassVar[str] = (
        "min over i ≠ l of ((‖g‖² + 2 m f)^½ − ‖g‖) / m, f = logits[l] − logits[i] − rounding.logit_slack, g the "
        "gradient of f in the features, m = head.curvature_bounds[l][i], f / ‖g‖ where m = 0; in real arithmetic. "
        "lipjax.certificates.certify_crc proves more"
    )

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        dimension = features.shape[-1]
        outer, inner = symmetric_uniform(self.hidden**-0.5), symmetric_uniform(dimension**-0.5)
        head = {
            "w1": self.param("w1", inner, (self.hidden, dimension)),
            "b1": self.param("b1", inner, (self.hidden,)),
            "w2": self.param("w2", outer, (self.num_classes, self.hidden)),
            "b2": self.param("b2", outer, (self.num_classes,)),
        }
        if self.is_initializing():
            self.variable("spectral", "power_vector", self._start, dimension, features.dtype)
        elif train and self.is_mutable_collection("spectral"):
            vector = tracked(self.variables, "CurvatureHead")["power_vector"]
            self.put_variable("spectral", "power_vector", power_step(head["w1"], vector))
        return softplus_mlp(head, features)

    @nn.nowrap
    def certifier(self, own, curvature_file=None):
        head = own["params"]
        curvature = CurvatureCache(curvature_file, head["w1"], head["w2"])
        return lambda features, labels, rivals=None, slack=0.0: certify_crc(
            features, head, labels, rivals, curvature, slack
        )

    @nn.nowrap
    def rounding(self, own, reach):
        """γ of all sums and of softplus (`ops.crc.lower_bound`: 32 units) times the largest sums of absolute values."""
        w1, b1, w2, b2 = (np.abs(np.asarray(own["params"][name], np.float64)) for name in ("w1", "b1", "w2", "b2"))
        with np.errstate(over="ignore", invalid="ignore"):
            slopes, constants = w2 @ np.linalg.norm(w1, axis=1), w2 @ (b1 + 1) + b2
            size = (np.multiply.outer(reach, slopes) + constants).max(axis=-1)
            hidden = np.multiply.outer(reach, np.linalg.norm(w1, axis=1)) + b1
            lost = 2 * underflow(1, 2 * len(w1) * (w1.shape[1] + 4)) * (1 + w2.max(initial=0.0))
            bound = 2 * gamma(sum(w1.shape) + 100) * size + lost
            is_in_range = np.maximum(size, hidden.max(axis=-1, initial=0.0)) < largest(own["params"]["w1"].dtype)
            return np.where(is_in_range, bound, np.inf)

    @nn.nowrap
    def margin_drop(self, own, features, labels, radius):
        """r ‖∇(f_l − f_i)‖ + m r² / 2, m the curvature of f_l − f_i from below by `ritz_curvature`.

        Of the nine rivals i with the largest logits (as many as the paper certifies against); 0 of all others.
        """
        head = own["params"]
        logits, w1 = softplus_mlp(head, features), head["w1"]
        rivals = top_rivals(logits, labels)
        weights = head["w2"][labels][:, None] - head["w2"][rivals]  # (N, R, H)
        slopes = jax.nn.sigmoid(features @ w1.T + head["b1"])

        def curvatures(weights):
            return ritz_curvature(w1, jnp.maximum(-weights, 0) / 4)

        curvature = of_pairs(curvatures, head["w2"], labels, rivals)
        drop = radius * lengths(slopes[:, None] * weights @ w1) + radius**2 / 2 * curvature
        return jnp.zeros_like(logits).at[jnp.arange(len(labels))[:, None], rivals].set(drop)

    @nn.nowrap
    def _start(self, dimension: int, dtype) -> jax.Array:
        start = jax.random.normal(self.make_rng("params"), (dimension,), dtype)
        return start / jnp.linalg.norm(start)

    @nn.nowrap
    def constants(self, own, curvature_file=None):
        """`curvature_bounds`, at `[l, i]` one that is >= m of f_l − f_i."""
        params = own["params"]
        return {"curvature_bounds": CurvatureCache(curvature_file, params["w1"], params["w2"]).bounds()}

    @nn.nowrap
    def plain(self, own):
        w1, b1, w2, b2 = (plain.array(own["params"][name]) for name in ("w1", "b1", "w2", "b2"))
        return [plain.matrix(w1.T, b1, (0,)), plain.activation("softplus"), plain.matrix(w2.T, b2, (0,))]


def power_step(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """MᵀMv, normalised: (H, D), (D,) → (D,); a constant for the gradient."""
    matrix = jax.lax.stop_gradient(matrix)
    return unit(matrix.T @ (matrix @ vector))


def top_rivals(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """(N, K) logits, (N,) labels → (N, min(9, K − 1)) classes other than the label, by descending logit."""
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jax.lax.top_k(jnp.where(own, -jnp.inf, logits), min(TRAINING_RIVALS, logits.shape[-1] - 1))[1]


def of_pairs(estimate, w2: jax.Array, labels: jax.Array, rivals: jax.Array) -> jax.Array:
    """`estimate`, (P, H) → (P,), of w2_l − w2_i for labels l (N,) and rivals i (N, R), (N, R).

    Where the classes have fewer pairs than the batch, each of theirs is estimated once.
    """
    is_table = len(w2) ** 2 <= rivals.size
    difference = w2[:, None] - w2 if is_table else w2[labels][:, None] - w2[rivals]
    found = estimate(difference.reshape(-1, w2.shape[1])).reshape(difference.shape[:2])
    return found[labels[:, None], rivals] if is_table else found


def ritz_curvature(w1: jax.Array, weights: jax.Array) -> jax.Array:
    """xᵀ W1ᵀ diag(weights) W1 x for each row of `weights` (P, H), (P,): the largest eigenvalue from below.

    x is the `ritz_vector` from the row of W1 with the largest weight · ‖row‖², held constant in the gradient.
    """
    held = jax.lax.stop_gradient(w1)
    squares = jnp.sum(held**2, axis=1)

    def of_pair(weights):
        start = held[jnp.argmax(weights * squares)]
        return ritz_vector(lambda x: (weights * (held @ x)) @ held, start, KRYLOV)

    x = jax.vmap(of_pair)(jax.lax.stop_gradient(weights))
    return jnp.sum(weights * (x @ w1.T) ** 2, axis=-1)
