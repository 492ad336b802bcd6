"""Skew orthogonal convolutions folded for evaluation: the normalised kernel, or p(A) itself as one matrix."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.layers.proof import Link
from lipjax.layers.skew_orthogonal_conv import SkewOrthogonalConv, polynomial_proof
from lipjax.ops.bounds import dense_norm_bound, dense_rounding, is_skew
from lipjax.ops.polynomials import Polynomial

# A matrix costs (H·W·C)² multiplications an image, the nest of degree d H·W·d·k²·C²: fewer for H·W <= 9 d.  Beyond 4096
# unknowns the matrix is large (64 MB in float32 there) and slow to prove a bound of.
_MATRIX_SIZE = 4
_MATRIX_UNKNOWNS = 4096


def is_matrix(size: int, channels: int) -> bool:
    """Whether a layer of this resolution and width folds to a matrix."""
    return size <= _MATRIX_SIZE and size**2 * channels <= _MATRIX_UNKNOWNS


class FoldedConv(nn.Module):
    """`SkewOrthogonalConv` in evaluation, without spectral state; its parameters come from `fold_layer`.

    Params: bias (features,), and matrix (H·W·C_in, H·W·features) where `is_matrix`, else the normalised skew kernel
    (k, k, C, C).

    Attributes:
      features: output channels.
      size: height and width of the input.
      kernel_size: k.
      polynomial: p.
    """

    features: int
    size: int
    kernel_size: int
    polynomial: Polynomial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        del train
        zeros, (count, height, width, in_channels) = nn.initializers.zeros, x.shape
        channels = max(in_channels, self.features)
        bias = self.param("bias", zeros, (self.features,))
        if is_matrix(self.size, channels):
            matrix = self.param("matrix", zeros, (height * width * in_channels, height * width * self.features))
            return (x.reshape(count, -1) @ matrix).reshape(count, height, width, self.features) + bias
        kernel = self.param("kernel", zeros, (self.kernel_size, self.kernel_size, channels, channels))
        return apply_kernel(x, kernel, self.polynomial)[..., : self.features] + bias

    def lipschitz_bound(self, variables: Mapping[str, Any], size: int) -> float:
        """A proven bound: of the norm of the matrix, or max |p(it)| over the proven norms of the kernel's operator."""
        return self.proof(variables, size).lipschitz

    def proof(self, variables: Mapping[str, Any], size: int) -> Link:
        """`lipschitz_bound` and how it was obtained; ValueError for a kernel that is not skew to the last bit."""
        params = variables["params"]
        if "matrix" in params:
            bound = dense_norm_bound(np.asarray(params["matrix"], np.float64))
            shape = params["matrix"].shape
            rounding = f"at most {dense_rounding(shape):.1e} of it is allowance for rounding"
            kind = f"matrix {shape[0]} × {shape[1]}, {size}×{size} pixels"
            return Link("", kind, bound, f"Cholesky factorisation of its Gram matrix; {rounding}")
        kernel = np.asarray(params["kernel"])
        if not is_skew(kernel):
            raise ValueError("FoldedConv: the kernel is not skew, so nothing is known of |p(A)|; fold the network anew")
        norm = ops.conv_norm_bound(kernel, size)
        return polynomial_proof(self.polynomial, norm, params["kernel"].shape, size)


def apply_kernel(x: jax.Array, kernel: jax.Array, polynomial: Polynomial) -> jax.Array:
    """p(A) x, (N, H, W, C), with the channels of x (N, H, W, C_in <= C) zero-padded to those of the kernel."""
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, kernel.shape[-1] - x.shape[-1])))
    return ops.orthogonal_conv(x, kernel, polynomial)


@jax.jit(static_argnums=(0, 2, 3))
def fold_layer(layer: SkewOrthogonalConv, variables: Mapping[str, Any], size: int, in_channels: int) -> dict[str, Any]:
    """The parameters of the `FoldedConv` that equals a layer in evaluation on size×size pixels."""
    kernel, bias = layer.normalised_kernel(variables), variables["params"]["bias"]
    if not is_matrix(size, kernel.shape[-1]):
        return {"kernel": kernel, "bias": bias}
    unknowns = size * size * in_channels
    images = jnp.eye(unknowns, dtype=kernel.dtype).reshape(unknowns, size, size, in_channels)
    with jax.default_matmul_precision("highest"):
        columns = apply_kernel(images, kernel, layer.eval_polynomial or layer.polynomial)
    return {"matrix": columns[..., : layer.features].reshape(unknowns, -1), "bias": bias}
