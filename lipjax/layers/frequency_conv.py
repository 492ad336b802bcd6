"""Convolutions on a cyclic grid with any matrix at each frequency, as the export writes those of `layers.grid`."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lipjax.config import integer, number
from lipjax.layers import plain
from lipjax.layers.checks import check_field, check_shapes
from lipjax.layers.convolution import sides
from lipjax.layers.grid import frequency_rounding, plain_grid, proven_map_norm
from lipjax.layers.layer import Layer, Proof
from lipjax.layers.plain_linear import pair
from lipjax.layers.rounding import enlarged
from lipjax.ops.blocked import product
from lipjax.ops.dense_bounds import near_orthogonal_norm_bound
from lipjax.ops.frequency import grid_conv
from lipjax.ops.fusion import stored

_UNKNOWNS = 512  # H·W·C up to which the norm of the whole matrix is proven


class FrequencyConv(Layer):
    """Images zero-padded to a cyclic grid, each of whose frequencies is multiplied by a matrix B_ω, and cut back.

    (N, H, W, C) → (N, H, W, features), by products with real Fourier matrices (`ops.frequency`).

    Bound: max ‖B_ω‖, each proven by a Cholesky factorisation of the real matrix [[Re, Im], [−Im, Re]], as padding, the
    transforms and cutting enlarge nothing; of up to 512 numbers the norm of the whole matrix.

    Rounding: of five products one after the other, as of the convolutions of `layers.grid`, max ‖B_ω‖ times as much.

    Source: elementary (docs/plain.md).

    Params: real and imaginary, each (g · (⌊h/2⌋ + 1), C, features), of the half of the frequencies of a grid (g, h).

    Attributes:
      features: output channels.
      points: (g, h), at least as many as pixels, and at least 2.
      excess: δ >= 0, where the map is described by Fourier matrices that are rounded, so that four products with them
        enlarge by up to 1 + δ: the difference of both maps, of norm δ max ‖B_ω‖ at most, counts in the bound.
    """

    features: int
    points: tuple[int, int]
    excess: float = 0.0

    def __post_init__(self):
        check_field("FrequencyConv", "features", self.features, integer(1))
        check_field("FrequencyConv", "excess", self.excess, number(0.0))
        object.__setattr__(self, "points", pair("FrequencyConv", "points", self.points, 2))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        shape = self._shape(x.shape[1:])
        init = nn.initializers.normal(x.shape[-1] ** -0.5)
        matrices = lax.complex(*(self.param(name, init, shape) for name in ("real", "imaginary")))
        return stored(grid_conv(stored(x), matrices, self.points, product))

    @nn.nowrap
    def _shape(self, shape) -> tuple[int, int, int]:
        """Of the parameters; ValueError for images larger than the grid."""
        if any(n > most for n, most in zip(sides(shape), self.points, strict=True)):
            raise ValueError(f"FrequencyConv: points={self.points} must be at least the {shape[0]}×{shape[1]} pixels")
        return self.points[0] * (self.points[1] // 2 + 1), shape[2], self.features

    @nn.nowrap
    def proof(self, own, shape):
        expected = self._shape(shape)
        check_shapes("FrequencyConv", own["params"], real=expected, imaginary=expected)
        real, imaginary = (np.asarray(own["params"][name], np.float64) for name in ("real", "imaginary"))
        found = [near_orthogonal_norm_bound(np.block([[a, b], [-b, a]])) for a, b in zip(real, imaginary, strict=True)]
        bound, why = max(found), "the largest of all frequencies, by Cholesky factorisations"
        channels = max(shape[2], self.features)
        of_one = frequency_rounding(0.0, channels, self.points, sides(shape), 0.0)
        # Matrices of norm at most `bound`, and each of their products is rounded relative to it.
        rounding = enlarged(of_one.relative * bound, of_one.absolute * (1 + bound))
        beside = self.excess * bound
        if math.prod(shape) <= _UNKNOWNS:

            def run(x):  # in float64, which outside of it would be rounded to float32
                exact = {"real": jnp.asarray(real), "imaginary": jnp.asarray(imaginary)}
                return self.evaluate({"params": exact}, x)

            whole = proven_map_norm(run, shape, rounding.relative)
            bound, why = min((bound, why), (whole, "Cholesky factorisation of the Gram matrix of its whole matrix"))
        if beside:
            bound, why = (bound + beside) * (1 + 1e-15), f"{why}; and what the Fourier matrices are off"
        kind = f"convolution on a grid of {self.points[0]}×{self.points[1]}, {shape[2]} to {self.features} channels"
        return Proof(kind, bound, why, rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        real, imaginary = (plain.array(own["params"][name]) for name in ("real", "imaginary"))
        return plain_grid(real + 1j * imaginary, None, self.features, self.points, shape)

    @nn.nowrap
    def estimate(self, own, shape):
        matrices = lax.complex(own["params"]["real"], own["params"]["imaginary"])
        return jnp.linalg.norm(matrices, 2, axis=(1, 2)).max()
