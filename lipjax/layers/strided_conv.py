"""Convolutions with a stride, and of patches: stride-1 convolutions of the rearranged image."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import check, integer, one_of
from lipjax.layers import convolution, plain
from lipjax.layers.checks import check_shapes
from lipjax.layers.convolution import sides
from lipjax.layers.layer import Layer
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.fusion import stored
from lipjax.ops.general_conv import patches, strided_kernel


class StridedConv(Layer):
    """y[i] = Σ_t W[t] x[s i + t − p] + b with stride s, p = ⌈(k − s)/2⌉: 5×5 stems of stride 2; patches, k = s.

    Bound: the proven norm (`ops.conv_norm_bound`) of the stride-1 convolution of the image rearranged to s² C channels,
    with the kernel rearranged (`ops.general_conv.strided_kernel`), which is what is run.  Nothing is constrained.  A
    side that s does not divide is filled up with zeros, below or to the right: an isometry.

    Source: the stem of LiResNet, Hu et al., NeurIPS 2023; the proof is ours (docs/liresnet.md).

    Variables: params/kernel W (k, k, C, features), from N(0, 1/(k² C)), and params/bias (features,); spectral/image
    (⌈H/s⌉, ⌈W/s⌉, s² C) follows the top singular vector, as in `ResidualConv`.

    Attributes:
      features: output channels.
      kernel_size: k >= s, even or odd.
      stride: s.
      compute_dtype: of the convolution in training, 'float32' or 'bfloat16'.
    """

    features: int
    kernel_size: int = 5
    stride: int = 2
    compute_dtype: str = "float32"

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check(vars(self), features=integer(1), stride=integer(1), kernel_size=integer(1))
        check(vars(self), compute_dtype=one_of(*convolution.COMPUTE_DTYPES))
        check(vars(self), kernel_size=(f"at least stride={self.stride}", lambda k: k >= self.stride))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C) → (N, ⌈H/s⌉, ⌈W/s⌉, features)."""
        k, channels = self.kernel_size, x.shape[-1]
        init = nn.initializers.normal(1 / (k * channels**0.5))
        kernel = strided_kernel(self.param("kernel", init, (k, k, channels, self.features)), self.stride)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = stored(patches(x, self.stride))
        convolution.follow(self, kernel, x.shape[1:], train)
        return stored(convolution.in_training(x, kernel, self.compute_dtype if train else "float32") + bias)

    @nn.nowrap
    def evaluate(self, own, x):
        kernel = strided_kernel(own["params"]["kernel"], self.stride)
        return stored(convolution.evaluated(stored(patches(x, self.stride)), kernel) + own["params"]["bias"])

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: entries of the kernel are moved, so none is off; a convolution with its sums in blocks, and b."""
        k = self.kernel_size
        check_shapes("StridedConv", own["params"], kernel=(k, k, shape[-1], self.features), bias=(self.features,))
        with in_float64():
            kernel = np.asarray(strided_kernel(jnp.asarray(own["params"]["kernel"], jnp.float64), self.stride))
        height, width = (-(-n // self.stride) for n in sides(shape))
        kind = f"convolution {self.kernel_size}×{self.kernel_size} of stride {self.stride}, rearranged"
        return convolution.conv_proof(kind, kernel, np.abs(kernel), 0, (height, width, kernel.shape[2]), own["params"])

    @nn.nowrap
    def estimate(self, own, shape):
        return convolution.estimate(own, strided_kernel(own["params"]["kernel"], self.stride))

    @nn.nowrap
    def settled(self, own):
        return convolution.settled(own, strided_kernel(own["params"]["kernel"], self.stride))

    @nn.nowrap
    def folded(self, own, shape):
        return self, {"params": own["params"]}

    @nn.nowrap
    def plain(self, own, shape):
        """The convolution with its stride, as it is said of `StridedConv`."""
        kernel, s = plain.array(own["params"]["kernel"]), self.stride
        before = -((s - len(kernel)) // 2)
        around = [(before, (-(-side // s) - 1) * s + len(kernel) - side - before) for side in shape[:2]]
        return [plain.conv(kernel, own["params"]["bias"], s, around)]
