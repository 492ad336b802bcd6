"""Flax layers over `ops`, each with the Lipschitz bound that it can prove."""

import hashlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lipjax import ops
from lipjax.layers.proof import Link
from lipjax.ops import bounds, skew
from lipjax.ops.polynomials import Polynomial

# Of the convolutions in training.
COMPUTE_DTYPES = ("float32", "bfloat16")

# Power iterations that settle the tracked norms from anywhere.
SETTLING_STEPS = 50

# Power iterations a training step on a held norm.  The first updates of a network are large against its kernels: with
# one iteration the norms ran away from their estimates, and the loss with them (LipConvnet-5, 8 channels, CIFAR-10).
# With three they were up to 1.5 times the estimates for ten steps, one by 18 % for twenty; with five they are followed
# to 4 % after fifteen steps and to 1 % after thirty.  Each costs one convolution of one image.
POWER_STEPS = 5


# A held norm lies this far inside the interval of its polynomial, so that the power iteration may lag behind the kernel
# and the proven bound of the norm lie above it.
HEADROOM = 1.03


# The norm to which the unscaled operators are brought back after each training step (`project`).
RAW_NORM = 4.0


def held_polynomial(degree: int, norm: float) -> Polynomial:
    """The equiripple polynomial for operators held at ‖A‖ = `norm`: its interval reaches to HEADROOM · norm.

    Raises:
      ValueError: degree or interval outside what `ops.equiripple` allows.
    """
    return ops.equiripple(degree, HEADROOM * norm)


DEFAULT_POLYNOMIAL = held_polynomial(4, 1.9)


