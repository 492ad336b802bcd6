"""Skew orthogonal convolutions folded for evaluation: the normalised kernel, or p(A) itself as one matrix."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.layers import plain
from lipjax.layers.convolution import MORE, applied_rounding, matrix_proof, sides
from lipjax.layers.layer import Layer, Proof, Shape, Variables, norm_at_zero
from lipjax.layers.rounding import COARSEST, ROUNDOFF, Rounding, enlarged, gamma, underflow
from lipjax.ops import bounds
from lipjax.ops.blocked import product
from lipjax.ops.bounds import Size, is_skew
from lipjax.ops.fusion import stored
from lipjax.ops.nonnegative import nonnegative_conv_norm_bound
from lipjax.ops.polynomials import Polynomial

# A matrix costs (H·W·C)² multiplications an image, the nest of degree d H·W·d·k²·C²: fewer for H·W <= 9 d.  Beyond 4096
# unknowns the matrix is large (64 MB in float32 there) and slow to prove a bound of.
_MATRIX_SIZE = 4
_MATRIX_UNKNOWNS = 4096
_MARGIN = 1e-6  # from where its proof starts


def is_matrix(size: Size, channels: int) -> bool:
    """Whether a layer of this resolution and width folds to a matrix."""
    height, width = size if isinstance(size, tuple) else (size, size)
    return max(height, width) <= _MATRIX_SIZE and height * width * channels <= _MATRIX_UNKNOWNS


class FoldedConv(Layer):
    """`SkewOrthogonalConv` in evaluation, without spectral state; its parameters come from `fold_conv`.

    y = D x + b with the whole matrix D of p(A) where the image is small, else p(A) x + b with the kernel of A.

    Params: bias (features,), and matrix (H·W·C_in, H·W·features) where `is_matrix`, else the normalised skew kernel
    (k, k, C, C).

    Bound: of D, its norm, by a Cholesky factorisation of its Gram matrix; else as that of `SkewOrthogonalConv`.

    Rounding: of D x, the sums of a product in blocks (`convolution.matrix_rounding`); else `polynomial_rounding`.

    Source: that of `SkewOrthogonalConv`; the matrix is ours (docs/orthogonal.md).

    Attributes:
      features: output channels.
      size: height and width of the input, or both in one.
      kernel_size: k.
      polynomial: p.
    """

    features: int
    size: Size
    kernel_size: int
    polynomial: Polynomial

    def __post_init__(self):
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "polynomial", plain_polynomial("FoldedConv", "polynomial", self.polynomial))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        del train
        x = stored(x)
        zeros, (count, height, width, in_channels) = nn.initializers.zeros, x.shape
        channels = max(in_channels, self.features)
        bias = self.param("bias", zeros, (self.features,))
        if is_matrix(self.size, channels):
            matrix = self.param("matrix", zeros, (height * width * in_channels, height * width * self.features))
            y = product(x.reshape(count, -1), matrix).reshape(count, height, width, self.features)
        else:
            kernel = self.param("kernel", zeros, (self.kernel_size, self.kernel_size, channels, channels))
            y = apply_kernel(x, kernel, self.polynomial, "blocked")[..., : self.features]
        return stored(y + bias)

    @nn.nowrap
    def proof(self, own, shape):
        """Of the norm of the matrix, or max |p(it)| over the proven norms of the kernel's operator.

        Raises:
          ValueError: a kernel that is not skew to the last bit; a layer folded for another resolution.
        """
        params, size = own["params"], sides(shape)
        if size != (self.size if isinstance(self.size, tuple) else (self.size, self.size)):
            raise ValueError(f"FoldedConv: folded for size={self.size} pixels, got {size[0]}×{size[1]}")
        if is_matrix(size, max(shape[2], self.features)):  # as `__call__` decides, whatever else params hold
            kind = f"matrix {params['matrix'].shape[0]} × {params['matrix'].shape[1]}, {size[0]}×{size[1]} pixels"
            return matrix_proof(kind, params["matrix"], norm_at_zero(params["bias"], shape), margin=_MARGIN)
        kernel = np.asarray(params["kernel"])
        if not is_skew(kernel):
            raise ValueError("FoldedConv: the kernel is not skew, so nothing is known of |p(A)|; fold the network anew")
        norm = ops.conv_norm_bound(kernel, size)
        return polynomial_proof(self.polynomial, norm, kernel, 0.0, shape, params)

    @nn.nowrap
    def plain(self, own, shape):
        """The matrix, or p(A) x = s (x + c_1 A (x + c_2 A (…))) as it is: sums of x and of a convolution with c_j A."""
        params, channels = own["params"], max(shape[2], self.features)
        if is_matrix(self.size, channels):
            if shape[:2] == (1, 1):
                return [plain.matrix(params["matrix"], params["bias"], shape)]
            bias = np.tile(plain.array(params["bias"]), shape[0] * shape[1])
            unflatten = {"kind": "unflatten", "shape": [*shape[:2], self.features]}
            return [{"kind": "flatten", "order": "hwc"}, plain.matrix(params["matrix"], bias, (0,)), unflatten]
        kernel = plain.array(params["kernel"])
        nest: plain.Plain = []
        for c in reversed(self.polynomial.coefficients):
            nest = [plain.total([], [*nest, plain.conv(c * kernel)])]
        return [
            *plain.more_channels(shape[2], channels),
            *nest,
            *plain.first_channels(channels, self.features),
            plain.affine(self.polynomial.scale, params["bias"]),
        ]


def polynomial_rounding(
    polynomial: Polynomial, norm: float, absolute: float, kernel_shape: Shape, off: float, shape: Shape, offset: float
) -> Rounding:
    """Of p(A) x + b by the operator 'blocked', ‖A‖ <= norm, ‖|A|‖ <= absolute, kernel entries off by `off` units.

    One application: `convolution.applied_rounding`.  The nest: u_j = x + c_{j+1} A u_{j+1} is q_j(A) x, ‖q_j(A)‖ <= max
    |q_j(it)|; an error e of u_{j+1} becomes |c_{j+1}| norm e, and the constant, the product with it and the sum are
    rounded.  Then the scale, and b.
    """
    size, k, channels = sides(shape), kernel_shape[0], kernel_shape[2]
    absolute *= 1 + off * ROUNDOFF * COARSEST
    applied = applied_rounding(kernel_shape, size, norm, absolute, off)
    error, gain = 0.0, 1.0
    for j in reversed(range(polynomial.degree)):
        c = abs(polynomial.coefficients[j])
        step = applied + gamma(3) * (norm + COARSEST * applied)
        error = c * (norm * error + step * (gain + COARSEST * error))
        gain = Polynomial(polynomial.coefficients[j:]).gain(norm)[1]
        error += gamma(1) * (gain + COARSEST * error)
    scale = abs(polynomial.scale)
    relative = scale * (error + gamma(3) * (gain + COARSEST * error))  # the scale, the product with it, and the sum
    lost = underflow(size[0] * size[1] * channels, 2 * k * k * channels * (1 + absolute) ** (polynomial.degree + 1))
    return enlarged(relative * MORE, gamma(1) * offset + lost)


def plain_polynomial(owner: str, name: str, polynomial: Any) -> Any:
    """A `Polynomial` of the layer's own, or None; TypeError for anything else, a subclass too."""
    if polynomial is None and name == "eval_polynomial":
        return None
    if type(polynomial) is not Polynomial:
        raise TypeError(f"{owner}: {name} must be a Polynomial, got {polynomial!r}")
    return Polynomial(polynomial.coefficients, polynomial.scale, polynomial.norm)


