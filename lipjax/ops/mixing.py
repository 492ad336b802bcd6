"""Channels of each pixel times a matrix: one product of matrices, and two in the backward pass."""

import functools

import jax
import jax.numpy as jnp

from lipjax.ops.fusion import stored


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def mixed(x: jax.Array, matrix: jax.Array, dtype: str | None = None) -> jax.Array:
    """x M, (…, C), (C, D) → (…, D) in the dtype of x.

    dtype 'bfloat16': factors are rounded to it, those of the gradients too, and summed in the dtype of x; half of the
    memory is kept for the backward pass.
    """
    return _forward(x, matrix, dtype)[0]


def _forward(x, matrix, dtype):
    rows = _rounded(x.reshape(-1, x.shape[-1]), dtype)
    return _product(rows, _rounded(matrix, dtype), x).reshape(*x.shape[:-1], matrix.shape[1]), (rows, matrix)


def _backward(dtype, kept, cotangent):
    rows, matrix = kept
    g = _rounded(cotangent.reshape(-1, cotangent.shape[-1]), dtype)
    of_x = _product(g, _rounded(matrix, dtype).T, cotangent)
    if matrix.shape[1] < matrix.shape[0]:  # a product with few rows is four times as fast as with few columns, on a CPU
        of_matrix = stored(_product(g.T, rows, matrix)).T
    else:
        of_matrix = _product(rows.T, g, matrix)
    return of_x.reshape(*cotangent.shape[:-1], matrix.shape[0]), of_matrix


mixed.defvjp(_forward, _backward)


def _rounded(x: jax.Array, dtype: str | None) -> jax.Array:
    return x if dtype in (None, "float32") else x.astype(dtype)


def _product(a: jax.Array, b: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=like.dtype)