class SkewOrthogonalConv(nn.Module):
    """y = p(A) x + b with A the convolution with the normalised skew kernel (paper, section 4).

    Works on max(C_in, features) channels: the input is zero-padded when features > C_in, and the first `features`
    channels are kept when features < C_in.  Neither enlarges a distance.

    Variables: params/kernel (k, k, C, C), params/bias (features,).  `polynomial` decides how the kernel is normalised:

    * made for an interval [0, norm] (`ops.equiripple`): ‖A‖ is held at norm / HEADROOM.  spectral/image (H, W, C)
      follows the top singular vector of the unscaled operator at this resolution, spectral/norm () is its norm, which
      evaluation divides by.  `tightened` raises spectral/norm where the *proven* bound of ‖A‖ would leave the interval.
    * made for none (`ops.taylor`, the paper): the kernel is divided by the smallest of its four norms, of which
      spectral/vectors are the power vectors.

    With train=True and 'spectral' mutable they advance at each call, by POWER_STEPS or, as in the paper, by one.

    Attributes:
      features: output channels.
      kernel_size: k, odd.
      polynomial: p in training; its `norm` chooses the normalisation.
      eval_polynomial: p in evaluation; None: the same.
      gradient: one of `ops.GRADIENTS`, see `ops.orthogonal_conv`.
      compute_dtype: of the convolutions in training, one of COMPUTE_DTYPES; evaluation has that of its variables.

    Raises:
      ValueError: variables without the 'spectral' collection of held norms; what `ops.orthogonal_conv` refuses.
    """

    features: int
    kernel_size: int = 3
    polynomial: Polynomial = DEFAULT_POLYNOMIAL
    eval_polynomial: Polynomial | None = None
    gradient: str = "fast"
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        channels = max(x.shape[-1], self.features)
        shape = (self.kernel_size, self.kernel_size, channels, channels)
        kernel = self.param("kernel", nn.initializers.normal(channels**-0.5), shape)
        bias = self.param("bias", symmetric_uniform(channels**-0.5), (self.features,))
        normalise = self._four_norm if self.polynomial.norm is None else self._held
        kernel = normalise(kernel, (*x.shape[1:3], channels), train)
        polynomial = self.polynomial if train else self.eval_polynomial or self.polynomial
        if train and self.compute_dtype == "bfloat16":
            kernel = kernel.astype(jnp.bfloat16)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))
        y = ops.orthogonal_conv(x, kernel, polynomial, self.gradient)
        return y[..., : self.features] + bias

    def _four_norm(self, kernel: jax.Array, image_shape: tuple[int, ...], train: bool) -> jax.Array:
        """The skew kernel divided by the smallest of its four norms."""
        del image_shape

        def settled():
            start = skew.random_power_vectors(self.make_rng("params"), kernel.shape, kernel.dtype)
            return skew.power_steps(skew.skew_kernel(kernel), start, SETTLING_STEPS)

        vectors = self.variable("spectral", "vectors", settled)
        if train and self.is_mutable_collection("spectral") and not self.is_initializing():
            vectors.value = skew.power_steps(skew.skew_kernel(kernel), vectors.value)
        return skew.normalised_skew_kernel(kernel, vectors.value)

    def _held(self, kernel: jax.Array, image_shape: tuple[int, ...], train: bool) -> jax.Array:
        """The skew kernel scaled to a convolution of norm `held_norm`."""
        kernel = skew.skew_kernel(kernel)

        def settled():
            start = skew.random_unit_image(self.make_rng("params"), image_shape, kernel.dtype)
            return skew.operator_power_steps(kernel, start, SETTLING_STEPS)

        if self.is_initializing():
            start_norm, start_image = settled()
        elif not self.has_variable("spectral", "image"):
            raise ValueError("SkewOrthogonalConv: the variables have no 'spectral' collection of held norms")
        image = self.variable("spectral", "image", lambda: start_image)
        norm = self.variable("spectral", "norm", lambda: start_norm)
        present = norm.value
        if train:
            moved = image.value
            for _ in range(POWER_STEPS):  # unrolled: XLA's convolutions are slow inside loops on a CPU
                present, moved = skew.operator_norm(kernel, moved)
            if self.is_mutable_collection("spectral") and not self.is_initializing():
                image.value, norm.value = moved, jax.lax.stop_gradient(present)
        return self._scaled(kernel, present)

    @property
    def held_norm(self) -> float:
        """The norm at which the operator is held; ValueError for a polynomial made for no interval."""
        if self.polynomial.norm is None:
            raise ValueError(f"SkewOrthogonalConv: {self.polynomial} was made for no interval, so no norm is held")
        return self.polynomial.norm / HEADROOM

    def lipschitz_bound(self, variables: Mapping[str, Any], size: int) -> float:
        """max |p(it)| over 0 <= t <= σ̄ for the evaluation polynomial and a proven σ̄ >= ‖A‖ at size×size pixels.

        Args:
          variables: {'params': …, 'spectral': …} of this layer alone.
          size: height and width of its input.
        """
        return self.proof(variables, size).lipschitz

    def proof(self, variables: Mapping[str, Any], size: int) -> Link:
        """`lipschitz_bound` with σ̄ and how both were obtained."""
        shape = variables["params"]["kernel"].shape
        return polynomial_proof(self.eval_polynomial or self.polynomial, self._norm_bound(variables, size), shape, size)

    def _norm_bound(self, variables: Mapping[str, Any], size: int) -> float:
        """σ̄."""
        if self.polynomial.norm is None:
            with jax.enable_x64(True):
                kernel = self.normalised_kernel(jax.tree.map(_in_float64, dict(variables)))
            return ops.conv_norm_bound(np.asarray(kernel), size)
        tiny = float(jnp.finfo(variables["params"]["kernel"].dtype).tiny)  # as in `_scaled`
        scale = self.held_norm / max(float(variables["spectral"]["norm"]), tiny)
        return _proven_norm(variables["params"]["kernel"], size) * scale * (1 + 4 * np.finfo(float).eps)

    def normalised_kernel(self, variables: Mapping[str, Any]) -> jax.Array:
        """The normalised skew kernel of evaluation, (k, k, C, C)."""
        kernel, spectral = variables["params"]["kernel"], variables["spectral"]
        if self.polynomial.norm is None:
            return skew.normalised_skew_kernel(kernel, spectral["vectors"])
        return self._scaled(skew.skew_kernel(kernel), spectral["norm"])

    def _scaled(self, kernel: jax.Array, norm: jax.Array) -> jax.Array:
        return kernel * (self.held_norm / jnp.maximum(norm, jnp.finfo(kernel.dtype).tiny))

    def tightened(self, variables: Mapping[str, Any], size: int) -> dict[str, Any]:
        """The variables with spectral/norm raised, where need be, until the proven σ̄ is inside the interval.

        The layer is then 1-Lipschitz by construction.

        Raises:
          ValueError: a polynomial made for no interval.
        """
        interval = self.held_norm * HEADROOM
        proven = _proven_norm(variables["params"]["kernel"], size)
        norm = np.asarray(variables["spectral"]["norm"])
        least = np.nextafter(norm.dtype.type(proven * self.held_norm / interval * (1 + 1e-15)), norm.dtype.type(np.inf))
        return {**variables, "spectral": {**variables["spectral"], "norm": jnp.asarray(np.maximum(norm, least))}}


