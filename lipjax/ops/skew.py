"""Skew kernels and their two normalisations: the paper's four norms, and the norm of the operator itself.

A kernel L with L[h, w, i, o] = −L[k−1−h, k−1−w, o, i] makes the zero-padded, stride-1 convolution a skew-symmetric
operator A (Aᵀ = −A).  The spectral norms of the four matrices into which L can be reshaped bound it:
‖A‖ <= k · min(four norms) for a k×k kernel (Singla & Feizi, Fantastic Four, ICLR 2021), so dividing by the smallest of
them, as the paper does, leaves ‖A‖ <= 3 for 3×3 kernels, and 1.5 to 2.8 in trained networks.  The other way is to
divide by ‖A‖ itself: A is normal, so one image that follows x → A x / ‖A x‖ tracks it, one application of A a step.

All these norms are tracked by power iteration and are therefore estimates: no certificate uses them,
`bounds.conv_norm_bound` bounds the operator that results.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lipjax.ops.convolution import linear_operator
from lipjax.ops.ritz import unit

PowerVectors = dict[str, jax.Array]


def skew_kernel(kernel: jax.Array) -> jax.Array:
    """L = (M − flip_hw(M) with channels transposed) / 2, not normalised; (k, k, C, C) HWIO, k odd.

    The convolution with L is the skew-symmetric part of the convolution with M (paper, section 4).

    Raises:
      ValueError: kernel not of shape (k, k, C, C) with k odd.
    """
    check_kernel("skew_kernel", kernel)
    kernel = jnp.asarray(kernel)
    return (kernel - jnp.flip(kernel, (0, 1)).swapaxes(2, 3)) / 2


def check_kernel(caller: str, kernel: jax.Array) -> None:
    """Raise ValueError unless the kernel is (k, k, C, C) with k odd."""
    shape = jnp.shape(kernel)
    if len(shape) != 4 or shape[0] != shape[1] or shape[2] != shape[3] or shape[0] % 2 == 0:
        raise ValueError(f"{caller}: kernel must have shape (k, k, C, C) with k odd, got {shape}")


def check_skew(caller: str, kernel: jax.Array) -> None:
    """Raise ValueError unless a concrete kernel is skew up to rounding; a traced one cannot be checked."""
    if isinstance(kernel, jax.core.Tracer):
        return
    entries = np.asarray(kernel)
    largest = np.abs(entries).max(initial=0)
    error = np.abs(entries + np.flip(entries, (0, 1)).swapaxes(2, 3)).max(initial=0)
    if not error <= float(jnp.finfo(entries.dtype).eps) ** 0.5 * largest:
        raise ValueError(
            f"{caller}: kernel must be skew, L[h, w, i, o] = -L[k-1-h, k-1-w, o, i], as skew_kernel makes it; "
            f"got one that misses it by {error:.2g} with entries up to {largest:.2g}"
        )


def reshaped_kernels(kernel_hwio: jax.Array) -> tuple[jax.Array, ...]:
    """(k, k, C, C) → the four matrices of the norm bound: (o·h, i·w), (o·w, i·h), (o, i·h·w) and (i, o·h·w)."""
    k, _, c, _ = kernel_hwio.shape
    return (
        kernel_hwio.transpose(3, 0, 2, 1).reshape(c * k, c * k),
        kernel_hwio.transpose(3, 1, 2, 0).reshape(c * k, c * k),
        kernel_hwio.transpose(3, 2, 0, 1).reshape(c, c * k * k),
        kernel_hwio.transpose(2, 3, 0, 1).reshape(c, c * k * k),
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def random_power_vectors(key: jax.Array, kernel_shape: tuple[int, ...], dtype=jnp.float32) -> PowerVectors:
    """Unit vectors u1 … u4 (right) and v1 … v4 (left) for the four matrices of a (k, k, C, C) kernel."""
    k, _, c, _ = kernel_shape
    lengths = {"u1": c * k, "u2": c * k, "u3": c * k * k, "u4": c * k * k, "v1": c * k, "v2": c * k, "v3": c, "v4": c}
    normal = jax.random.normal(key, (sum(lengths.values()),), dtype)  # one draw: eight would cost compile time
    pieces = jnp.split(normal, list(itertools.accumulate(lengths.values()))[:-1])
    return {name: unit(piece) for name, piece in zip(lengths, pieces, strict=True)}


@jax.jit
def power_steps(kernel: jax.Array, vectors: PowerVectors, steps: int | jax.Array = 1) -> PowerVectors:
    """`steps` power iterations v = Mu/‖Mu‖, u = Mᵀv/‖Mᵀv‖ on each of the four matrices of a skew kernel."""
    matrices = reshaped_kernels(lax.stop_gradient(kernel))

    def step(_, pairs):
        pairs = [(u, unit(matrix @ u)) for matrix, (u, _) in zip(matrices, pairs, strict=True)]
        return [(unit(matrix.T @ v), v) for matrix, (_, v) in zip(matrices, pairs, strict=True)]

    pairs = lax.fori_loop(0, steps, step, [(vectors[f"u{j}"], vectors[f"v{j}"]) for j in range(1, 5)])
    return {name + str(j): vector for j, pair in enumerate(pairs, 1) for name, vector in zip("uv", pair, strict=True)}


def four_norm(kernel: jax.Array, vectors: PowerVectors) -> jax.Array:
    """min over the four matrices M of vᵀMu, (), differentiable in the kernel with the power vectors held constant."""
    vectors = lax.stop_gradient(vectors)
    matrices = enumerate(reshaped_kernels(kernel), 1)
    return jnp.min(jnp.stack([vectors[f"v{j}"] @ (matrix @ vectors[f"u{j}"]) for j, matrix in matrices]))


def normalised_skew_kernel(kernel: jax.Array, vectors: PowerVectors) -> jax.Array:
    """skew_kernel(kernel) divided by its `four_norm`; a zero kernel stays zero."""
    skew = skew_kernel(kernel)
    return skew / jnp.maximum(four_norm(skew, vectors), jnp.finfo(skew.dtype).tiny)


def operator_norm(kernel: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(‖A x‖, A x / ‖A x‖) for a unit image x (H, W, C): an estimate of ‖A‖ from below and the next image.

    The estimate is differentiable in the skew kernel; both images are constants for the gradient.
    """
    height, width, _ = image.shape
    moved = linear_operator(kernel, height, width)(lax.stop_gradient(image)[None])[0]
    norm = jnp.linalg.norm(moved.ravel())
    return norm, lax.stop_gradient(moved / jnp.maximum(norm, jnp.finfo(moved.dtype).tiny))


@jax.jit
def operator_power_steps(kernel: jax.Array, image: jax.Array, steps: int | jax.Array) -> tuple[jax.Array, jax.Array]:
    """`operator_norm` after so many steps from a unit image (H, W, C); a constant for the gradient.

    After no step the norm is 0.
    """
    kernel = lax.stop_gradient(kernel)
    start = (jnp.zeros((), kernel.dtype), image)
    return lax.fori_loop(0, steps, lambda _, state: operator_norm(kernel, state[1]), start)


@functools.partial(jax.jit, static_argnums=(1, 2))
def random_unit_image(key: jax.Array, shape: tuple[int, int, int], dtype=jnp.float32) -> jax.Array:
    """A random image (H, W, C) of norm 1, from which `operator_power_steps` start."""
    image = jax.random.normal(key, shape, dtype)
    return image / jnp.linalg.norm(image.ravel())
