"""Convex potential layer (CPL): a step of gradient descent, with a step length that the norm of the kernel allows."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import odd
from lipjax.layers.checks import OPTIONAL_COUNT, check_field, check_shapes
from lipjax.layers.convolution import settled_image, sides
from lipjax.layers.initializers import symmetric_uniform
from lipjax.layers.layer import Layer, tracked
from lipjax.layers.potential import plain_step, potential_proof, potential_step
from lipjax.layers.proven_norm import proven_norm
from lipjax.ops.bounds import method
from lipjax.ops.fusion import stored
from lipjax.ops.general_conv import norm_along, ritz_step
from lipjax.ops.skew import random_unit_image

_SMALLEST, _LARGEST = 1e-15, 1e15  # of kernels and tracked norms for which a rounding is stated


class ConvexPotential(Layer):
    """y = x − (2/s²) Wᵀ σ(W x + b), σ = ReLU, W a zero-padded convolution, s >= ‖W‖.

    Works on C = max(C_in, features) channels: the input is zero-padded when features > C_in, and the first `features`
    channels are kept when features < C_in.

    Bound: 1 where s >= ‖W‖, else 2 ‖W‖²/s² − 1.  σ is the derivative of a convex function, of slope in [0, 1], and this
    is a step down that function (`layers.potential`); ‖W‖ is proven (`ops.conv_norm_bound`).

    Source: Meunier, Delattre, Araujo & Allauzen, ICML 2022.

    Variables: params/kernel (k, k, C, inner), params/bias (inner,); spectral/image (H, W, C) follows the top singular
    vector of W at this resolution, spectral/norm () is its norm s.  With train=True s is that of one further
    Ritz step, and differentiated; `tightened` raises it to the *proven* norm.

    Attributes:
      features: output channels.
      kernel_size: k, odd.
      inner: channels of W x; None: C.
    """

    features: int
    kernel_size: int = 3
    inner: int | None = None

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check_field("ConvexPotential", "kernel_size", self.kernel_size, odd())
        check_field("ConvexPotential", "inner", self.inner, OPTIONAL_COUNT)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        x = stored(x)
        channels = max(x.shape[-1], self.features)
        shape = (self.kernel_size, self.kernel_size, channels, self.inner or channels)
        fan_in = channels * self.kernel_size**2
        kernel = self.param("kernel", nn.initializers.normal(fan_in**-0.5), shape)
        bias = self.param("bias", symmetric_uniform(fan_in**-0.5), shape[3:])
        norm = self._norm(kernel, (x.shape[1], x.shape[2], channels), train)
        kernel, bias = _normalised(kernel, bias, norm)
        return stored(potential_step(x, kernel, bias, self.features, blocked=False))

    def _norm(self, kernel: jax.Array, image_shape: tuple[int, int, int], train: bool) -> jax.Array:
        """s, (): the tracked norm, or in training that after one more Ritz step."""
        if self.is_initializing():
            start = random_unit_image(self.make_rng("params"), image_shape, kernel.dtype)
            first_image = settled_image(kernel, start)
            first_norm = norm_along(kernel, first_image)
        else:
            tracked(self.variables, "ConvexPotential")
        image = self.variable("spectral", "image", lambda: first_image)
        norm = self.variable("spectral", "norm", lambda: first_norm)
        if not train:
            return norm.value
        moved = ritz_step(kernel, image.value)
        present = norm_along(kernel, moved)
        if self.is_mutable_collection("spectral") and not self.is_initializing():
            image.value, norm.value = moved, jax.lax.stop_gradient(present)
        return present

    @nn.nowrap
    def evaluate(self, own, x):
        """As `__call__`, with the sums of the convolutions in blocks (`ops.blocked`)."""
        params, norm = own["params"], tracked(own, "ConvexPotential")["norm"]
        kernel, bias = _normalised(params["kernel"], params["bias"], norm)
        return stored(potential_step(stored(x), kernel, bias, self.features, blocked=True))

    @nn.nowrap
    def proof(self, own, shape):
        """By the proven norm of W over s.

        Rounding: W/s and b/s are rounded twice; then two convolutions, one after the other (`layers.potential`).
        """
        k, channels = self.kernel_size, max(shape[-1], self.features)
        inner = self.inner or channels
        check_shapes("ConvexPotential", own["params"], kernel=(k, k, channels, inner), bias=(inner,))
        check_shapes("ConvexPotential", tracked(own, "ConvexPotential"), norm=())
        raw, size, eps = np.asarray(own["params"]["kernel"], np.float64), sides(shape), float(np.finfo(float).eps)
        given = float(tracked(own, "ConvexPotential")["norm"])
        norm = max(given, float(jnp.finfo(own["params"]["kernel"].dtype).tiny))
        ratio = proven_norm(raw, size) / norm * (1 + 4 * eps)
        # What `tightened` has raised is at least the proven norm itself: the quotient was rounded up past 1.
        ratio = 1.0 if proven_norm(raw, size) <= norm else ratio
        largest, bias = float(np.abs(raw).max(initial=0.0)), np.asarray(own["params"]["bias"], np.float64)
        in_range = _SMALLEST < given < _LARGEST and (largest == 0 or _SMALLEST < largest < _LARGEST)
        why = f"s against ‖W‖; norm: {method(raw.shape, size, is_skew=False)}"
        kind = f"convex potential {self.kernel_size}×{self.kernel_size}"
        return potential_proof(kind, why, ratio, raw / norm, 2.0 if in_range else None, bias / norm, shape)

    @nn.nowrap
    def settled(self, own):
        kernel = own["params"]["kernel"]
        image = settled_image(kernel, tracked(own, "ConvexPotential")["image"])
        norm = norm_along(kernel, image)
        return {**own, "spectral": {**own["spectral"], "norm": norm, "image": image}}

    @nn.nowrap
    def tightened(self, own, shape):
        """Settled, and s the proven norm where it is larger: 1-Lipschitz by construction."""
        own = self.settled(own)
        norm = np.asarray(own["spectral"]["norm"])
        proven = proven_norm(np.asarray(own["params"]["kernel"], np.float64), sides(shape))
        least = np.nextafter(norm.dtype.type(proven), norm.dtype.type(np.inf))
        return {**own, "spectral": {**own["spectral"], "norm": jnp.asarray(np.maximum(norm, least))}}

    @nn.nowrap
    def plain(self, own, shape):
        params, norm = own["params"], tracked(own, "ConvexPotential")["norm"]
        kernel, bias = _normalised(jnp.asarray(params["kernel"]), jnp.asarray(params["bias"]), norm)
        return plain_step(kernel, bias, self.features, shape)


def _normalised(kernel, bias, norm):
    """(W / s, b / s)."""
    inverse = 1 / jnp.maximum(norm, jnp.finfo(kernel.dtype).tiny)
    return kernel * inverse, bias * inverse
