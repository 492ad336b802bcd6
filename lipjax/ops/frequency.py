"""Convolutions on a cyclic grid, one matrix a frequency, as products with real matrices alone.

The discrete Fourier transform of a grid g × h is a product with a matrix for each axis, so that what rounding does to
it is known (`layers.grid`), and images of n × m pixels, zero-padded to the grid, need only n and m of the rows.  Images
are real, so half the frequencies of the second axis carry everything:

    along the width   x_w → (re, im)_l = (w_l / h)^½ Σ_w x_w (cos, −sin)(2π l w / h),   l = 0 … ⌊h/2⌋,
    along the height  z_y → g^(−½) Σ_y z_y e^(−2π i j y / g),                             j = 0 … g − 1,

w_l = 1 where l = 0 or 2 l = h, else 2.  Both are isometries, and the transforms back are their transposes.
"""

import functools
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

    Pixels, then frequencies come before images and channels, so that every transform is a product from the left of one
    piece of memory, and no axis of images is merged with one before it: each device transforms its own.

    Args:
      matrices: (frequencies, C, C') complex, as `symbols` orders them; rows of channels are multiplied.
      grid: (g, h), at least (n, m); or (1, 1): one matrix, whose real part multiplies each pixel.
      product: of stacks of matrices, one by one.
    """
    if grid == (1, 1):
        return product(x, matrices[0].real)
    (count, height, width, channels), features = x.shape, matrices.shape[2]
    points, half = grid[0], grid[1] // 2 + 1
    down, across = (jnp.asarray(matrix, x.dtype) for matrix in transforms((height, width), grid))
    z = x.transpose(1, 2, 0, 3).reshape(height, width, count * channels)
    z = product(_stack(across.T, height), z).reshape(height, 2, half, count * channels)
    z = z.transpose(2, 1, 0, 3).reshape(half, 2 * height, count * channels)
    z = product(_stack(down.T, half), z).reshape(half, 2, points, count, channels)
    matrices = matrices.reshape(points, half, channels, features).swapaxes(0, 1)
    a, b, c, d = z[:, 0], z[:, 1], matrices.real, matrices.imag
    z = jnp.stack([product(a, c) - product(b, d), product(a, d) + product(b, c)], axis=1)
    z = product(_stack(down, half), z.reshape(half, 2 * points, count * features))
    z = z.reshape(half, 2, height, count * features).transpose(2, 1, 0, 3)
    z = product(_stack(across, height), z.reshape(height, 2 * half, count * features))
    return z.reshape(height, width, count, features).transpose(2, 0, 1, 3)


def _stack(matrix: jax.Array, count: int) -> jax.Array:
    return jnp.broadcast_to(matrix, (count, *matrix.shape))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def block_reflections(symbol: jax.Array, ridge: float) -> jax.Array:
    """Q = I − 2 P, P = V (V*V + ε)⁻¹ V*, for each V of (…, C, rank) complex, ε = ridge · mean(diag V*V).

    (…, C, C), Hermitian; a contraction, as P is between 0 and I, and a reflection for ε = 0 and V of full rank.

    Gradient: with S = (V*V + ε)⁻¹ V*, P = V S,

        δP = (I − P) δV S + its adjoint − S*S δε,   δε = 2 ridge Re tr(V* δV) / rank,

    so that no factorisation is differentiated, and of C × C numbers the result alone is kept: I − P = (I + Q) / 2.
    """
    return _reflections(symbol, ridge)[0]


def _reflections(symbol, ridge):
    """Q = I − 2 P, and (V, Q, L, L⁻¹V*) with LL* = V*V + ε."""
    gram = jnp.matmul(_adjoint(symbol), symbol)
    rank, channels = symbol.shape[-1], symbol.shape[-2]
    mean = jnp.trace(gram, axis1=-2, axis2=-1).real / rank
    epsilon = (ridge * mean + LEAST)[..., None, None] * jnp.eye(rank, dtype=symbol.real.dtype)
    factor, half = _one_by_one(_half_solution, gram + epsilon, _adjoint(symbol))
    result = jnp.eye(channels, dtype=symbol.dtype) - 2 * jnp.matmul(_adjoint(half), half)
    return result, (symbol, result, factor, half)


def _reflections_backward(ridge, kept, cotangent):
    """Re Σ g δQ = Re tr(G δP), G = −(ḡ + gᵀ); so it is (I + Q) G S* for δV, and −tr(G S*S) for δε."""
    symbol, result, factor, half = kept
    solution = _one_by_one(_back_substitution, factor, half)
    by_solution = jnp.matmul(solution, -(cotangent.conj() + cotangent.swapaxes(-1, -2)))
    of_epsilon = -jnp.sum(by_solution * solution.conj(), (-2, -1), keepdims=True).real
    rows = _adjoint(by_solution)
    of_symbol = rows + jnp.matmul(result, rows) + 2 * ridge / symbol.shape[-1] * of_epsilon * symbol
    return (of_symbol.conj(),)


block_reflections.defvjp(_reflections, _reflections_backward)

LEAST = 1e-30  # added to ε, so that the reflections of a kernel of zeros are I


@jax.custom_vjp
def cayley(symbol: jax.Array) -> jax.Array:
    """Q = (I − A)(I + A)⁻¹ with A = W − W* for each W of (…, C, C) complex: unitary.

    As (I + A)⁻¹ = (I + A*A)⁻¹ (I − A), it is 2 (I + A*A)⁻¹ (I − A) − I, with a Cholesky factorisation.

    Gradient: δQ = −½ (I + Q) δA (I + Q).
    """
    skew = symbol - _adjoint(symbol)
    identity = jnp.eye(symbol.shape[-1], dtype=symbol.dtype)
    gram = identity + jnp.matmul(_adjoint(skew), skew)
    return 2 * _one_by_one(lambda *one: _back_substitution(*_half_solution(*one)), gram, identity - skew) - identity


def _cayley_backward(result, cotangent):
    """Re Σ g δQ = Re tr(G* δA), G = −½ (I + Q)* ḡ (I + Q)*, and δA = δW − δW*."""
    around = _adjoint(result + jnp.eye(result.shape[-1], dtype=result.dtype))
    of_skew = -0.5 * jnp.matmul(jnp.matmul(around, cotangent.conj()), around)
    return ((of_skew - _adjoint(of_skew)).conj(),)


cayley.defvjp(lambda symbol: (cayley(symbol),) * 2, _cayley_backward)


def _one_by_one(function, *matrices: jax.Array):
    """function(*matrices) of (frequencies, …) each, on CPUs frequency by frequency.

    There a factorisation of a batch waits, within a thread of XLA's pool, for other threads of it: two at once, of two
    layers, wait for ever where there are two threads (jaxlib 0.10).  A single matrix waits for nobody.
    """

    def on_cpu(*matrices):
        return lax.map(lambda of_one: function(*of_one), matrices)

    return lax.platform_dependent(*matrices, cpu=on_cpu, default=function)


def _half_solution(gram: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(L, L⁻¹ B), with G = L L* positive definite."""
    factor = jnp.linalg.cholesky(gram)
    return factor, lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)


def _back_substitution(factor: jax.Array, right: jax.Array) -> jax.Array:
    """L⁻* B."""
    return lax.linalg.triangular_solve(factor, right, left_side=True, lower=True, transpose_a=True, conjugate_a=True)


def _adjoint(matrix: jax.Array) -> jax.Array:
    return matrix.conj().swapaxes(-1, -2)
