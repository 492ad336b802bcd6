"""Skew orthogonal convolution as a layer (paper, section 4): normalised in training, bounded by proof."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.layers.checks import check_shapes
from lipjax.layers.convolution import sides
from lipjax.layers.folded import apply_kernel, fold_conv, plain_polynomial, polynomial_proof
from lipjax.layers.initializers import symmetric_uniform
from lipjax.layers.layer import Layer, tracked
from lipjax.layers.proven_norm import proven_norm
from lipjax.layers.rounding import COARSEST, ROUNDOFF
from lipjax.ops import skew
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.fusion import stored
from lipjax.ops.polynomials import Polynomial

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


# The norm to which the unscaled operators are brought back after each training step (`projected`).
RAW_NORM = 4.0


def held_polynomial(degree: int, norm: float) -> Polynomial:
    """The equiripple polynomial for operators held at ‖A‖ = `norm`: its interval reaches to HEADROOM · norm.

    Raises:
      ValueError: degree or interval outside what `ops.equiripple` allows.
    """
    return ops.equiripple(degree, HEADROOM * norm)


# Of raw kernels, by their largest entry, and of their norms, that can be normalised without underflow.
_SMALLEST = 1e-15

DEFAULT_POLYNOMIAL = held_polynomial(4, 1.9)


class SkewOrthogonalConv(Layer):
    """y = p(A) x + b, A the zero-padded convolution with a normalised skew kernel, Aᵀ = −A, p a polynomial like exp.

    Bound: max |p(it)| over 0 <= t <= σ̄, σ̄ >= ‖A‖ proven (`ops.conv_norm_bound`): A is normal with eigenvalues on the
    imaginary axis, so |p(it)| are the singular values.  At most 1 where σ̄ is inside the interval that p is made for.

    Source: Singla & Feizi, ICML 2021, and NeurIPS 2022 ("the paper"), section 4; equiripple polynomials, held norms and
    this proof are ours (docs/orthogonal.md).

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

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        for name in ("polynomial", "eval_polynomial"):
            object.__setattr__(self, name, plain_polynomial("SkewOrthogonalConv", name, getattr(self, name)))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        x = stored(x)
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
        return stored(y[..., : self.features] + bias)

    def _four_norm(self, kernel: jax.Array, image_shape: tuple[int, ...], train: bool) -> jax.Array:
        """The skew kernel divided by the smallest of its four norms."""
        del image_shape

        def settled():
            start = skew.random_power_vectors(self.make_rng("params"), kernel.shape, kernel.dtype)
            return skew.power_steps(skew.skew_kernel(kernel), start, SETTLING_STEPS)

        if not self.is_initializing():
            _tracked(self.variables)
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
        else:
            _tracked(self.variables)
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

    @nn.nowrap
    def evaluate(self, own, x):
        """As `__call__`, with the sums of the convolution in blocks (`ops.blocked`): their rounding is small."""
        polynomial, x = self.eval_polynomial or self.polynomial, stored(x)
        y = apply_kernel(x, self.normalised_kernel(own), polynomial, "blocked", self.gradient)
        return stored(y[..., : self.features] + own["params"]["bias"])

    @nn.nowrap
    def proof(self, own, shape):
        """max |p(it)| over 0 <= t <= σ̄ for the evaluation polynomial and a proven σ̄ >= ‖A‖ at this resolution.

        Rounding: each entry of the normalised kernel is rounded in a difference, a quotient of norms (of which the held
        one is a constant) and a product: 4 units; a four-norm is itself known to a part of it.  Then the nest of p, one
        convolution after the other (`folded.polynomial_rounding`).
        """
        polynomial, params, size = self.eval_polynomial or self.polynomial, own["params"], sides(shape)
        k, channels = self.kernel_size, max(shape[-1], self.features)
        check_shapes("SkewOrthogonalConv", params, kernel=(k, k, channels, channels), bias=(self.features,))
        with in_float64():
            kernel = np.asarray(self.normalised_kernel(jax.tree.map(_in_float64, dict(own))))
        off = 4.0 + (_four_norm_error(own) if self.polynomial.norm is None else 0.0)
        proof = polynomial_proof(polynomial, self._norm_bound(own, kernel, size), kernel, off, shape, params)
        return proof if self._is_in_range(own) else proof._replace(rounding=None)

    @nn.nowrap
    def _is_in_range(self, own: Mapping[str, Any]) -> bool:
        """Whether nothing underflows where the kernel is normalised, in float32 either."""
        largest = float(np.abs(np.asarray(own["params"]["kernel"])).max(initial=0.0))
        norm = 1.0 if self.polynomial.norm is None else float(_tracked(own)["norm"])
        return largest == 0 or (_SMALLEST < largest < 1 / _SMALLEST and _SMALLEST < norm < 1 / _SMALLEST)

    @nn.nowrap
    def _norm_bound(self, variables: Mapping[str, Any], kernel: np.ndarray, size: tuple[int, int]) -> float:
        """A bound of the norm with the normalised kernel, as computed in float64."""
        if self.polynomial.norm is None:
            return ops.conv_norm_bound(kernel, size)
        tiny = float(jnp.finfo(variables["params"]["kernel"].dtype).tiny)  # as in `_scaled`
        scale = self.held_norm / max(float(_tracked(variables)["norm"]), tiny)
        return _proven_norm(variables["params"]["kernel"], size) * scale * (1 + 4 * np.finfo(float).eps)

    @nn.nowrap
    def normalised_kernel(self, variables: Mapping[str, Any]) -> jax.Array:
        """The normalised skew kernel of evaluation, (k, k, C, C)."""
        kernel, spectral = variables["params"]["kernel"], _tracked(variables)
        if self.polynomial.norm is None:
            return skew.normalised_skew_kernel(kernel, spectral["vectors"])
        return self._scaled(skew.skew_kernel(kernel), spectral["norm"])

    @nn.nowrap
    def _scaled(self, kernel: jax.Array, norm: jax.Array) -> jax.Array:
        return kernel * (self.held_norm / jnp.maximum(norm, jnp.finfo(kernel.dtype).tiny))

    @nn.nowrap
    def settled(self, own, steps: int = SETTLING_STEPS):
        """With the tracked norm advanced by `steps` power iterations on the present kernel.

        Training calls it in the middle of each epoch, where kernels have moved and the power steps may lag.
        """
        kernel, spectral = skew.skew_kernel(own["params"]["kernel"]), _tracked(own)
        if self.polynomial.norm is None:
            return {**own, "spectral": {**spectral, "vectors": skew.power_steps(kernel, spectral["vectors"], steps)}}
        norm, image = skew.operator_power_steps(kernel, spectral["image"], steps)
        return {**own, "spectral": {**spectral, "norm": norm, "image": image}}

    @nn.nowrap
    def projected(self, own):
        """The same layer with its raw kernel scaled back to a tracked norm of RAW_NORM.

        A layer of held norm does not depend on the scale of its raw kernel.  A gradient step is orthogonal to the
        kernel and lengthens it, and the rate at which it learns falls with the square of its length.
        """
        if self.polynomial.norm is None:
            return own
        params, norm = own["params"], _tracked(own)["norm"]
        kernel = params["kernel"] * (RAW_NORM / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        spectral = {**own["spectral"], "norm": jnp.full_like(norm, RAW_NORM)}
        return {**own, "params": {**params, "kernel": kernel}, "spectral": spectral}

    @nn.nowrap
    def tightened(self, own, shape):
        """Settled, and with spectral/norm raised, where need be, until the proven σ̄ is inside the interval.

        The layer is then 1-Lipschitz by construction.  One of a polynomial made for no interval stays as it is.
        """
        if self.polynomial.norm is None:
            return own
        own = self.settled(own)
        interval = self.held_norm * HEADROOM
        proven = _proven_norm(own["params"]["kernel"], sides(shape))
        norm = np.asarray(_tracked(own)["norm"])
        least = np.nextafter(norm.dtype.type(proven * self.held_norm / interval * (1 + 1e-11)), norm.dtype.type(np.inf))
        return {**own, "spectral": {**own["spectral"], "norm": jnp.asarray(np.maximum(norm, least))}}

    @nn.nowrap
    def folded(self, own, shape):
        """The normalised kernel, or p(A) itself as one matrix (`layers.folded`)."""
        polynomial = self.eval_polynomial or self.polynomial
        return fold_conv(self.normalised_kernel, own, self.features, self.kernel_size, polynomial, shape)


def _four_norm_error(own: Mapping[str, Any]) -> float:
    """By how many units of roundoff, relative to it, the four-norm of a kernel is off: γ |v|ᵀ |M| |u| of a matrix M."""
    with in_float64():
        kernel = skew.skew_kernel(_in_float64(own["params"]["kernel"]))
        vectors = {name: _in_float64(vector) for name, vector in _tracked(own)["vectors"].items()}
        norm = float(skew.four_norm(kernel, vectors))
        matrices = [np.abs(np.asarray(matrix)) for matrix in skew.reshaped_kernels(kernel)]
    if not any(matrix.any() for matrix in matrices):
        return 0.0
    error = 0.0
    for j, matrix in enumerate(matrices, 1):
        u, v = (np.abs(np.asarray(vectors[f"{name}{j}"])) for name in "uv")
        error = max(error, sum(matrix.shape, 2) * float(v @ matrix @ u))
    part = error / norm if norm > 0 else np.inf
    if not part * ROUNDOFF * COARSEST < 0.5:
        raise ValueError(f"SkewOrthogonalConv: the tracked norm {norm:g} of the kernel is lost in its rounding")
    return part / (1 - part * ROUNDOFF * COARSEST)  # of the norm, and of its inverse


def _tracked(own: Mapping[str, Any]) -> Mapping[str, Any]:
    return tracked(own, "SkewOrthogonalConv")


def _in_float64(leaf) -> jax.Array:
    return jnp.asarray(np.asarray(leaf), jnp.float64)


def _proven_norm(kernel, size: tuple[int, int]) -> float:
    """`ops.conv_norm_bound` of the skew kernel of a raw one, in float64."""
    with in_float64():
        return proven_norm(np.asarray(skew.skew_kernel(_in_float64(kernel))), size)
