"""Cayley convolution: an orthogonal convolution on the torus, by the Cayley transform at each frequency."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import odd
from lipjax.layers.checks import check_field, check_shapes
from lipjax.layers.grid import SMALL, grid_proof, is_in_range, padded, plain_grid, symbol_error, unit_of
from lipjax.layers.initializers import symmetric_uniform
from lipjax.layers.layer import Layer
from lipjax.layers.rounding import gamma
from lipjax.ops.blocked import product
from lipjax.ops.frequency import Grid, cayley, grid_conv, symbols
from lipjax.ops.fusion import stored


class CayleyConv(Layer):
    """y = (I − A)(I + A)⁻¹ x + b, A = W − Wᵀ, W a convolution with circular padding.

    Works on C = max(C_in, features) channels: the input is zero-padded when features > C_in, and the first `features`
    channels are kept when features < C_in.

    Bound: 1.  Orthogonal for every W, by the Cayley transform at each frequency.

    Rounding: that of five products (`layers.grid`), and of the solution with I + A at each frequency (`_error`).

    Source: Trockman & Kolter, ICLR 2021.

    Params: kernel (k, k, C, C), bias (features,).

    Attributes:
      features: output channels.
      kernel_size: k, odd.
    """

    features: int
    kernel_size: int = 3

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check_field("CayleyConv", "kernel_size", self.kernel_size, odd())
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        del train
        x = stored(x)
        channels = max(x.shape[-1], self.features)
        shape = (self.kernel_size, self.kernel_size, channels, channels)
        kernel = self.param("kernel", nn.initializers.normal((channels * self.kernel_size**2) ** -0.5), shape)
        bias = self.param("bias", symmetric_uniform(channels**-0.5), (self.features,))
        grid = self._grid(x.shape[1:3])
        y = grid_conv(padded(x, channels), _matrices(kernel, grid), grid)
        return stored(y[..., : self.features] + bias)

    @nn.nowrap
    def _grid(self, size) -> Grid:
        return (1, 1) if self.kernel_size == 1 else (size[0], size[1])

    @nn.nowrap
    def evaluate(self, own, x):
        """As `__call__`, with the sums of the products in blocks (`ops.blocked`)."""
        return stored(self._linear(own["params"]["kernel"], stored(x)) + own["params"]["bias"])

    @nn.nowrap
    def _linear(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
        """Q x in evaluation."""
        grid = self._grid(x.shape[1:3])
        return grid_conv(padded(x, kernel.shape[2]), _matrices(kernel, grid), grid, product)[..., : self.features]

    @nn.nowrap
    def proof(self, own, shape):
        """1: the Cayley transform of a skew-Hermitian matrix is unitary; less where channels are cut."""
        k, channels = self.kernel_size, max(shape[-1], self.features)
        check_shapes("CayleyConv", own["params"], kernel=(k, k, channels, channels), bias=(self.features,))
        kernel, grid = np.asarray(own["params"]["kernel"]), self._grid(shape[:2])
        why, kind = "A is skew-Hermitian at each frequency", f"Cayley convolution {self.kernel_size}×{self.kernel_size}"
        bias, error = np.asarray(own["params"]["bias"], np.float64), _error(kernel, grid)

        def run(x):
            return self._linear(jnp.asarray(kernel, jnp.float64), x)

        return grid_proof(kind, why, run, error, kernel.shape[2], bias, grid, shape)

    @nn.nowrap
    def plain(self, own, shape):
        grid = self._grid(shape)
        matrices = _matrices(own["params"]["kernel"], grid)
        return plain_grid(matrices, own["params"]["bias"], self.features, grid, shape)


def _matrices(kernel: jax.Array, grid: Grid) -> jax.Array:
    """The orthogonal matrix at each frequency, as it multiplies rows of channels."""
    return cayley(symbols(jnp.asarray(kernel), grid))


def _error(raw: np.ndarray, grid: Grid) -> float | None:
    """A bound of the norm by which the executed Q = 2 (I + A)⁻¹ − I are off, None where it is not small.

    With F = ‖A‖_F and C channels, to first order:

    A off by E, skew as A is: δQ = −2 (I + A)⁻¹ E (I + A)⁻¹, at most 2 ‖E‖.
    I + A*A, its Cholesky factor and two substitutions: backward errors of (16C + 64) units of C + F², its trace, for
    each column of (I + A)⁻¹, whose norm together is at most C^½: as ‖(I + A*A)⁻¹‖ <= 1, by γ (C + F²) C^½.
    I − A and the result: a few units of C^½ + F.
    """
    if not is_in_range(raw):
        return None
    kernel = np.asarray(raw, np.float64)
    channels, symbol = kernel.shape[2], symbols(kernel, grid)
    skew = symbol - symbol.conj().swapaxes(1, 2)
    frobenius = math.sqrt(float((np.abs(skew) ** 2).sum(axis=(1, 2)).max())) * (1 + 1e-9)
    root = math.sqrt(channels)
    parts = [
        2 * symbol_error(kernel) + gamma(1) * frobenius,
        gamma(16 * channels + 64) * (channels + frobenius**2) * root,
        gamma(4) * (root + frobenius),
    ]
    return 2 * 1.5 * sum(parts) if sum(parts) * unit_of(raw) < SMALL else None
