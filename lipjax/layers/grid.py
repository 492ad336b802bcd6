"""What is proven of convolutions on a cyclic grid with a contraction at each frequency (`ops.frequency`).

Zero padding to the grid is an isometry, as is each transform; the matrices are contractions, and cutting back is one:
the layer enlarges no distance.  Where there are few pixels much is cut, and the norm of the whole matrix is proven.

Rounding: each of the five products is one with a matrix M of norm at most 1, summed in blocks of n' products
(`ops.blocked`), which costs γ(n') ‖M‖_F + γ(blocks), as ‖|M|‖ <= ‖M‖_F.  For a transform of n numbers ‖M‖_F² = n, or 2n
where they are complex, and its entries are off by at most CONSTANT units of their largest size.  The matrices are off
by a norm that each layer states; of C channels ‖M‖_F² <= C, and real and imaginary parts are multiplied one by one.
Factorisations and solutions of triangular systems are those of substitution, with sums in any order (Higham, Accuracy
and Stability of Numerical Algorithms, theorems 8.5 and 10.3, section 3.6 for complex numbers).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lipjax.layers import plain
from lipjax.layers.convolution import sides
from lipjax.layers.layer import Proof, Shape, norm_at_zero
from lipjax.layers.rounding import COARSEST, ROUNDOFF, Rounding, enlarged, gamma, underflow
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.blocked import blocks, of_bias, products
from lipjax.ops.dense_bounds import dense_norm_bound
from lipjax.ops.frequency import Grid, transforms

# Units of roundoff by which a computed sine or cosine is off its angle, which is below π, rounded thrice; with the
# scale, and the cast to the dtype of the images.
CONSTANT = 17.0
SMALL = 0.05  # what an error relative to the largest may be, so that its square is of no account
_UNKNOWNS = 512  # H·W·C up to which the norm of the whole matrix is proven
RANGE = (1e-6, 1e6)  # of the largest entry of kernels, for which a rounding is stated


def padded(x: jax.Array, channels: int) -> jax.Array:
    """x (N, H, W, C) zero-padded to so many channels."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


def plain_grid(matrices: jax.Array | np.ndarray, bias, features: int, grid: Grid, shape: Shape) -> plain.Plain:
    """The convolution on the grid with matrices (frequencies, C, C) of images of that shape, and b added."""
    of_pixels = np.asarray(matrices)[:, : shape[2], :features]  # of zero channels nothing is seen, and others are cut
    if grid == (1, 1):
        return [plain.conv(of_pixels[None].real, bias)]
    down, across = transforms(sides(shape), grid)
    layer = {"kind": "frequency_conv", "grid": list(grid), "real": plain.array(of_pixels.real)}
    layer |= {"imaginary": plain.array(of_pixels.imag), "down": down, "across": across}
    return [layer] if bias is None else [layer, plain.affine(1.0, bias)]


def grid_proof(
    kind: str,
    why: str,
    run: Callable[[jax.Array], jax.Array],
    of_matrices: float | None,
    channels: int,
    bias: np.ndarray,
    grid: Grid,
    shape: Shape,
) -> Proof:
    """The proof of a contraction at each frequency of the grid, and b added.

    Args:
      run: the layer without b, of images (N, H, W, C) float64.
      of_matrices: the norm by which its matrices, of so many channels, are off; None: not known.
    """
    size, offset, bound, rounding = sides(shape), norm_at_zero(bias, shape), 1.0, None
    if of_matrices is not None:
        rounding = frequency_rounding(of_matrices, channels, grid, size, offset)
        seen = (1, 1, shape[2]) if grid == (1, 1) else shape
        if math.prod(seen) <= _UNKNOWNS:
            proven = proven_map_norm(run, seen, rounding.relative)
            bound, why = min((bound, why), (proven, "Cholesky factorisation of the Gram matrix of its whole matrix"))
    on = "each pixel by itself" if grid == (1, 1) else f"on a grid of {grid[0]}×{grid[1]}"
    return Proof(f"{kind}, {channels} channels, {on}", bound, why, offset, rounding=rounding)


def proven_map_norm(run, shape: Shape, relative: float) -> float:
    """Of the matrix that `run` is, computed from the images of one entry 1, each column off by `relative` at most."""
    unknowns = math.prod(shape)
    with in_float64():
        rows = np.asarray(run(jnp.eye(unknowns, dtype=jnp.float64).reshape(unknowns, *shape)))
    return dense_norm_bound(rows.reshape(unknowns, -1), 1e-7) + 1.01 * relative * math.sqrt(unknowns)


def frequency_rounding(of_matrices: float, channels: int, grid: Grid, size: tuple[int, int], offset: float) -> Rounding:
    """Each stage of norm at most 1 carries the errors of those before."""
    within, root = gamma(products(channels)), math.sqrt(channels)
    by_matrices = of_matrices + 1.1 * (1.5 * within * root + 2 * gamma(blocks(channels)) + 2 * gamma(1))
    stages = [by_matrices]
    if grid != (1, 1):
        (height, width), (points, half) = size, (grid[0], grid[1] // 2 + 1)
        forth = [_transform(width, width, 1), _transform(2 * height, height, 2)]
        back = [_transform(2 * points, height, 2), _transform(2 * half, width, 1)]
        stages = [*forth, by_matrices, *back]
    relative = 0.0
    for stage in [*stages, gamma(1)]:
        relative += stage * (1 + COARSEST * relative)
    lost = underflow(2 * (grid[0] + size[0]) * (grid[1] + size[1] + 2) * channels, 16 * (sum(grid) + channels))
    return enlarged(relative, gamma(of_bias(channels)) * offset + lost)


def _transform(terms: int, side: int, complex_parts: int) -> float:
    """Of sums of so many terms with a matrix of squared Frobenius norm side · complex_parts."""
    root = math.sqrt(side * complex_parts)
    constants = gamma(CONSTANT) * math.sqrt(2) * root
    return 1.01 * (gamma(products(terms)) * root + gamma(blocks(terms))) + constants


def unit_of(kernel) -> float:
    """The roundoff in which matrices are made of a kernel, in units of that of float64."""
    return 1.0 if np.asarray(kernel).dtype == np.float64 else COARSEST


def is_in_range(kernel) -> bool:
    """Whether nothing that matters underflows or overflows where the matrices are made."""
    largest = float(np.abs(np.asarray(kernel)).max(initial=0.0))
    return RANGE[0] < largest < RANGE[1]


def symbol_error(kernel: np.ndarray) -> float:
    """A bound of what rounding does to a symbol, in Frobenius norm.

    k² products; constants of a sum of two angles; three units for the kernel.
    """
    taps = float(np.sqrt((kernel**2).sum(axis=(2, 3))).sum())
    return math.sqrt(2) * gamma(len(kernel) ** 2 + 2 * CONSTANT + 3) * taps


def least_eigenvalues(grams: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Proven lower bounds of the least eigenvalues of (…, r, r) Hermitian matrices known to be at least `floor` > 0.

    A factorisation of G − s succeeds where λ >= s, but for 8 r units of the trace (and more than that, for G itself).
    """
    side = grams.shape[-1]
    shift = 0.9 * np.maximum(np.linalg.eigvalsh(grams)[..., 0], 0)
    trace = np.trace(grams, axis1=-2, axis2=-1).real
    try:
        np.linalg.cholesky(grams - shift[..., None, None] * np.eye(side))
    except np.linalg.LinAlgError:
        return floor
    return np.maximum(shift - (64 * side + 1024) * ROUNDOFF * trace, floor)
