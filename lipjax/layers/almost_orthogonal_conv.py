"""Almost orthogonal convolution (AOL): a kernel scaled by a diagonal bound of its Gram operator."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.config import odd
from lipjax.layers import plain
from lipjax.layers.checks import check_field, check_shapes
from lipjax.layers.convolution import applied_rounding, evaluated, sides
from lipjax.layers.initializers import symmetric_uniform
from lipjax.layers.layer import Layer, Proof, norm_at_zero
from lipjax.layers.rounding import COARSEST, ROUNDOFF, SQUARE_ROOT, Rounding, enlarged, gamma, underflow
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.blocked import of_bias
from lipjax.ops.bounds import method
from lipjax.ops.diagonal_bounds import almost_orthogonal, diagonal_bound
from lipjax.ops.fusion import stored
from lipjax.ops.general_conv import conv
from lipjax.ops.nonnegative import nonnegative_conv_norm_bound

# H·W·(C_in + C_out)³ up to which the norm of the kernel itself is proven, beside the theorem: seconds.
_AFFORDABLE = 4e9
# Of raw kernels, and of sums of sizes of autocorrelations, over q: times q, and over it, they are in float32's range.
_LARGEST, _LARGEST_SUM = 1e15, 1e31


class AlmostOrthogonalConv(Layer):
    """y = A x + b, A the zero-padded convolution with the kernel P[·, i, ·] t_i^(−½), t_i = Σ |autocorrelation of P|.

    Bound: 1, and, where that is affordable, the smaller of it and `ops.conv_norm_bound`.  AᵀA <= diag(t) for the
    convolution with P, by diagonal dominance, so that ‖A‖ <= 1 for every P (`ops.diagonal_bounds`).

    Source: Prach & Lampert, ECCV 2022, theorem 1.

    Params: kernel (k, k, C_in, features), bias (features,).  The kernel starts as an orthogonal matrix in the middle
    tap, where it is scaled by 1; as the identity on the first channels where features < C_in.

    Attributes:
      features: output channels.
      kernel_size: k, odd.
    """

    features: int
    kernel_size: int = 3

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check_field("AlmostOrthogonalConv", "kernel_size", self.kernel_size, odd())
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        del train
        x = stored(x)
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", _orthogonal_or_identity, shape)
        bias = self.param("bias", symmetric_uniform(shape[2] ** -0.5), (self.features,))
        return stored(conv(x, almost_orthogonal(kernel)) + bias)

    @nn.nowrap
    def evaluate(self, own, x):
        """As `__call__`, with the sums of the convolution in blocks (`ops.blocked`)."""
        x, kernel = stored(x), almost_orthogonal(own["params"]["kernel"])
        return stored(evaluated(x, kernel) + own["params"]["bias"])

    @nn.nowrap
    def proof(self, own, shape):
        """1 by the theorem, or less.

        Rounding: channel i is scaled by t_i^(−½), known to half of what t_i is, and SQUARE_ROOT, a quotient and a
        product; an error of the scale of an input channel is one of ‖v‖ in that part.  Then a convolution, and b.
        """
        k = self.kernel_size
        of_kernel = (k, k, shape[-1], self.features)
        check_shapes("AlmostOrthogonalConv", own["params"], kernel=of_kernel, bias=(self.features,))
        size, raw = sides(shape), np.asarray(own["params"]["kernel"], np.float64)
        with in_float64():
            kernel = np.asarray(almost_orthogonal(jnp.asarray(raw)))
        offset = norm_at_zero(own["params"]["bias"], shape)
        off, bound, why = scale_error(raw), 1.0, "AᵀA <= diag(t), by diagonal dominance"
        work = size[0] * size[1] * sum(kernel.shape[2:]) ** 3
        if off is not None and work <= _AFFORDABLE:
            proven = ops.conv_norm_bound(kernel, size) * (1 + gamma(off + 2))
            if proven < bound:
                bound, why = proven, method(kernel.shape, size, is_skew=False)
        kind = f"almost orthogonal convolution {self.kernel_size}×{self.kernel_size} to {self.features} channels"
        return Proof(kind, bound, why, offset, rounding=self._rounding(kernel, size, bound, off, offset))

    @nn.nowrap
    def _rounding(self, kernel, size, bound, off, offset) -> Rounding | None:
        if off is None:
            return None
        scaled = gamma(off)
        norm = bound * (1 + COARSEST * scaled)
        absolute = nonnegative_conv_norm_bound(kernel, size) * (1 + COARSEST * scaled)  # of the kernel as executed
        relative = applied_rounding(kernel.shape, size, norm, absolute, 0) + scaled * bound
        relative += gamma(1) * (bound + COARSEST * relative)
        lost = underflow(size[0] * size[1] * self.features, 4 * kernel[..., 0].size)
        of_offset = gamma(of_bias(kernel[..., 0].size)) * offset
        return enlarged(relative, of_offset + (1 + gamma(1) * COARSEST) * lost)

    @nn.nowrap
    def plain(self, own, shape):
        return [plain.conv(almost_orthogonal(jnp.asarray(own["params"]["kernel"])), own["params"]["bias"])]


def scale_error(kernel: np.ndarray, q: np.ndarray | None = None, units_of_q: float = 0.0) -> float | None:
    """By how many units of roundoff t_i^(−½), and its product with one number, is off; None: nothing is known.

    Each of the n = k² C_out products of an autocorrelation goes through n roundings at most, which costs t_i
    γ(n) Σ (|P| ⋆ |P|), and the sum over all shifts and channels, with the weights q, is off by as many units as it has
    terms.  t_i is at least the square of all entries of channel i, so the former is no large part of it.
    """
    absolute = np.abs(kernel)
    if not absolute.max(initial=0.0) < _LARGEST:
        return None
    k, _, c_in, c_out = kernel.shape
    weights = np.ones(c_in) if q is None else q
    with in_float64():
        t = np.asarray(diagonal_bound(jnp.asarray(kernel), None if q is None else jnp.asarray(q)))
    of_channels = absolute.sum(axis=(0, 1))  # (C_in, C_out)
    of_sizes = of_channels @ (weights @ of_channels) / weights
    if not of_sizes.max(initial=0.0) < _LARGEST_SUM:
        return None
    count = k * k * c_out
    units = count * float((of_sizes / t).max(initial=0.0)) * 1.01 + (2 * k - 1) ** 2 * c_in + units_of_q + 3
    part = units * ROUNDOFF * COARSEST
    return None if part > 0.1 else units / 2 / (1 - part) ** 2 + SQUARE_ROOT + 2


def _orthogonal_or_identity(key, shape, dtype=jnp.float32):
    if shape[2] <= shape[3]:
        return nn.initializers.delta_orthogonal()(key, shape, dtype)
    middle = shape[0] // 2
    return jnp.zeros(shape, dtype).at[middle, middle].set(jnp.eye(shape[2], shape[3], dtype=dtype))
