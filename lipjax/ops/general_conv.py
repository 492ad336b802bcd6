"""Convolutions with a kernel of any kind: fast gradient, estimate of the norm, strides by rearrangement."""

import jax
import jax.numpy as jnp
from jax import lax

from lipjax.ops.convolution import linear_operator, weight_gradient
from lipjax.ops.ritz import gain_along, ritz_vector

KRYLOV = 8  # of a Ritz step: each dimension costs two convolutions of one image


@jax.custom_vjp
def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The zero-padded stride-1 convolution of x (N, H, W, C_in), kernel (k, k, C_in, C_out) HWIO, k odd, in x's dtype.

    A kernel of half precision multiplies in that precision, and activations are kept in it for the backward pass.
    """
    return _apply(x, kernel)


def _apply(x, kernel):
    kernel = kernel if jnp.finfo(kernel.dtype).bits == 16 else kernel.astype(x.dtype)
    _, height, width, _ = x.shape
    return linear_operator(kernel, height, width)(x.astype(kernel.dtype)).astype(x.dtype)


def _forward(x, kernel):
    return _apply(x, kernel), (x.astype(kernel.dtype), kernel)


def _backward(kept, g):
    """⟨g, K x⟩ has the gradients K* g in x and g ⊗ x in K."""
    x, kernel = kept
    return _apply(g, adjoint(kernel)), weight_gradient(x, g.astype(kernel.dtype), len(kernel))


conv.defvjp(_forward, _backward)


def adjoint(kernel: jax.Array) -> jax.Array:
    """The kernel (k, k, C_out, C_in) of the transposed operator."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def ritz_step(kernel: jax.Array, image: jax.Array) -> jax.Array:
    """`ritz_vector` of K* K from an image (H, W, C_in), of dimension KRYLOV; constant for the gradient."""
    kernel = lax.stop_gradient(kernel)
    height, width, _ = image.shape
    forth, back = (linear_operator(k, height, width) for k in (kernel, adjoint(kernel)))
    return ritz_vector(lambda v: back(forth(v[None]))[0], lax.stop_gradient(image), KRYLOV)


def norm_along(kernel: jax.Array, image: jax.Array) -> jax.Array:
    """`gain_along` of K along a unit image (H, W, C_in): ‖K‖ from below, ()."""
    return gain_along(lambda v: conv(v[None], kernel), image)


def patches(x: jax.Array, size: int) -> jax.Array:
    """(N, H, W, C) → (N, ⌈H/s⌉, ⌈W/s⌉, s² C), s = `size`, channels in the order (row, column, c).

    Zeros are added below and to the right where s does not divide H or W: an isometry, as the permutation is.
    """
    missing = [(0, -n % size) for n in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *missing, (0, 0)))
    n, h, w, c = x.shape
    x = x.reshape(n, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // size, w // size, size * size * c)


def strided_kernel(kernel: jax.Array, stride: int) -> jax.Array:
    """The kernel (K, K, s² C_in, C_out), K odd, that is on `patches(x, s)` what `kernel`, with stride s, is on x.

    y[i] = Σ_t kernel[t] x[s i + t − p], with p = ⌈(k − s)/2⌉ zeros before the image: p = ⌊k/2⌋ for k odd and s = 2, and
    none for patches, k = s.  With s i + t − p = s (i + d) + a, 0 <= a < s, tap t is that of patch i + d and entry a.
    Entries are moved, and zeros added.
    """
    k, _, c_in, c_out = kernel.shape
    before = -((stride - k) // 2)
    reach = max(-(-before // stride), (k - 1 - before) // stride)  # of the patches, to either side
    side = 2 * reach + 1
    ends = (reach * stride - before, side * stride - k - (reach * stride - before))
    kernel = jnp.pad(kernel, (ends, ends, (0, 0), (0, 0)))
    kernel = kernel.reshape(side, stride, side, stride, c_in, c_out).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(side, side, stride * stride * c_in, c_out)
