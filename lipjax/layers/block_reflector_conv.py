"""Block reflector orthogonal convolution (BRO): a reflection at each frequency of a zero-padded grid."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import check, flag, odd
from lipjax.layers.checks import OPTIONAL_COUNT, check_field, check_shapes
from lipjax.layers.grid import (
    SMALL,
    grid_proof,
    is_in_range,
    least_eigenvalues,
    padded,
    plain_grid,
    symbol_error,
    unit_of,
)
from lipjax.layers.initializers import symmetric_uniform
from lipjax.layers.layer import Layer
from lipjax.layers.rounding import gamma
from lipjax.ops.blocked import product
from lipjax.ops.frequency import LEAST, Grid, block_reflections, grid_conv, symbols
from lipjax.ops.fusion import stored


class BlockReflectorConv(Layer):
    """y = Q x + b, Q = I − 2 V (V*V + ε)⁻¹ V* with V a convolution of rank channels to C.

    On a cyclic grid of (H + k − 1) × (W + k − 1) points, to which x is zero-padded and from which it is cut back; for
    k = 1 pixel by pixel.  ε = ridge · mean(diag V*V) at each frequency.  Works on C = max(C_in, features) channels: the
    input is zero-padded, or the first `features` are kept.

    Bound: 1.  At each frequency Q is Hermitian with eigenvalues in (−1, 1], so the layer is orthogonal but for ε and
    what is cut; padding and transforms are isometries, and cutting enlarges no distance (`layers.grid`).

    Rounding: that of five products (`layers.grid`), and by how much the Q are off (`BlockReflectorConv._error`): by V,
    by its Gram matrix, Cholesky factor and substitution, times the condition of V*V + ε.

    Source: BRONet, ICML 2025.

    Params: kernel (k, k, C, rank), bias (features,).

    Attributes:
      features: output channels.
      kernel_size: k, odd.
      rank: None: C / 2, rounded up.
      ridge: of ε, from 1e-7 (the authors') to 0.01.  With 1e-7 the factorisation fails in float32 for kernels whose
        columns are nearly dependent, with 1e-5 it did not for up to 256 channels.
      identity: whether 1 is added to entry (c, c) of the middle tap, c < rank.
      scale: the kernel is multiplied by it first.
      use_bias: whether b is there; a `Centring` that follows has a shift of its own.
      circular: whether the grid is the image itself, so that nothing is padded and cut.
    """

    features: int
    kernel_size: int = 3
    rank: int | None = None
    ridge: float = 1e-5
    identity: bool = False
    scale: float = 1.0
    use_bias: bool = True
    circular: bool = False

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check_field("BlockReflectorConv", "kernel_size", self.kernel_size, odd())
        check_field("BlockReflectorConv", "rank", self.rank, OPTIONAL_COUNT)
        for name, least, most in (("ridge", 1e-7, 1e-2), ("scale", 1e-3, 1e3)):
            value = getattr(self, name)
            number = float(value) if isinstance(value, int | float) else math.nan
            if not least <= number <= most:
                raise ValueError(f"BlockReflectorConv: {name} must be from {least:g} to {most:g}, got {value!r}")
            object.__setattr__(self, name, number)
        check(vars(self), use_bias=flag(), circular=flag())
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        del train
        x = stored(x)
        channels = max(x.shape[-1], self.features)
        rank = self.rank or (channels + 1) // 2
        if rank > channels:
            raise ValueError(f"BlockReflectorConv: rank must be at most the {channels} channels, got {rank}")
        shape = (self.kernel_size, self.kernel_size, channels, rank)
        kernel = self.param("kernel", nn.initializers.normal((channels * self.kernel_size**2) ** -0.5), shape)
        grid = self._grid(x.shape[1:3])
        y = grid_conv(padded(x, channels), self._matrices(kernel, grid), grid)[..., : self.features]
        if self.use_bias:
            y = y + self.param("bias", symmetric_uniform(channels**-0.5), (self.features,))
        return stored(y)

    @nn.nowrap
    def _grid(self, size) -> Grid:
        more = 0 if self.circular else self.kernel_size - 1
        return (size[0] + more, size[1] + more) if self.kernel_size > 1 else (1, 1)

    @nn.nowrap
    def _kernel(self, kernel):
        """That of V."""
        middle = self.kernel_size // 2
        kernel = kernel if self.scale == 1.0 else kernel * self.scale
        if not self.identity:
            return kernel
        eye = np.zeros(kernel.shape, kernel.dtype)
        eye[middle, middle] = np.eye(kernel.shape[2], kernel.shape[3])
        return kernel + eye

    @nn.nowrap
    def _matrices(self, kernel: jax.Array, grid: Grid) -> jax.Array:
        """Q at each frequency, transposed, as it multiplies rows of channels: the conjugate, as it is Hermitian."""
        symbol = symbols(jnp.asarray(self._kernel(kernel)), grid)
        return block_reflections(symbol, self.ridge).conj()

    @nn.nowrap
    def evaluate(self, own, x):
        """As `__call__`, with the sums of the products in blocks (`ops.blocked`)."""
        y = self._linear(own["params"]["kernel"], stored(x))
        return stored(y + own["params"]["bias"] if self.use_bias else y)

    @nn.nowrap
    def _linear(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
        """Q x in evaluation."""
        grid = self._grid(x.shape[1:3])
        y = grid_conv(padded(x, kernel.shape[2]), self._matrices(kernel, grid), grid, product)
        return y[..., : self.features]

    @nn.nowrap
    def proof(self, own, shape):
        """1, by the eigenvalues, or less by the whole matrix of a small image.

        No rounding is stated where V*V is too nearly singular for the kernel's precision.
        """
        k, channels = self.kernel_size, max(shape[-1], self.features)
        of_kernel = (k, k, channels, self.rank or (channels + 1) // 2)
        check_shapes("BlockReflectorConv", own["params"], kernel=of_kernel)
        if self.use_bias:
            check_shapes("BlockReflectorConv", own["params"], bias=(self.features,))
        kernel, grid = np.asarray(own["params"]["kernel"]), self._grid(shape[:2])
        why = "V (V*V + ε)⁻¹ V* is between 0 and 1 at each frequency"
        kind = f"block reflector {self.kernel_size}×{self.kernel_size}"
        bias = np.asarray(own["params"]["bias"] if self.use_bias else [0.0], np.float64)
        error = self._error(kernel, grid)

        def run(x):
            return self._linear(jnp.asarray(kernel, jnp.float64), x)

        return grid_proof(kind, why, run, error, kernel.shape[2], bias, grid, shape)

    @nn.nowrap
    def _error(self, raw: np.ndarray, grid: Grid) -> float | None:
        """A bound of the norm by which the executed Q are off, None where it is not small.

        With P = V G⁻¹ V*, G = V*V + ε >= λ, F = ‖V‖_F, κ = F² / λ, C channels and rank r, to first order:

        V off by E: δP = (I − P) E G⁻¹V* + its adjoint, of norm 2 ‖E‖ λ^(−½); ε by 2 ridge ‖E‖ F / r, which adds
        (ridge / r)^½ of that at most, as λ >= ε: together 3 ‖E‖ λ^(−½).
        G, its ridge and its Cholesky factor: backward errors of (4C + 8r + 64) units of F², which change P by as much
        over λ: γ κ.
        X = L⁻¹V*, column by column with L off by (4r + 16) units: ‖δX‖_F <= γ κ^½ ‖X‖_F, ‖X‖_F² <= r, so that
        X*X is off by 2 γ (κ r)^½; its own sums, by γ(4r + 16) r; and I − 2P by a unit of ‖Q‖_F <= C^½.

        Where all of them are below SMALL, what is of higher order is below 1.5 times as much.
        """
        if not is_in_range(raw):
            return None
        kernel = np.asarray(self._kernel(np.asarray(raw, np.float64)))
        channels, rank = kernel.shape[2:]
        symbol = symbols(kernel, grid)
        squared = (np.abs(symbol) ** 2).sum(axis=(1, 2))
        ridge = self.ridge * squared / rank + LEAST
        grams = symbol.conj().swapaxes(1, 2) @ symbol + ridge[:, None, None] * np.eye(rank)
        least = least_eigenvalues(grams, ridge * (1 - 1e-6))
        kappa = float(((squared + rank * ridge) / least).max())
        off = float((1 / np.sqrt(least)).max()) * (symbol_error(np.abs(kernel) + np.abs(kernel - raw * self.scale)))
        substitution = gamma(4 * rank + 16)
        parts = [
            3 * off,
            gamma(4 * channels + 8 * rank + 64) * kappa,
            2 * substitution * math.sqrt(kappa * rank),
            substitution * rank,
        ]
        if not sum(parts) * unit_of(raw) < SMALL:
            return None
        return 2 * 1.5 * sum(parts) + gamma(3) * 1.1 * math.sqrt(channels)

    @nn.nowrap
    def plain(self, own, shape):
        grid, bias = self._grid(shape), own["params"]["bias"] if self.use_bias else None
        return plain_grid(self._matrices(own["params"]["kernel"], grid), bias, self.features, grid, shape)
