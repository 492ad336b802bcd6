"""The zero-padded stride-1 convolution A x, as the operator that is fast for its shape.

Rule, from shapes alone:
  k = 1                    a matrix product over channels;
  H, W <= ⌊k/2⌋ + 1        the dense (H·W·C)² operator: every pixel sees every other, so it has no zero block, costs at
                           most as many multiplications as the convolution (H²W²C² against H·W·k²·C²), and backends
                           run it at matrix-product rate where their convolutions of tiny images do not;
  otherwise                the backend's convolution.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (N, H, W, C_in), kernel (k, k, C_in, C_out) HWIO → (N, H, W, C_out), zero padding, stride 1."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def weight_gradient(x: jax.Array, g: jax.Array, kernel_size: int) -> jax.Array:
    """g ⊗ x: the gradient of ⟨g, convolution(x, kernel)⟩ in the kernel, (k, k, C_in, C_out), for any kernel."""
    shape = (kernel_size, kernel_size, x.shape[-1], g.shape[-1])
    _, vjp = jax.vjp(lambda kernel: convolution(x, kernel), jnp.zeros(shape, x.dtype))
    return vjp(g)[0]


def linear_operator(kernel: jax.Array, height: int, width: int) -> Callable[[jax.Array], jax.Array]:
    """The map x → A x of `convolution` for (N, height, width, C) inputs, prepared once for repeated use."""
    k = kernel.shape[0]
    if k == 1:
        return lambda x: jnp.matmul(x, kernel[0, 0])
    if max(height, width) <= k // 2 + 1:
        dense = dense_operator(kernel, height, width)
        return lambda x: jnp.matmul(x.reshape(x.shape[0], -1), dense).reshape(*x.shape[:3], -1)
    return lambda x: convolution(x, kernel)


def dense_operator(kernel, height: int, width: int):
    """The matrix D (H·W·C_in, H·W·C_out) with vec(A x) = vec(x) D; numpy in, numpy out, else jax, differentiable."""
    numpy = np if isinstance(kernel, np.ndarray) else jnp
    k, _, c_in, c_out = kernel.shape

    def tap(size):  # index of the tap that carries input pixel i to output pixel j, and whether there is one
        offset = np.arange(size)[:, None] - np.arange(size)[None, :] + k // 2
        return np.clip(offset, 0, k - 1), (offset >= 0) & (offset < k)

    (row, row_exists), (column, column_exists) = tap(height), tap(width)
    blocks = kernel[row[:, :, None, None], column[None, None, :, :]]  # (h in, h out, w in, w out, C_in, C_out)
    exists = row_exists[:, :, None, None, None, None] & column_exists[None, None, :, :, None, None]
    blocks = numpy.where(exists, blocks, numpy.zeros((), blocks.dtype))
    return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(height * width * c_in, height * width * c_out)
