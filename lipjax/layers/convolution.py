"""What layers with a convolution of any kernel share: the norm in training, program in evaluation, proof."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.layers.checks import check_shapes
from lipjax.layers.layer import Proof, Shape, Variables, norm_at_zero, tracked
from lipjax.layers.rounding import COARSEST, Rounding, enlarged, gamma, underflow
from lipjax.ops import bounds
from lipjax.ops.blocked import blocks, of_bias, products
from lipjax.ops.convolution import blocked_sums, linear_operator
from lipjax.ops.dense_bounds import dense_norm_bound, dense_rounding
from lipjax.ops.general_conv import conv, norm_along, ritz_step
from lipjax.ops.nonnegative import nonnegative_conv_norm_bound, nonnegative_norm_bound
from lipjax.ops.skew import random_unit_image

COMPUTE_DTYPES = ("float32", "bfloat16")  # of convolutions and products in training

SETTLING_STEPS = 6  # `ritz_step`s that settle an image from anywhere; training makes one a step

# What is rounded is known up to what has been rounded before: of higher order, and below this part in float32.
MORE = 1.01


def sides(shape: Shape) -> tuple[int, int]:
    """Height and width of images (H, W, C); ValueError for what is none."""
    if len(shape) != 3:
        raise ValueError(f"a convolution is of images (H, W, C), got {shape}")
    return shape[0], shape[1]


def in_training(x: jax.Array, kernel: jax.Array, compute_dtype: str) -> jax.Array:
    """K x, in bfloat16 if so asked."""
    return conv(x, kernel.astype(jnp.bfloat16) if compute_dtype == "bfloat16" else kernel)


@jax.jit
def settled_image(kernel: jax.Array, image: jax.Array) -> jax.Array:
    """Near the top singular vector (H, W, C_in) of K, from any image."""
    return jax.lax.fori_loop(0, SETTLING_STEPS, lambda _, v: ritz_step(kernel, v), image)


def follow(layer: nn.Module, kernel: jax.Array, shape: Shape, train: bool) -> None:
    """Under `__call__`: spectral/image (H, W, C_in) follows the top singular vector of K, a Ritz step a call.

    Evaluation does not read it.
    """
    if layer.is_initializing():

        def settled():
            start = random_unit_image(layer.make_rng("params"), (*shape[:2], kernel.shape[2]), kernel.dtype)
            return settled_image(kernel, start)

        layer.variable("spectral", "image", settled)
    elif train:
        image = tracked(layer.variables, type(layer).__name__)["image"]
        if layer.is_mutable_collection("spectral"):
            layer.put_variable("spectral", "image", ritz_step(kernel, image))


def settled(own: Variables, kernel: jax.Array) -> dict[str, Any]:
    """The variables with spectral/image caught up with the kernel; those of a folded layer have none."""
    if not own.get("spectral"):
        return {**own}
    image = settled_image(kernel, tracked(own, "a convolution")["image"])
    return {**own, "spectral": {**own["spectral"], "image": image}}


def estimate(own: Variables, kernel: jax.Array) -> jax.Array:
    """‖K‖ along spectral/image, differentiable in the kernel."""
    return norm_along(kernel, tracked(own, "a convolution")["image"])


def evaluated(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """K x with its sums in blocks, which `conv_proof` is about."""
    _, height, width, _ = x.shape
    return linear_operator(kernel, height, width, "blocked")(x)


def conv_proof(
    kind: str, kernel: np.ndarray, parts: np.ndarray, off: float, shape: Shape, params: Mapping, factor: float = 0.0
) -> Proof:
    """Of K x + bias by `evaluated`, on images (H, W, C_in) of that shape.

    Args:
      kernel: as computed in float64.  Its entries are off by `off` units of roundoff relative to `parts`, >= |K|: the
        operator in real arithmetic has norm ‖K‖ + γ(off) ‖parts‖ at most.
      params: with 'bias' (C_out,), or none.
      factor: the largest number by which what underflows in the entries of K is multiplied.
    """
    size, (k, _, c_in, c_out) = sides(shape), kernel.shape
    if "bias" in params:
        check_shapes(kind, params, bias=(c_out,))
    absolute = nonnegative_conv_norm_bound(parts, size)
    bound = (bounds.conv_norm_bound(kernel, size) + gamma(off) * absolute) * (1 + 4 * np.finfo(float).eps)
    offset = norm_at_zero(params["bias"], (*size, c_out)) if "bias" in params else 0.0
    applied = applied_rounding(kernel.shape, size, bound, absolute, off)
    # Entries of K that are flushed to 0, by up to 4 operations: an operator of norm k ‖·‖_F at most.
    relative = applied + (1 + factor) * k * underflow(kernel.size, 4) + gamma(1) * (bound + COARSEST * applied)
    lost = underflow(size[0] * size[1] * c_out, 2 * k * k * c_in * (1 + absolute))
    rounding = enlarged(relative * MORE, gamma(of_bias(k * k * c_in)) * offset + lost)
    what = f"{kind}, {c_in} to {c_out} channels, {size[0]}×{size[1]} pixels"
    why = bounds.method(kernel.shape, size, bounds.is_skew(kernel))
    return Proof(what, bound, why, offset, rounding=rounding)


def applied_rounding(kernel_shape: Shape, size: tuple[int, int], norm: float, absolute: float, off: float) -> float:
    """‖error‖ <= this · ‖v‖, of K v by the operator 'blocked', ‖K‖ <= norm, ‖|K|‖ <= absolute, entries off by `off`.

    Within a block of n' products |error| <= γ(n' + off) |K| |v|.  The other additions round partial sums over some
    input channels and taps.  Of these, what comes from one pixel is part of K restricted to that pixel, hence at most
    norm ‖v at that pixel‖, and at most k² pixels meet at one: a partial sum is at most k norm ‖v‖.
    (In sums over a row of taps, of which only k meet at a pixel, a tap may be cut: √2 for that, and √(2k) <= k.)
    """
    count, parts = blocked_sums(kernel_shape[0], *size, kernel_shape[2])
    within = gamma(count + off)
    return within * absolute + gamma(parts) * (kernel_shape[0] * norm + within * COARSEST * absolute)


def matrix_rounding(matrix: np.ndarray, bound: float, offset: float, pixels: int = 1) -> Rounding:
    """Of x D + b by `blocked.product`, ‖D‖ <= bound, for all pixels of an image alike.

    Within a block each of n' products goes through at most n' roundings, so that |error| <= γ(n') |x| |D|; each of the
    other additions rounds a partial sum, the product with some rows of D, of norm at most bound.  The last is for b.
    """
    count = len(matrix)
    within = gamma(products(count)) * nonnegative_norm_bound(matrix)
    lost = underflow(pixels * matrix.shape[1], 2 * count)
    return enlarged(within + gamma(blocks(count) + 1) * bound * MORE, gamma(of_bias(count)) * offset + lost)


def matrix_proof(kind: str, matrix: np.ndarray, offset: float, pixels: int = 1, margin: float = 1e-4) -> Proof:
    """Of x D + b by `blocked.product`, for all pixels of an image alike: ‖D‖, proven of its Gram matrix.

    `margin`: see `dense_norm_bound`.
    """
    bound = dense_norm_bound(np.asarray(matrix, np.float64), margin)
    allowance = f"about {dense_rounding((len(matrix), matrix.shape[1])):.1e} of it is allowance for rounding"
    why = f"Cholesky factorisation of its Gram matrix; {allowance}"
    return Proof(kind, bound, why, offset, rounding=matrix_rounding(matrix, bound, offset, pixels))
