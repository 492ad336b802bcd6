"""Channels mixed by matrices with orthonormal columns or rows, which training keeps so (LipNeXt, arXiv 2601.18513)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.config import check, integer, one_of
from lipjax.layers import plain
from lipjax.layers.containers import composed
from lipjax.layers.convolution import COMPUTE_DTYPES, matrix_rounding
from lipjax.layers.layer import Layer, Proof, norm_at_zero
from lipjax.layers.rounding import COARSEST, enlarged, gamma, underflow
from lipjax.layers.shift import shifted_channels
from lipjax.ops.blocked import product
from lipjax.ops.dense_bounds import near_orthogonal_norm_bound, orthonormality_error
from lipjax.ops.mixing import mixed
from lipjax.ops.orthonormal import along, exact_polar

_WHY = "Cholesky factorisations of its Gram matrix, and of that less 1"


class Orthonormal(Layer):
    """What layers of matrices with orthonormal columns or rows have in common: how training keeps them so.

    The matrices are the parameters named in `matrices`.  Gradients are those along the manifold (`ops.orthonormal`);
    `projected` brings a matrix back after each step by Newton–Schulz steps, to 1e-5; `tightened` by the singular value
    decomposition in float64, to the rounding of its dtype.  There is no state beside the parameters.
    """

    matrices: ClassVar[tuple[str, ...]] = ()

    @nn.nowrap
    def proof(self, own, shape):
        raise NotImplementedError

    @nn.nowrap
    def matrix(self, name: str, rows: int, columns: int) -> jax.Array:
        """Under `__call__`: the parameter."""
        return along(self.param(name, nn.initializers.orthogonal(), (rows, columns)))

    @nn.nowrap
    def projected(self, own):
        return self._each(own, ops.polar)

    @nn.nowrap
    def tightened(self, own, shape):
        return self._each(own, lambda matrix: jnp.asarray(exact_polar(matrix), matrix.dtype))

    @nn.nowrap
    def _each(self, own: Mapping[str, Any], change) -> dict[str, Any]:
        return {**own, "params": {**own["params"], **{name: change(own["params"][name]) for name in self.matrices}}}


class OrthogonalMixing(Orthonormal):
    """x M + b for each pixel, (…, C) → (…, features): an isometry, or, for fewer features than C, 1-Lipschitz.

    Params: matrix (C, features) with orthonormal rows, or columns where features < C; bias (features,).

    Bound: (1 + e)^½ with a proven e >= ‖MᵀM − 1‖, of rows ‖MMᵀ − 1‖ (`ops.dense_bounds.near_orthogonal_norm_bound`);
    1 + 1e-6, or less, in float32.

    Rounding: one product with its sums in blocks, and b (`convolution.matrix_rounding`).

    Source: LipNeXt, arXiv 2601.18513; steps to the nearest orthonormal matrix are ours (docs/lipnext.md).

    Attributes:
      features: of the output.
      compute_dtype: of the products in training, one of COMPUTE_DTYPES; evaluation has that of its variables.
    """

    features: int
    compute_dtype: str = "float32"

    matrices: ClassVar[tuple[str, ...]] = ("matrix",)

    def __post_init__(self):
        _check(self, features=integer(1), compute_dtype=one_of(*COMPUTE_DTYPES))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        matrix = self.matrix("matrix", x.shape[-1], self.features)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return mixed(x, matrix, self.compute_dtype if train else None) + bias

    @nn.nowrap
    def evaluate(self, own, x):
        """As `__call__`, with the sums in blocks (`ops.blocked`)."""
        return product(x, own["params"]["matrix"]) + own["params"]["bias"]

    @nn.nowrap
    def proof(self, own, shape):
        matrix, bias = (np.asarray(own["params"][name], np.float64) for name in ("matrix", "bias"))
        return _matrix_proof(matrix, shape, bias)

    @nn.nowrap
    def plain(self, own, shape):
        return [plain.matrix(own["params"]["matrix"], own["params"]["bias"], shape)]


class ShiftMixing(Orthonormal):
    """(Rᵀ S R x) M + b for each pixel, S a shift of channels by one pixel (`ops.shift`): (N, H, W, C) → the same.

    The block of LipNeXt without its activation: channels are rotated by R, a part of them is shifted up, down, left or
    right, and rotated back; then mixed by M.  What is not shifted need not be rotated: with R (C, k) the columns whose
    channels are shifted, Rᵀ S R x = x + (S (x R) − x R) Rᵀ.  So a block costs C² + 2 k C multiplications a pixel, and
    not 2 C².

    Params: rotation (C, k), orthonormal columns, k = fraction · C; mixing (C, C), orthogonal; bias (C,).

    Bound: (1 + 4 e (1 + e))^½ of the shift, e >= ‖RᵀR − 1‖ proven, times that of M, as in `OrthogonalMixing`.

    Rounding: of x R, the difference, the product with Rᵀ and the sum, one after the other, then of the product with M.

    Source: LipNeXt, arXiv 2601.18513; the shorter formula is ours (docs/lipnext.md).

    Attributes:
      fraction: of the channels that are shifted, a quarter of them in each direction; fraction · C a multiple of 4.
      compute_dtype: of the products in training, one of COMPUTE_DTYPES; evaluation has that of its variables.
    """

    fraction: float = 0.125
    compute_dtype: str = "float32"

    matrices: ClassVar[tuple[str, ...]] = ("rotation", "mixing")

    def __post_init__(self):
        _check(self, compute_dtype=one_of(*COMPUTE_DTYPES))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        channels, dtype = x.shape[-1], self.compute_dtype if train else None
        count = shifted_channels("ShiftMixing", self.fraction, channels)
        rotation = self.matrix("rotation", channels, count)
        mixing = self.matrix("mixing", channels, channels)
        rotated = mixed(x, rotation, dtype)
        x = x + mixed(ops.shift(rotated, count) - rotated, rotation.T, dtype)
        return mixed(x, mixing, dtype) + self.param("bias", nn.initializers.zeros, (channels,))

    @nn.nowrap
    def evaluate(self, own, x):
        """As `__call__`, with the sums in blocks (`ops.blocked`)."""
        params = own["params"]
        rotated = product(x, params["rotation"])
        moved = ops.shift(rotated, rotated.shape[-1]) - rotated
        x = x + product(moved, params["rotation"].T)
        return product(x, params["mixing"]) + params["bias"]

    @nn.nowrap
    def proof(self, own, shape):
        """The shift: T = 1 + R (S − 1) Rᵀ on columns, and with E = RᵀR − 1, ‖E‖ <= e,

            TᵀT − 1 = R ((S − 1) + (S − 1)ᵀ + (S − 1)ᵀ (1 + E) (S − 1)) Rᵀ = R (S − 1)ᵀ E (S − 1) Rᵀ,

        since (S − 1)ᵀ (S − 1) = 2 − S − Sᵀ for a permutation S.  Hence ‖T‖² <= 1 + 4 e (1 + e).
        """
        rotation, mixing, bias = (np.asarray(own["params"][k], np.float64) for k in ("rotation", "mixing", "bias"))
        count = shifted_channels("ShiftMixing", self.fraction, shape[-1])
        if rotation.shape != (shape[-1], count) or mixing.shape != (shape[-1], shape[-1]):
            raise ValueError(f"ShiftMixing: {rotation.shape} and {mixing.shape} are no matrices for {shape}")
        shifted = self._shift_proof(rotation, shape)
        parts = (("shift", shifted), ("mixing", _matrix_proof(mixing, shape, bias)))
        bound, offset, rounding = composed(parts)
        return Proof(f"shift of {count} rotated channels, mixing", bound, "product", offset, None, rounding, parts)

    @nn.nowrap
    def _shift_proof(self, rotation: np.ndarray, shape: tuple[int, ...]) -> Proof:
        """Rounding: that of x R, of the difference, and of the product with Rᵀ, one after the other; and of the sum."""
        bound = rotated_shift_bound(rotation)
        lost, inner = underflow(math.prod(shape), 2), (*shape[:-1], rotation.shape[1])
        moved = Proof("", 2.0, "", rounding=enlarged(2 * gamma(1), lost))
        down, up = _matrix_proof(rotation, shape), _matrix_proof(np.ascontiguousarray(rotation.T), inner)
        rounding = composed((("", down), ("", moved), ("", up)))[2]
        assert rounding is not None
        more = 1 + COARSEST * gamma(1)
        rounding = enlarged(rounding.relative * more + gamma(1) * bound, rounding.absolute * more + lost)
        return Proof("rotated channels shifted, circularly", bound, _WHY, rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        rotation, mixing, bias = (plain.array(own["params"][k]) for k in ("rotation", "mixing", "bias"))
        moved = plain.total([{"kind": "shift", "count": rotation.shape[1]}], [plain.affine(-1.0)])
        branch = [plain.matrix(rotation, None, shape), moved, plain.matrix(rotation.T, None, shape)]
        return [plain.total([], branch), plain.matrix(mixing, bias, shape)]


def rotated_shift_bound(rotation: np.ndarray) -> float:
    """Of x + R (S − 1) Rᵀ x, S a permutation, R a float64 (C, k): (1 + 4 e (1 + e))^½ = 1 + 2 e (`ShiftMixing.proof`).

    e >= ‖RᵀR − 1‖; of more columns than rows e >= ‖RRᵀ − 1‖, and ‖R S Rᵀ − (RRᵀ − 1)‖ <= (1 + e) + e.
    """
    error = orthonormality_error(rotation)
    return (1 + 4 * error * (1 + error)) ** 0.5 * (1 + 1e-15)


def _matrix_proof(matrix: np.ndarray, shape: tuple[int, ...], bias: np.ndarray | None = None) -> Proof:
    """Of x M + b for each pixel of inputs of that shape."""
    rows, columns = matrix.shape
    if rows != shape[-1] or (bias is not None and bias.shape != (columns,)):  # a shorter bias would be broadcast
        of_bias = "" if bias is None else f" and bias {bias.shape}"
        raise ValueError(f"OrthogonalMixing: matrix {matrix.shape}{of_bias} are not of inputs {shape}")
    bound = near_orthogonal_norm_bound(matrix)
    offset = 0.0 if bias is None else norm_at_zero(bias, (*shape[:-1], columns))
    rounding = matrix_rounding(matrix, bound, offset, math.prod(shape[:-1]))
    return Proof(f"orthonormal matrix {rows} × {columns}", bound, _WHY, offset, rounding=rounding)


def _check(layer: Layer, **allowed) -> None:
    """ValueError, with the name of the layer."""
    try:
        check(vars(layer), **allowed)
    except ValueError as error:
        raise ValueError(f"{type(layer).__name__}: {error}") from error
