"""The trunk layer of LiResNet (Hu et al., NeurIPS 2023): a residual block that is one convolution, and its centring."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import check, flag, integer, number, odd, one_of
from lipjax.layers import convolution, plain
from lipjax.layers.checks import check_shapes
from lipjax.layers.layer import Layer, isometry, norm_at_zero, tracked
from lipjax.layers.rounding import enlarged, gamma, underflow
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.fusion import stored


class ResidualConv(Layer):
    """y = K x + b, one zero-padded convolution with the identity in its kernel: K = I + W · gain / √depth.

    Bound: the proven norm of K at the resolution of the layer, `ops.conv_norm_bound`: by Cholesky factorisations of its
    symbols at all frequencies of a grid.  Nothing is constrained.  ‖K‖ <= 1 + ‖W · gain‖ / √depth, and less
    unless one image is enlarged most by both.

    Source: LiResNet, Hu et al., NeurIPS 2023; the proof is ours (docs/liresnet.md).

    Variables: params/kernel W (k, k, C, C), starting at N(0, 1) / (k² C), params/gain (C,), of output channels,
    starting at 1, params/bias (C,) where `use_bias`; spectral/image (H, W, C) follows the top singular vector of K at
    this resolution, by a Ritz step a training step, for `estimate` alone.

    Attributes:
      depth: of the trunk, so many such layers in a row; at most 1e9.
      kernel_size: k, odd.
      use_bias: whether b is there; a `Centring` that follows has a shift of its own, and takes b away in training.
      compute_dtype: of the convolution in training, 'float32' or 'bfloat16'.
    """

    depth: int = 1
    kernel_size: int = 3
    use_bias: bool = True
    compute_dtype: str = "float32"

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check(vars(self), depth=integer(1, 10**9), kernel_size=odd(), use_bias=flag())
        check(vars(self), compute_dtype=one_of(*convolution.COMPUTE_DTYPES))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C) → (N, H, W, C)."""
        x, k = stored(x), self.kernel_size
        channels = x.shape[-1]
        params = {
            "kernel": self.param("kernel", nn.initializers.normal(1 / (k * k * channels)), (k, k, channels, channels))
        }
        params["gain"] = self.param("gain", nn.initializers.ones, (channels,))
        kernel = self.whole_kernel(params)
        convolution.follow(self, kernel, x.shape[1:], train)
        y = convolution.in_training(x, kernel, self.compute_dtype if train else "float32")
        return stored(y + self.param("bias", nn.initializers.zeros, (channels,)) if self.use_bias else y)

    @nn.nowrap
    def evaluate(self, own, x):
        y = convolution.evaluated(stored(x), self.whole_kernel(own["params"]))
        return stored(y + own["params"]["bias"] if self.use_bias else y)

    @nn.nowrap
    def whole_kernel(self, params):
        """K (k, k, C, C)."""
        kernel = params["kernel"] * (params["gain"] / self.depth**0.5)
        border = (self.kernel_size // 2,) * 2
        return kernel + jnp.pad(
            jnp.eye(kernel.shape[2], dtype=kernel.dtype)[None, None], (border, border, (0, 0), (0, 0))
        )

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: entries of K are off by a root, a quotient (or an inverse and a product), a product and a sum: 5
        units; then a convolution with its sums in blocks, and b (`convolution.conv_proof`).
        A quotient that underflows is one of W's entry.
        """
        convolution.sides(shape)  # refuses what is no image
        k, channels = self.kernel_size, shape[-1]
        check_shapes("ResidualConv", own["params"], kernel=(k, k, channels, channels), gain=(channels,))
        params = {name: np.asarray(leaf, np.float64) for name, leaf in own["params"].items()}
        with in_float64():
            kernel = np.asarray(self.whole_kernel(params))  # of arrays of numpy, which flushes no number to 0
        parts = np.abs(params["kernel"] * (params["gain"] / self.depth**0.5))
        largest = float(np.abs(params["kernel"]).max())
        middle = self.kernel_size // 2
        parts[middle, middle] += np.eye(kernel.shape[2])
        kind = f"residual convolution {self.kernel_size}×{self.kernel_size}, the identity in its kernel"
        return convolution.conv_proof(
            kind, kernel, parts * (1 + 1e-15), 5, shape, own["params"] if self.use_bias else {}, largest
        )

    @nn.nowrap
    def estimate(self, own, shape):
        return convolution.estimate(own, self.whole_kernel(own["params"]))

    @nn.nowrap
    def settled(self, own):
        return convolution.settled(own, self.whole_kernel(own["params"]))

    @nn.nowrap
    def folded(self, own, shape):
        return self, {"params": own["params"]}

    @nn.nowrap
    def plain(self, own, shape):
        kernel = self.whole_kernel({name: jnp.asarray(leaf) for name, leaf in own["params"].items()})
        return [plain.conv(kernel, own["params"]["bias"] if self.use_bias else None)]


class Centring(Layer):
    """x − mean + b, channel by channel; nothing is divided.

    Bound: 1, as a constant is subtracted: an isometry.

    Source: LiResNet, Hu et al., NeurIPS 2023.

    In training the mean is that of the batch over images and pixels, and the gradient flows through it; in evaluation
    the mean is spectral/mean (C,), which has moved by `momentum` to that of each batch in training.  Sums are in
    float32 at least.  Under jit with a batch that is split over devices the mean is that of the whole batch, by a
    collective that the compiler inserts.

    Variables: params/bias (C,), starting at 0; spectral/mean (C,), starting at 0.

    Attributes:
      momentum: in (0, 1].
    """

    momentum: float = 0.1

    def __post_init__(self):
        check(vars(self), momentum=number(1e-6, 1))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, …, C) → (N, …, C)."""
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        if not self.is_initializing():
            tracked(self.variables, "Centring")
        mean = self.variable("spectral", "mean", jnp.zeros, (x.shape[-1],), bias.dtype)
        if not train or self.is_initializing():
            return _shifted(x, bias, mean.value)
        of_batch = jnp.mean(x, axis=range(x.ndim - 1), dtype=jnp.promote_types(x.dtype, jnp.float32))
        if self.is_mutable_collection("spectral"):
            moved = mean.value + self.momentum * (jax.lax.stop_gradient(of_batch).astype(bias.dtype) - mean.value)
            mean.value = moved
        return _shifted(x, bias, of_batch)

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: of b − mean, and of the sum with it."""
        check_shapes("Centring", own["params"], bias=shape[-1:])
        check_shapes("Centring", tracked(own, "Centring"), mean=shape[-1:])
        bias, mean = (np.asarray(leaf, np.float64) for leaf in (own["params"]["bias"], own["spectral"]["mean"]))
        offset = norm_at_zero(bias - mean, shape)
        rounding = enlarged(gamma(1), gamma(3) * offset + underflow(int(np.prod(shape)), 3))
        return isometry("centring", "a constant is subtracted", offset, rounding)

    @nn.nowrap
    def plain(self, own, shape):
        return [plain.affine(1.0, plain.array(own["params"]["bias"]) - plain.array(own["spectral"]["mean"]))]


def _shifted(x, bias, mean):
    return x + (bias - mean).astype(x.dtype)
