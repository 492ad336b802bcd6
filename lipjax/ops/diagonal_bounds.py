"""Diagonal bounds of convolutions: sums of absolute values instead of power iterations.

Let A be a convolution with the kernel P (k, k, C_in, C_out), and R its autocorrelation over taps and output channels,

    R[δ, i, j] = Σ_{a, o} P[a, i, o] P[a + δ, j, o],

which are the entries of AᵀA between channel i of one pixel and channel j of the pixel δ away, for the convolution whose
outputs are not cut.  A symmetric matrix M is at most the diagonal matrix of Σ_j |M_ij| q_j / q_i for any q > 0: their
difference is similar to a diagonally dominant one.  So with

    t_i = Σ_{δ, j} |R[δ, i, j]| q_j / q_i

AᵀA <= diag(t), and ‖A diag(t)^(−½)‖ <= 1 (Prach & Lampert, Almost-Orthogonal Layers, ECCV 2022, theorem 1, with q = 1;
Araujo et al., ICLR 2023, theorem 3).  Zero padding cuts outputs, which makes AᵀA smaller, or inputs, which takes a
principal submatrix of it; in either order, and whatever is larger than t, the same holds.
"""

import jax
import jax.numpy as jnp

from lipjax.ops.convolution import linear_operator

LEAST = 1e-8  # added to t, so that a channel of zeros stays zero, with a finite derivative


def autocorrelation(kernel: jax.Array) -> jax.Array:
    """R[δ, i, j] as (C_in, 2k − 1, 2k − 1, C_in), [i, δ, j], of a kernel (k, k, C_in, C_out), k odd."""
    k = kernel.shape[0]
    around = ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0))
    shifted = jnp.pad(kernel.transpose(2, 0, 1, 3), around)  # the zero padding of the convolution adds as much again
    return linear_operator(kernel.swapaxes(2, 3), 2 * k - 1, 2 * k - 1)(shifted)


def diagonal_bound(kernel: jax.Array, q: jax.Array | None = None) -> jax.Array:
    """t, (C_in,), with AᵀA <= diag(t) for the convolution A with the kernel (k, k, C_in, C_out); q (C_in,) positive."""
    sizes = jnp.abs(autocorrelation(kernel)).sum(axis=(1, 2))
    weighted = sizes.sum(axis=1) if q is None else (sizes * q).sum(axis=1) / q
    return weighted + LEAST


def almost_orthogonal(kernel: jax.Array) -> jax.Array:
    """The kernel (k, k, C_in, C_out) with input channel i times t_i^(−½): a convolution of norm at most 1."""
    return kernel * (1 / jnp.sqrt(diagonal_bound(kernel)))[:, None]