def polynomial_proof(polynomial: Polynomial, norm: float, shape: tuple[int, ...], size: int) -> Link:
    """The proof of p(A), A the operator of a skew kernel of the given shape with ‖A‖ <= norm; its layer is unnamed."""
    held = "made for no interval" if polynomial.norm is None else f"made for norms up to {polynomial.norm:.6g}"
    return Link(
        "",
        f"skew orthogonal convolution {shape[0]}×{shape[0]}, {shape[2]} channels, {size}×{size} pixels",
        polynomial.gain(norm)[1],
        f"max |p(it)| up to the norm, p of degree {polynomial.degree} {held}; norm: {bounds.method(shape, size)}",
        norm,
    )


def _in_float64(leaf) -> jax.Array:
    return jnp.asarray(np.asarray(leaf), jnp.float64)


_PROVEN: dict[tuple[str, int], float] = {}


def _proven_norm(kernel, size: int) -> float:
    """`ops.conv_norm_bound` of the skew kernel of a raw one, in float64.

    Remembered by content: tightening and the bound after it prove it once.
    """
    with jax.enable_x64(True):
        skew_kernel = np.asarray(skew.skew_kernel(_in_float64(kernel)))
    key = (hashlib.sha256(repr(skew_kernel.shape).encode() + skew_kernel.tobytes()).hexdigest(), size)
    if key not in _PROVEN:
        _PROVEN[key] = ops.conv_norm_bound(skew_kernel, size)
    return _PROVEN[key]


def symmetric_uniform(limit: float):
    """Initialiser U(−limit, limit)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def settle(variables: Mapping[str, Any], steps: int = SETTLING_STEPS) -> dict[str, Any]:
    """The variables with every layer's tracked norm advanced by `steps` power iterations on its present kernel.

    Training calls it in the middle of each epoch, where kernels have moved and the power steps of training may lag.
    """
    params = traverse_util.flatten_dict(variables["params"])
    spectral = traverse_util.flatten_dict(variables["spectral"], is_leaf=lambda path, _: path[-1:] == ("vectors",))
    for *layer, name in list(spectral):
        if name == "vectors":
            kernel = skew.skew_kernel(params[*layer, "kernel"])
            spectral[*layer, name] = skew.power_steps(kernel, spectral[*layer, name], steps)
        elif name == "image":
            kernel = skew.skew_kernel(params[*layer, "kernel"])
            norm, image = skew.operator_power_steps(kernel, spectral[*layer, name], steps)
            spectral[*layer, "norm"], spectral[*layer, name] = norm, image
    return {**variables, "spectral": traverse_util.unflatten_dict(spectral)}


def project(params: Mapping[str, Any], spectral: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, spectral) after a training step brought back to where they belong; the network stays the same.

    Pooling angles are clipped to [0, π].  A layer of held norm does not depend on the scale of its raw kernel.  A
    gradient step is orthogonal to the kernel and lengthens it, and the rate at which it learns falls with the square of
    its length.  Raw kernels are therefore scaled back to a tracked norm of RAW_NORM.
    """
    flat = traverse_util.flatten_dict(params)
    held = traverse_util.flatten_dict(spectral, is_leaf=lambda path, _: path[-1:] == ("vectors",))
    for *layer, name in list(flat):
        if name == "theta":
            flat[*layer, name] = jnp.clip(flat[*layer, name], 0, jnp.pi)
        elif name == "kernel" and (*layer, "norm") in held:
            norm = held[*layer, "norm"]
            flat[*layer, name] *= RAW_NORM / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
            held[*layer, "norm"] = jnp.full_like(norm, RAW_NORM)
    return traverse_util.unflatten_dict(flat), traverse_util.unflatten_dict(held)