def polynomial_proof(
    polynomial: Polynomial, norm: float, kernel: np.ndarray, off: float, shape: Shape, params: Mapping[str, Any]
) -> Proof:
    """The proof of p(A) x + bias; ‖A‖ <= norm for the skew kernel as computed, with entries off by `off` units.

    Of the operator with the kernel in real arithmetic ‖A‖ is at most norm + γ(off) ‖|A|‖.
    """
    size = sides(shape)
    absolute = nonnegative_conv_norm_bound(kernel, size)
    norm += gamma(off) * absolute
    held = "made for no interval" if polynomial.norm is None else f"made for norms up to {polynomial.norm:.6g}"
    side, channels, (height, width) = kernel.shape[0], kernel.shape[2], size
    of_norm, offset = bounds.method(kernel.shape, size), norm_at_zero(params["bias"], shape)
    return Proof(
        f"skew orthogonal convolution {side}×{side}, {channels} channels, {height}×{width} pixels",
        polynomial.gain(norm)[1],
        f"max |p(it)| up to the norm, p of degree {polynomial.degree} {held}; norm: {of_norm}",
        offset,
        norm,
        polynomial_rounding(polynomial, norm, absolute, kernel.shape, off, shape, offset),
    )


def apply_kernel(
    x: jax.Array, kernel: jax.Array, polynomial: Polynomial, operator: str | None = None, gradient: str = "fast"
) -> jax.Array:
    """p(A) x, (N, H, W, C), with the channels of x (N, H, W, C_in <= C) zero-padded to those of the kernel."""
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, kernel.shape[-1] - x.shape[-1])))
    return ops.orthogonal_conv(x, kernel, polynomial, gradient, operator)


def fold_conv(
    normalised_kernel: Callable[[Variables], jax.Array],
    own: Variables,
    features: int,
    kernel_size: int,
    polynomial: Polynomial,
    shape: Shape,
) -> tuple[FoldedConv, dict[str, Any]]:
    """(layer, variables) of p(A) x + b in evaluation, A with the kernel that `normalised_kernel` makes of `own`."""
    (height, width), in_channels = sides(shape), shape[2]

    @jax.jit
    def fold(own):
        kernel, bias = normalised_kernel(own), own["params"]["bias"]
        if not is_matrix((height, width), kernel.shape[-1]):
            return {"kernel": kernel, "bias": bias}
        unknowns = height * width * in_channels
        images = jnp.eye(unknowns, dtype=kernel.dtype).reshape(unknowns, height, width, in_channels)
        with jax.default_matmul_precision("highest"):
            columns = apply_kernel(images, kernel, polynomial)
        return {"matrix": columns[..., :features].reshape(unknowns, -1), "bias": bias}

    size = height if height == width else (height, width)
    return FoldedConv(features, size, kernel_size, polynomial, parent=None), {"params": fold(own)}
