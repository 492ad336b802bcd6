"""Convolutions on a cyclic grid, one matrix a frequency, as products with real matrices alone.

The discrete Fourier transform of a grid g × h is a product with a matrix for each axis, so that what rounding does to
it is known (`layers.grid`), and images of n × m pixels, zero-padded to the grid, need only n and m of the rows.  Images
are real, so half the frequencies of the second axis carry everything:

    along the width   x_w → (re, im)_l = (w_l / h)^½ Σ_w x_w (cos, −sin)(2π l w / h),   l = 0 … ⌊h/2⌋,
    along the height  z_y → g^(−½) Σ_y z_y e^(−2π i j y / g),                             j = 0 … g − 1,

w_l = 1 where l = 0 or 2 l = h, else 2.  Both are isometries, and the transforms back are their transposes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Grid = tuple[int, int]
Product = Callable[[jax.Array, jax.Array], jax.Array]


def _angles(places: np.ndarray, points: int) -> np.ndarray:
    """2π · places / points, in [−π, π), of integers."""
    return 2 * np.pi * ((places + points // 2) % points - points // 2) / points


def transforms(size: Grid, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(along the height (2n, 2g), along the width (m, 2 (⌊h/2⌋ + 1))), float64, for images (n, m) on a grid (g, h)."""
    (height, width), (points, half) = size, (grid[0], grid[1] // 2 + 1)
    theta = _angles(np.outer(np.arange(height), np.arange(points)), points)
    cos, sin = np.cos(theta) / np.sqrt(points), np.sin(theta) / np.sqrt(points)
    down = np.block([[cos, -sin], [sin, cos]])
    phi = _angles(np.outer(np.arange(width), np.arange(half)), grid[1])
    often = np.where(np.arange(half) * 2 % grid[1] == 0, 1, 2)
    scale = np.sqrt(often / grid[1])
    return down, np.concatenate([np.cos(phi) * scale, -np.sin(phi) * scale], axis=1)


def symbols(kernel, grid: Grid):
    """Σ_d K[d] e^{iω(d − r)} at the half of the frequencies ω, (g · (⌊h/2⌋ + 1), C_in, C_out); numpy in, numpy out.

    On the grid the convolution y[p] = Σ_d x[p + d − r] K[d], x a row of channels, is the product with them, row by row.
    """
    k, _, c_in, c_out = kernel.shape
    taps = np.arange(k) - k // 2
    down = _angles(np.outer(np.arange(grid[0]), taps), grid[0])
    across = _angles(np.outer(np.arange(grid[1] // 2 + 1), taps), grid[1])
    angles = (down[:, None, :, None] + across[None, :, None, :]).reshape(-1, k * k)
    rows = kernel.reshape(k * k, -1)
    if isinstance(kernel, np.ndarray):
        return (np.exp(1j * angles) @ rows).reshape(-1, c_in, c_out)
    real, imaginary = (jnp.asarray(part, kernel.dtype) @ rows for part in (np.cos(angles), np.sin(angles)))
    return lax.complex(real, imaginary).reshape(-1, c_in, c_out)


def grid_conv(x: jax.Array, matrices: jax.Array, grid: Grid, product: Product = jnp.matmul) -> jax.Array:
    """The convolution on the grid of images (N, n, m, C), zero-padded to it and cut back: (N, n, m, C').

    Args:
      matrices: (frequencies, C, C') complex, as `symbols` orders them; rows of channels are multiplied.
      grid: (g, h), at least (n, m); or (1, 1): one matrix, whose real part multiplies each pixel.
      product: of a (…, n) with a matrix (n, m).
    """
    if grid == (1, 1):
        return product(x, matrices[0].real)
    count, height, width, channels = x.shape
    down, across = (jnp.asarray(matrix, x.dtype) for matrix in transforms((height, width), grid))
    points, half = grid[0], grid[1] // 2 + 1
    z = product(x.swapaxes(2, 3), across).reshape(count, height, channels, 2, half)
    z = product(z.transpose(0, 2, 4, 3, 1).reshape(count, channels, half, 2 * height), down)
    z = z.reshape(count, channels, half, 2, points).transpose(4, 2, 3, 0, 1).reshape(points * half, 2 * count, channels)
    by_real, by_imaginary = (jax.vmap(product)(z, part) for part in (matrices.real, matrices.imag))
    real = by_real[:, :count] - by_imaginary[:, count:]
    imaginary = by_imaginary[:, :count] + by_real[:, count:]
    channels = matrices.shape[2]
    z = jnp.stack([real, imaginary], axis=1).reshape(points, half, 2, count, channels)
    z = product(z.transpose(3, 4, 1, 2, 0).reshape(count, channels, half, 2 * points), down.T)
    z = z.reshape(count, channels, half, 2, height).transpose(0, 4, 1, 3, 2)
    return product(z.reshape(count, height, channels, 2 * half), across.T).swapaxes(2, 3)


def block_reflections(symbol: jax.Array, ridge: float) -> jax.Array:
    """I − 2 V (V*V + ε)⁻¹ V* for each V of (…, C, rank) complex, ε = ridge · mean(diag V*V): (…, C, C), Hermitian.

    V (V*V + ε)⁻¹ V* is between 0 and I, so this is a contraction, and a reflection for ε = 0 and V of full rank.
    """
    gram = jnp.matmul(_adjoint(symbol), symbol)
    rank, channels = symbol.shape[-1], symbol.shape[-2]
    mean = jnp.trace(gram, axis1=-2, axis2=-1).real / rank
    epsilon = (ridge * mean + LEAST)[..., None, None] * jnp.eye(rank, dtype=symbol.real.dtype)
    half = _one_by_one(_half_solution, gram + epsilon, _adjoint(symbol))
    return jnp.eye(channels, dtype=symbol.dtype) - 2 * jnp.matmul(_adjoint(half), half)


LEAST = 1e-30  # added to ε, so that the reflections of a kernel of zeros are I


def cayley(symbol: jax.Array) -> jax.Array:
    """(I − A)(I + A)⁻¹ with A = W − W* for each W of (…, C, C) complex: unitary.

    As (I + A)⁻¹ = (I + A*A)⁻¹ (I − A), it is 2 (I + A*A)⁻¹ (I − A) − I, with a Cholesky factorisation.
    """
    skew = symbol - _adjoint(symbol)
    identity = jnp.eye(symbol.shape[-1], dtype=symbol.dtype)
    inverse = _one_by_one(_solution, identity + jnp.matmul(_adjoint(skew), skew), identity - skew)
    return 2 * inverse - identity


def _one_by_one(function, *matrices: jax.Array) -> jax.Array:
    """function(*matrices) of (frequencies, …) each, on CPUs frequency by frequency.

    There a factorisation of a batch waits, within a thread of XLA's pool, for other threads of it: two at once, of two
    layers, wait for ever where there are two threads (jaxlib 0.10).  A single matrix waits for nobody.
    """

    def on_cpu(*matrices):
        return lax.map(lambda of_one: function(*of_one), matrices)

    return lax.platform_dependent(*matrices, cpu=on_cpu, default=function)


def _half_solution(gram: jax.Array, right: jax.Array) -> jax.Array:
    """L⁻¹ B, with G = L L* positive definite."""
    factor = jnp.linalg.cholesky(gram)
    return lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)


def _solution(gram: jax.Array, right: jax.Array) -> jax.Array:
    """G⁻¹ B, with G = L L* positive definite."""
    factor = jnp.linalg.cholesky(gram)
    half = lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)
    return lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True, conjugate_a=True)


def _adjoint(matrix: jax.Array) -> jax.Array:
    return matrix.conj().swapaxes(-1, -2)
