"""Dense layers, and convolutions of patches, whose matrix has orthogonal rows or columns."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import check, integer, one_of, or_none
from lipjax.layers import plain
from lipjax.layers.checks import check_shapes
from lipjax.layers.convolution import COMPUTE_DTYPES, matrix_proof, sides
from lipjax.layers.layer import Layer, Proof, Shape, norm_at_zero, tracked
from lipjax.ops.blocked import product
from lipjax.ops.fusion import stored
from lipjax.ops.general_conv import patches
from lipjax.ops.orthogonal_matrices import METHODS

_MARGIN = 1e-7  # from where the proof starts


class OrthogonalDense(Layer):
    """y = x Q + b, (N, …, D) → (N, …, features), Q with orthonormal columns, or rows where features > D.

    Q is made of a matrix V of parameters by `kind` (`ops.orthogonal_matrices`): 'cholesky', whose norm is a little
    below 1, 'cayley' or 'exponential'.  Evaluation multiplies by spectral/matrix, the Q of the last training step or,
    after `settled` and `tightened`, of the parameters.

    Bound: the norm of spectral/matrix, proven of these very numbers, whatever made them, by a Cholesky factorisation of
    their Gram matrix (`ops.dense_bounds.dense_norm_bound`): 1, or just below, but for rounding.

    Rounding: one product with its sums in blocks, and b (`convolution.matrix_rounding`).

    Source: LiResNet, Hu et al., NeurIPS 2023 (Cholesky); Trockman & Kolter, ICLR 2021 (Cayley).

    Variables: params/kernel (D, features), V or, of a residual layer, W of V = I + W · gain / √residual, params/gain
    (features,) there, and params/bias (features,); spectral/matrix (D, features).

    Attributes:
      features: outputs.
      kind: one of METHODS.
      residual: None, or so many such layers in a row; for 'cholesky' alone.
      compute_dtype: of the product in training, 'float32' or 'bfloat16'; Q is made in float32.
    """

    features: int
    kind: str = "cholesky"
    residual: int | None = None
    compute_dtype: str = "float32"

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check(vars(self), features=integer(1), kind=one_of(*METHODS), residual=or_none(integer(1)))
        check(vars(self), compute_dtype=one_of(*COMPUTE_DTYPES))
        if self.residual is not None and self.kind != "cholesky":  # the others take a generator, in which I cancels
            raise ValueError(f"residual={self.residual}: must be None with kind={self.kind!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x, shape = stored(x), (x.shape[-1], self.features)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if not train and not self.is_initializing():
            return _evaluated(self.variables, x)
        std = shape[0] ** -0.5 if self.residual is None else 1 / shape[0]
        params = {"kernel": self.param("kernel", nn.initializers.normal(std), shape)}
        if self.residual is not None:
            params["gain"] = self.param("gain", nn.initializers.ones, (self.features,))
        return _in_training(self, x, self.matrix(params), bias)

    @nn.nowrap
    def evaluate(self, own, x):
        return _evaluated(own, x)

    @nn.nowrap
    def matrix(self, params):
        """Q (D, features)."""
        kernel = params["kernel"]
        if self.residual is not None:
            identity = jnp.eye(kernel.shape[0], kernel.shape[1], dtype=kernel.dtype)
            kernel = identity + kernel * (params["gain"] / self.residual**0.5)
        return METHODS[self.kind](kernel)

    @nn.nowrap
    def proof(self, own, shape):
        return _proof(f"dense, {self.kind}", own, shape, self.features)

    @nn.nowrap
    def settled(self, own):
        return _settled(own, self.matrix)

    @nn.nowrap
    def folded(self, own, shape):
        return self, _folded(own)

    @nn.nowrap
    def plain(self, own, shape):
        return [plain.matrix(_matrix(own), own["params"]["bias"], shape)]


class PatchConv(Layer):
    """Patches of s×s pixels, each times an orthogonal matrix: a convolution with k = stride = s, a neck or a stem.

    (N, H, W, C) → (N, ⌈H/s⌉, ⌈W/s⌉, features); what is said of `OrthogonalDense` holds with D = s² C, in the order
    (row, column, c).  A side that s does not divide is filled up with zeros, below or to the right: an isometry.

    Variables: params/kernel (D, features), params/bias (features,); spectral/matrix (D, features).

    Bound: that of the matrix, as in `OrthogonalDense`: patches have no entry in common.

    Rounding: one product a patch with its sums in blocks, and b (`convolution.matrix_rounding`).

    Source: the neck of LiResNet, Hu et al., NeurIPS 2023.

    Attributes:
      features: output channels.
      patch: s.
      kind: one of METHODS.
      compute_dtype: of the product in training, 'float32' or 'bfloat16'.
    """

    features: int
    patch: int = 4
    kind: str = "cholesky"
    compute_dtype: str = "float32"

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check(vars(self), features=integer(1), patch=integer(1), kind=one_of(*METHODS))
        check(vars(self), compute_dtype=one_of(*COMPUTE_DTYPES))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = stored(patches(x, self.patch))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if not train and not self.is_initializing():
            return _evaluated(self.variables, x)
        kernel = self.param("kernel", nn.initializers.normal(x.shape[-1] ** -0.5), (x.shape[-1], self.features))
        return _in_training(self, x, METHODS[self.kind](kernel), bias)

    @nn.nowrap
    def evaluate(self, own, x):
        return _evaluated(own, patches(x, self.patch))

    @nn.nowrap
    def proof(self, own, shape):
        rearranged = (*(-(-n // self.patch) for n in sides(shape)), self.patch**2 * shape[2])
        return _proof(f"patches {self.patch}×{self.patch}, {self.kind}", own, rearranged, self.features)

    @nn.nowrap
    def settled(self, own):
        return _settled(own, lambda params: METHODS[self.kind](params["kernel"]))

    @nn.nowrap
    def folded(self, own, shape):
        return self, _folded(own)

    @nn.nowrap
    def plain(self, own, shape):
        s, around = self.patch, [(0, -side % self.patch) for side in shape[:2]]
        kernel = plain.array(_matrix(own)).reshape(s, s, shape[2], self.features)
        return [plain.conv(kernel, own["params"]["bias"], s, around)]


def _in_training(layer, x, matrix, bias):
    """x Q + b, and Q kept in spectral/matrix where that is mutable."""
    if layer.is_mutable_collection("spectral"):
        layer.put_variable("spectral", "matrix", jax.lax.stop_gradient(matrix))
    if layer.compute_dtype == "bfloat16" and not layer.is_initializing():
        matrix = matrix.astype(jnp.bfloat16)
    return stored((x.astype(matrix.dtype) @ matrix).astype(x.dtype) + bias)


def _evaluated(own, x):
    return stored(product(stored(x), _matrix(own)) + own["params"]["bias"])


def _matrix(own):
    return tracked(own, "an orthogonal layer")["matrix"]


def _proof(kind: str, own: Mapping[str, Any], shape: Shape, features: int) -> Proof:
    """Of x D + b for each pixel of (…, D) alike, D = spectral/matrix."""
    check_shapes(kind, tracked(own, "an orthogonal layer"), matrix=(shape[-1], features))
    check_shapes(kind, own["params"], bias=(features,))
    matrix = np.asarray(_matrix(own), np.float64)
    offset = norm_at_zero(own["params"]["bias"], (*shape[:-1], matrix.shape[1]))
    kind = f"{kind}, {matrix.shape[0]} × {matrix.shape[1]}"
    return matrix_proof(kind, matrix, offset, math.prod(shape[:-1]), _MARGIN)


def _settled(own, matrix_of):
    """The variables with the matrix of the parameters; a folded layer has the matrix alone."""
    if "kernel" not in own["params"]:
        return {**own}
    return {**own, "spectral": {**tracked(own, "an orthogonal layer"), "matrix": matrix_of(own["params"])}}


def _folded(own):
    return {"params": {"bias": own["params"]["bias"]}, "spectral": {"matrix": _matrix(own)}}
