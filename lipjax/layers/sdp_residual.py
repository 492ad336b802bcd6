"""SDP-based Lipschitz layer (SLL): a residual step with a diagonal scale in place of a norm."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import odd
from lipjax.layers.almost_orthogonal_conv import scale_error
from lipjax.layers.checks import OPTIONAL_COUNT, check_field, check_shapes
from lipjax.layers.initializers import symmetric_uniform
from lipjax.layers.layer import Layer
from lipjax.layers.potential import plain_step, potential_proof, potential_step
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.diagonal_bounds import diagonal_bound
from lipjax.ops.fusion import stored

_REACH = 8.0  # log q is clipped to ±8: weights beyond would only lose digits
_EXPONENTIAL = 32.0  # units of roundoff of an exponential
_LARGEST = 1e12  # of kernels for which a rounding is stated: t is in the range of float32


class SdpResidual(Layer):
    """y = x − 2 W T⁻¹ σ(Wᵀ x + b), σ = ReLU, T = diag(Σ_j |WᵀW|_ij q_j / q_i).

    Where a channel of Wᵀ goes to zero the authors divide by nearly nothing; here `diagonal_bounds.LEAST` is added to T,
    which is as good a T.  Channels as in `ConvexPotential`.

    Bound: 1 for all parameters.  T >= WᵀW by diagonal dominance for every q > 0, for zero-padded convolutions too
    (`ops.diagonal_bounds`), and then a step down a convex potential enlarges no distance (`layers.potential`).

    Source: Araujo, Havens, Delattre, Allauzen & Hu, ICLR 2023, theorem 3.

    Params: kernel (k, k, C, inner) of Wᵀ, bias (inner,), log_q (inner,), of which values beyond ±8 count as ±8.

    Attributes:
      features: output channels.
      kernel_size: k, odd.
      inner: channels of Wᵀ x; None: C = max(C_in, features).
    """

    features: int
    kernel_size: int = 3
    inner: int | None = None

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check_field("SdpResidual", "kernel_size", self.kernel_size, odd())
        check_field("SdpResidual", "inner", self.inner, OPTIONAL_COUNT)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        del train
        x = stored(x)
        channels = max(x.shape[-1], self.features)
        shape = (self.kernel_size, self.kernel_size, channels, self.inner or channels)
        fan_in = channels * self.kernel_size**2
        kernel = self.param("kernel", nn.initializers.normal(fan_in**-0.5), shape)
        bias = self.param("bias", symmetric_uniform(fan_in**-0.5), shape[3:])
        log_q = self.param("log_q", nn.initializers.zeros, shape[3:])
        kernel, bias = _scaled(kernel, bias, log_q)
        return stored(potential_step(x, kernel, bias, self.features, blocked=False))

    @nn.nowrap
    def evaluate(self, own, x):
        """As `__call__`, with the sums of the convolutions in blocks (`ops.blocked`)."""
        kernel, bias = _scaled(*(own["params"][name] for name in ("kernel", "bias", "log_q")))
        return stored(potential_step(stored(x), kernel, bias, self.features, blocked=True))

    @nn.nowrap
    def proof(self, own, shape):
        """1, by the theorem.

        Rounding: T^(−½) Wᵀ and T^(−½) b are off by what the scale of an inner channel is; then two convolutions.
        """
        k, channels = self.kernel_size, max(shape[-1], self.features)
        inner = (self.inner or channels,)
        check_shapes("SdpResidual", own["params"], kernel=(k, k, channels, *inner), bias=inner, log_q=inner)
        raw, bias, log_q = (np.asarray(own["params"][name], np.float64) for name in ("kernel", "bias", "log_q"))
        with in_float64():
            kernel, scaled = (np.asarray(array) for array in _scaled(*map(jnp.asarray, (raw, bias, log_q))))
        in_range = np.abs(raw).max(initial=0.0) < _LARGEST
        q = np.exp(np.clip(log_q, -_REACH, _REACH))
        off = scale_error(raw.swapaxes(2, 3), q, 2 * _EXPONENTIAL + 2) if in_range else None
        kind, why = f"SDP residual {self.kernel_size}×{self.kernel_size}", "T >= WᵀW, by diagonal dominance"
        return potential_proof(kind, why, 1.0, kernel, off, scaled, shape)

    @nn.nowrap
    def plain(self, own, shape):
        kernel, bias = _scaled(*(jnp.asarray(own["params"][name]) for name in ("kernel", "bias", "log_q")))
        return plain_step(kernel, bias, self.features, shape)


def _scaled(kernel, bias, log_q):
    """(the kernel of T^(−½) Wᵀ, T^(−½) b)."""
    q = jnp.exp(jnp.clip(log_q, -_REACH, _REACH))
    inverse = 1 / jnp.sqrt(diagonal_bound(kernel.swapaxes(2, 3), q))
    return kernel * inverse, bias * inverse
